//! `farthing serve`: a model behind OpenAI's API.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use engine::service::{Service, Settings};
use serve::{Bounds, Served, State};

use crate::loading::{Choose, Load, bundled, load};
use crate::{Failure, Outcome, pulling};

/// Serve a model over HTTP, for OpenAI's clients
///
/// Without MODEL, the small bundled one. One request runs at a time; others wait in a bounded queue, and those beyond it get 429.
/// A client that leaves frees the engine at the next token. SIGTERM or ctrl-c ends the server when the requests it has taken are
/// done; a second one ends it at once.
#[derive(Args)]
#[command(after_long_help = "\
Routes:
  POST /v1/chat/completions   messages to an answer, streamed or not
  POST /v1/completions        a text or token ids to their continuation
  GET  /v1/models             what is served
  GET  /health, /ready        the process lives; the model is loaded

Examples:
  farthing serve org/name:Q4_K_M --port 8000
  curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Tell me a story.\"}]}'
  python: openai.OpenAI(base_url=\"http://127.0.0.1:8080/v1\", api_key=\"none\")

There are no keys and no TLS yet: put a proxy before it where others can reach it.")]
pub struct Arguments {
    /// Path, org/name or the short name of a pulled model [default: the bundled model]
    model: Option<String>,
    /// Address to listen on; 0.0.0.0 is reachable from other machines
    #[arg(long, default_value = "127.0.0.1")]
    host: std::net::IpAddr,
    /// Port (0 = any that is free)
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Requests that wait while one runs
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=10_000))]
    queue: u16,
    /// Open connections at most
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    connections: u16,
    /// Seconds for a request's head, its body, and for a client to take what was written
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u16).range(1..=3600))]
    patience: u16,
    /// Id of the model in the API [default: MODEL as given, or its file name]
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    choose: Choose,
    #[command(flatten)]
    load: Load,
}

/// The id of a model in the API: its name at the hub, or the last part of its path.
fn api_name(model: Option<&str>) -> String {
    let Some(model) = model else { return "seed-5.7m".to_string() };
    let path = std::path::Path::new(model);
    if !path.exists() {
        return model.to_string();
    }
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    whole.file_name().map_or_else(|| model.to_string(), |name| name.to_string_lossy().into_owned())
}

pub fn run(a: Arguments) -> Outcome {
    let name = a.name.unwrap_or_else(|| api_name(a.model.as_deref()));
    let path = match &a.model {
        Some(model) => pulling::find(model, &a.load)?,
        None => bundled()?,
    };
    let address = SocketAddr::new(a.host, a.port);
    let quiet = a.load.quiet;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind(address)).map_err(|e| match e.kind() {
        std::io::ErrorKind::AddrInUse => Failure(format!("{address} is in use; give another --port (0 = any)")),
        _ => Failure(format!("{address}: {e}; give another --host or --port")),
    })?;
    let bounds = Bounds {
        connections: usize::from(a.connections),
        patience: std::time::Duration::from_secs(u64::from(a.patience)),
        ..Bounds::default()
    };
    let state = State::new(bounds, move |line| {
        if !quiet {
            eprintln!("{line}");
        }
    });
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let end = std::sync::Mutex::new(Some(end));
    ctrlc::set_handler(move || match end.lock().unwrap_or_else(|e| e.into_inner()).take() {
        Some(end) => {
            eprintln!("ending: what was taken is finished first (again ends it at once)");
            let _ = end.send(());
        }
        None => std::process::exit(130),
    })?;
    let listening = listener.local_addr()?;
    let server = runtime.spawn(serve::listen(listener, Arc::clone(&state), async {
        let _ = ended.await;
    }));
    let m = load(&path, &a.load)?;
    let defaults = a.choose.sampling(&m.generation, m.engine.model().structure.vocab)?;
    state.ready(Served {
        name: name.clone(),
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        service: Service::start(m.engine, Settings { waiting: usize::from(a.queue), ..Settings::default() }),
        tokenizer: Arc::new(m.tokenizer),
        template: m.template,
        bos: m.bos,
        eos: m.eos,
        defaults,
        stops: m.stops,
    });
    eprintln!("serving {name} at http://{listening}/v1 (ctrl-c ends it)");
    if !a.host.is_loopback() {
        eprintln!("warning: there are no keys; whoever reaches {listening} can use it");
    }
    let finished = runtime.block_on(server)?;
    if !finished {
        return Err(Failure("some requests were not done in time and were left".to_string()));
    }
    Ok(())
}
