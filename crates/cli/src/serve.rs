//! `farthing serve`: models behind OpenAI's API.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use batches::{Limits, Store};
use clap::{Args, Parser};
use farthing::server::{ModelSource, Server, ServerOptions, api_name};
use farthing::{Access, ApiKeys, ServerLimits, Tls};
use ledger::{Clock, Ledger, Meter, PriceSheet};
use serve::http::api_keys::{KEY_BYTES_MAX, is_key};
use serve::http::client::Proxy;
use serve::http::hosts::{Host, Hosts};
use serve::http::metering::Metering;
use serve::{Batches, Origin};
use tokio::net::TcpListener;

use crate::arguments::{LoadArguments, SamplingArguments};
use crate::logging::{self, Format, Level};
use crate::notify::notify;
use crate::signals;
use crate::terminal::{bytes, several};
use crate::{Failure, Outcome, config, fetch, health_check};

/// Serve models over HTTP: the APIs of OpenAI, DeepSeek, Anthropic and Ollama
///
/// Without MODEL, the small bundled one. The first one answers requests that name none; it is loaded at the start, the others on first use,
/// within --memory. Requests wait in a bounded queue, and those beyond it get 429. A client that disconnects frees
/// the engine at the next token. SIGTERM or ctrl-c shuts the server down: running requests finish, new ones
/// get 503. A second signal ends it at once.
#[derive(Args)]
#[command(allow_negative_numbers = true)]
#[command(after_long_help = "\
Routes:
  POST /v1/chat/completions   a conversation (OpenAI; DeepSeek's without /v1 and under /beta)
  POST /v1/completions        text or token ids to continue; with suffix, fill in the middle
  POST /v1/responses          OpenAI's newer API
  POST /v1/messages           Anthropic's API (also under /anthropic), and /v1/messages/count_tokens
  POST /v1/embeddings, /v1/rerank   of models made for it
  POST /v1/files, /v1/batches, /v1/messages/batches   many requests, answered while nobody else asks
  POST /api/chat, /api/generate, /api/embed; GET /api/tags, /api/ps   and more of Ollama's API
  POST /api/pull, DELETE /api/delete   for administrators: download a model and serve it, delete one
  POST /completion, /infill; GET /props   llama.cpp's API, for editor plugins
  POST /tokenize, /detokenize, /apply-template; GET /tokenizer_info
  GET  /                      the page for browsers; a text for others
  GET  /v1/models             the models
  POST /models/load, /models/unload   for administrators: `farthing load` and `farthing stop`
  GET  /user/balance, /user/key, /user/usage; POST /invitations/redeem   with a ledger
  GET, POST /admin/keys, /admin/accounts, /admin/invitations; GET /admin/usage   for administrators, with a ledger
  GET  /openapi.json          the description of the API
  GET  /health, /ready        liveness and readiness (no key needed)
  GET  /metrics               Prometheus metrics

Examples:
  farthing serve org/name:Q4_K_M --port 8000
  curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Tell me a story.\"}]}'
  python: openai.OpenAI(base_url=\"http://127.0.0.1:8080/v1\", api_key=\"none\")
  farthing serve org/big org/small --memory 200G --idle-unload 600 --host 0.0.0.0 \\
    --tls-cert chain.pem --tls-key key.pem --api-key-file keys

A file for --config has the options by their names: port = 8000, api-key-file = \"keys\",
models = [\"org/big\", \"org/small\"].")]
pub struct Arguments {
    /// Paths, org/name or short names [default: the bundled model]
    #[arg(value_name = "MODEL", add = crate::completions::models())]
    models: Vec<String>,
    /// A model as an option; repeatable
    #[arg(long = "model", short = 'm', value_name = "MODEL", conflicts_with = "models")]
    also: Vec<String>,
    /// Address or host name to listen on; 0.0.0.0 is reachable from other machines
    #[arg(long, default_value = "127.0.0.1", value_parser = address)]
    host: IpAddr,
    /// Port (0 = any free one)
    #[arg(long, short, default_value_t = 8080)]
    port: u16,
    /// Maximum concurrent requests
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    parallel: u16,
    /// Maximum waiting requests; further ones get 429
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=10_000))]
    queue: u16,
    /// Tokens of KV cache in memory, for all requests together [default: a quarter of the free memory, at most 16 contexts]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    cached: Option<u32>,
    /// Size of the prompt cache on disk, such as 20G, or off [default: 10G, at most a quarter of the free space]
    #[arg(long, value_name = "BYTES", value_parser = size_or_off)]
    disk_cache: Option<u64>,
    /// Directory of the prompt cache on disk [default: farthing/units in the user's cache directory]
    #[arg(long, value_name = "DIRECTORY")]
    disk_cache_dir: Option<PathBuf>,
    /// Maximum open connections; idle ones are closed to make room
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    connections: u16,
    /// Timeout in seconds for a request's header, its body, loading a model, and clients that do not read
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u16).range(1..=3600))]
    patience: u16,
    /// Seconds that running requests have to finish during shutdown
    #[arg(long, default_value_t = 600, value_name = "SECONDS", value_parser = clap::value_parser!(u16).range(0..=10_000))]
    drain: u16,
    /// Id of a model in the API, in the order of MODELs, or several ids with commas between [default: MODEL as given, or its file name]
    #[arg(long, alias = "served-model-name", alias = "alias")]
    name: Vec<String>,
    /// Answer whatever model a request names; for a single MODEL
    #[arg(long)]
    any_name: bool,
    /// Memory for all models together, such as 64G [default: what is available at the start]
    #[arg(long, value_name = "BYTES", value_parser = size)]
    memory: Option<u64>,
    /// Unload a model after this many idle seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    idle_unload: Option<u32>,
    /// An accepted API key; repeatable. Other users of this machine can see it on the command line: prefer a file
    #[arg(long, value_name = "KEY", env = "FARTHING_API_KEY", hide_env_values = true)]
    api_key: Vec<String>,
    /// File of accepted API keys, one a line
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Share cached prompts between all keys: faster, but timing tells one client what another asked
    #[arg(long)]
    shared_cache: bool,
    /// File of administrators' keys, one a line: they load and unload models, and see in /metrics which experts were chosen
    #[arg(long, value_name = "FILE")]
    admin_key_file: Option<PathBuf>,
    /// Ledger of keys, budgets and usage: a file, postgres://USER@HOST/DATABASE, or off [default: farthing/ledger.db in the user's state
    /// directory, if it is there]. With a ledger every request needs one of its keys
    #[arg(long, value_name = "ADDRESS", env = "FARTHING_LEDGER", hide_env_values = true)]
    ledger: Option<String>,
    /// Price sheet, TOML: what tokens cost [default: nothing]
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,
    /// Name of this server in a ledger that several write to [default: the machine, --host and --port]
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// Days for which the ledger keeps a row of each request; sums of days stay
    #[arg(long, default_value_t = 90, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    keep_usage: u32,
    /// Directory of files and batches, or off [default: farthing/batches in the user's state directory]. Batches resume when the server starts again
    #[arg(long, value_name = "DIRECTORY")]
    batches: Option<PathBuf>,
    /// Lines of batches that are answered at once, while nobody else asks
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch_lines: u16,
    /// Show /metrics without a key
    #[arg(long)]
    open_metrics: bool,
    /// Show /v1/models without a key: for routers in front of several servers
    #[arg(long)]
    open_models: bool,
    /// Host name that clients use for this server; repeatable (* = any). Names are checked if one is given, and if the server has no
    /// keys and listens on a loopback address; localhost and this machine's own addresses are always allowed
    #[arg(long, value_name = "NAME")]
    allowed_host: Vec<Host>,
    /// Address or network of reverse proxies; repeatable. Their Forwarded or X-Forwarded-For header gives the client's address, by
    /// which limits are shared
    #[arg(long, value_name = "CIDR")]
    trusted_proxy: Vec<Proxy>,
    /// Origin of web pages that may call the API (CORS; * = any); repeatable
    #[arg(long, value_name = "ORIGIN")]
    cors_origin: Vec<Origin>,
    /// Show browsers no page at /; the API stays
    #[arg(long)]
    no_page: bool,
    /// TLS certificate chain, PEM; reloaded on SIGHUP
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate, PEM
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Log format
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    log_format: Format,
    /// Log level [default: info, one line a request; with --quiet warn]
    #[arg(long, value_enum, value_name = "LEVEL")]
    log_level: Option<Level>,
    /// Read options from a TOML file; the command line takes precedence
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the options in effect as such a file, with the derived limits, and exit
    #[arg(long)]
    print_config: bool,
    /// Check whether a running server is ready, and exit
    #[arg(long, value_name = "URL")]
    check: Option<String>,
    #[command(flatten)]
    choose: SamplingArguments,
    #[command(flatten)]
    load: LoadArguments,
}

/// An address, or the first one of a name, of version 4 where there is one: clients try those of both.
fn address(text: &str) -> Result<IpAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    const WANTED: &str = "give an address of this machine, or a name of one";
    let found: Vec<SocketAddr> = (text, 0).to_socket_addrs().map_err(|e| format!("{e}; {WANTED}"))?.collect();
    let chosen = found.iter().find(|a| a.is_ipv4()).or(found.first());
    chosen.map(SocketAddr::ip).ok_or_else(|| format!("it has no address; {WANTED}"))
}

/// Bytes, with K, M, G or T (powers of 1024, with or without iB or B).
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().trim_end_matches('B').trim_end_matches('I') {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err("give bytes, such as 64G".to_string()),
    };
    let suffix = digits.len() < text.len();
    let number: u64 = digits.trim().parse().map_err(|_| "give bytes, such as 64G".to_string())?;
    if !suffix && (1..1 << 20).contains(&number) {
        return Err(format!("that is {number} bytes; did you mean {number}G?"));
    }
    number.checked_mul(1 << shift).filter(|&n| n > 0).ok_or_else(|| "give bytes, such as 64G".to_string())
}

/// Bytes, or `off`.
fn size_or_off(text: &str) -> Result<u64, String> {
    if text == "off" || text == "0" { Ok(0) } else { size(text).map_err(|e| format!("{e}, or off")) }
}

/// The models, fetched first where they are not here.
fn models(a: &Arguments) -> Result<Vec<ModelSource>, Failure> {
    let given = if a.models.is_empty() { &a.also } else { &a.models };
    let asked = given.len().max(1);
    if a.name.len() > asked {
        return Err(Failure::usage(format!(
            "--name was given for {} and there are {asked}: give at most one a model",
            several(a.name.len(), "model")
        )));
    }
    let found = |model: &String| -> Result<ModelSource, Failure> {
        Ok(ModelSource {
            path: Some(fetch::find(model, &a.load.options()?, a.load.quiet)?),
            name: api_name(model),
            aliases: Vec::new(),
        })
    };
    if a.any_name && asked > 1 {
        return Err(Failure::usage(format!("--any-name is for one model, and {asked} were given")));
    }
    let mut all = match &given[..] {
        [] => vec![ModelSource::bundled()],
        models => models.iter().map(found).collect::<Result<_, _>>()?,
    };
    let given: Vec<&str> = a.name.iter().flat_map(|names| names.split(',')).map(str::trim).collect();
    if let Some((_, twice)) = given.iter().enumerate().find(|(i, name)| given[..*i].contains(name)) {
        return Err(Failure::usage(format!("--name: {twice:?} is given twice; each id is for one model, once")));
    }
    for (source, names) in all.iter_mut().zip(&a.name) {
        let mut names = names.split(',').map(|name| name.trim().to_string());
        source.name = names.next().unwrap_or_default();
        source.aliases = names.collect();
        if std::iter::once(&source.name).chain(&source.aliases).any(String::is_empty) {
            return Err(Failure::usage("--name: an id is empty; give NAME, or several with commas between"));
        }
    }
    Ok(all)
}

/// Files and batches. Where no directory was named, one that cannot be used, or that another server has, means none.
fn batches(a: &Arguments, say: &impl Fn(&str)) -> Result<Option<Arc<Batches>>, Failure> {
    let usual = || farthing::xdg("XDG_STATE_HOME", ".local/state").map(|state| state.join("batches"));
    let Some(directory) = a.batches.clone().or_else(usual).filter(|named| named.as_os_str() != "off") else {
        return Ok(None);
    };
    match Store::open(&directory, Limits::default()) {
        Ok(store) => Ok(Some(Batches::new(store, usize::from(a.batch_lines)))),
        Err(e) if a.batches.is_some() => Err(Failure::failed(format!("--batches {e}"))),
        Err(e) => {
            say(&format!("batches: off, {e} (--batches)"));
            Ok(None)
        }
    }
}

fn options(
    a: &Arguments,
    access: Access,
    tls: Option<Arc<Tls>>,
    batches: Option<Arc<Batches>>,
) -> Result<ServerOptions, Failure> {
    let seconds = |n: u16| Duration::from_secs(u64::from(n));
    let choose = a.choose.clone();
    Ok(ServerOptions {
        load: farthing::LoadOptions { cached: a.cached.map(|n| n as usize), ..a.load.options()? },
        sampling: Arc::new(move |advised| choose.over(advised)),
        parallel: usize::from(a.parallel),
        queue: usize::from(a.queue),
        disk_cache_dir: a.disk_cache_dir.clone(),
        disk_cache_bytes: a.disk_cache,
        any_name: a.any_name,
        memory: a.memory,
        idle_unload: a.idle_unload.map(|unused| Duration::from_secs(u64::from(unused))),
        limits: ServerLimits {
            connections: usize::from(a.connections),
            patience: seconds(a.patience),
            drain: seconds(a.drain),
            ..ServerLimits::default()
        },
        access,
        batches,
        tls,
        ..ServerOptions::new(models(a)?)
    })
}

/// Keys in a file, one a line; a line that begins with # is a comment.
fn keys_in(option: &str, path: Option<&PathBuf>) -> Result<Vec<String>, Failure> {
    let Some(path) = path else { return Ok(Vec::new()) };
    let failed = |why: String| Failure::failed(format!("{option} {why}"));
    let text = model::tensors::read_bounded(path, 8 << 20).map_err(|e| failed(e.to_string()))?;
    let text = String::from_utf8(text).map_err(|_| failed(format!("{}: not text", path.display())))?;
    let lines = text.lines().map(str::trim).enumerate();
    let keys: Vec<(usize, &str)> = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).collect();
    if keys.is_empty() {
        return Err(failed(format!("{}: no key in it; put one a line", path.display())));
    }
    if let Some((line, _)) = keys.iter().find(|(_, key)| !is_key(key)) {
        return Err(failed(format!(
            "{}, line {}: a key has 1 to {KEY_BYTES_MAX} visible ASCII characters and no spaces",
            path.display(),
            line + 1
        )));
    }
    Ok(keys.into_iter().map(|(_, key)| key.to_string()).collect())
}

/// The ledger that is to be used: beside one, also beside the one that is there by default, keys on the command line would be no use.
fn ledger_address(a: &Arguments) -> Result<Option<String>, Failure> {
    let keys = !a.api_key.is_empty() || a.api_key_file.is_some();
    match a.ledger.as_deref() {
        Some("off") => Ok(None),
        Some(_) if keys => Err(Failure::usage(
            "--ledger has keys of its own; leave out --api-key and --api-key-file, or give --ledger off",
        )),
        Some(address) => Ok(Some(address.to_string())),
        None => match crate::ledger::default_address().filter(|file| Path::new(file).exists()) {
            Some(file) if keys => Err(Failure::usage(format!(
                "there is a ledger, {file}, which has keys of its own; leave out --api-key and --api-key-file (FARTHING_API_KEY), or give --ledger off"
            ))),
            found => Ok(found),
        },
    }
}

/// Opens the ledger and begins to meter.
async fn metering(
    a: &Arguments,
    address: Option<String>,
    say: &impl Fn(&str),
) -> Result<Option<Arc<Metering>>, Failure> {
    let Some(address) = address else {
        if a.prices.is_some() && !a.print_config {
            return Err(Failure::usage(
                "--prices are for a ledger, and there is none; `farthing keys create NAME` creates one",
            ));
        }
        return Ok(None);
    };
    let prices =
        a.prices.as_deref().map(PriceSheet::read).transpose().map_err(|e| Failure::failed(format!("--prices {e}")))?;
    let currency = prices.as_ref().map_or("USD", |sheet| &sheet.currency);
    let opened = Ledger::open_existing(&address, currency, Clock::default()).await;
    let ledger = opened.map_err(|e| Failure::failed(format!("--ledger: {e}")))?;
    if let Some(sheet) = prices.as_ref().filter(|sheet| sheet.currency != ledger.currency()) {
        return Err(Failure::failed(format!(
            "--prices are in {}, and the ledger is in {}; give a sheet in that currency",
            sheet.currency,
            ledger.currency()
        )));
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let port = if a.port == 0 { format!("process {}", std::process::id()) } else { a.port.to_string() };
    let name = a.server_name.clone().unwrap_or_else(|| format!("{host}:{}:{port}", a.host));
    let meter =
        Meter::start(&ledger, &name, a.keep_usage).await.map_err(|e| Failure::failed(format!("--ledger: {e}")))?;
    let keys = ledger.has_keys().await.map_err(|e| Failure::failed(format!("--ledger: {e}")))?;
    // Of a database its address may hold a password.
    let place = if address.contains("://") { "a database" } else { &address };
    say(&format!(
        "ledger: {place}, in {}; every request needs one of its keys; this server is {name:?} there",
        ledger.currency()
    ));
    if meter.took_over() {
        say(&format!(
            "warning: a server {name:?} was there a moment ago; if it was not killed, it serves no longer: give each a --server-name of its own"
        ));
    }
    if !keys {
        say("warning: the ledger has no key, and nobody can use the server; `farthing keys create NAME` creates one");
    }
    Ok(Some(Arc::new(Metering::new(ledger, meter, prices, a.shared_cache))))
}

fn access(a: &Arguments, metering: Option<Arc<Metering>>) -> Result<Access, Failure> {
    let mut keys = a.api_key.clone();
    keys.extend(keys_in("--api-key-file", a.api_key_file.as_ref())?);
    if a.cors_origin.len() > 1 && a.cors_origin.contains(&Origin::any()) {
        return Err(Failure::usage("--cors-origin * is any origin; give it alone"));
    }
    let local_only = a.host.is_loopback() && keys.is_empty() && metering.is_none();
    Ok(Access {
        keys: ApiKeys::new(&keys, a.shared_cache).map_err(Failure::usage)?,
        admin_keys: ApiKeys::new(&keys_in("--admin-key-file", a.admin_key_file.as_ref())?, false)
            .map_err(Failure::usage)?,
        metering,
        hosts: Hosts::new(&a.allowed_host, local_only),
        proxies: a.trusted_proxy.clone(),
        open_metrics: a.open_metrics,
        open_models: a.open_models,
        origins: a.cors_origin.clone(),
        page: !a.no_page,
    })
}

fn tls(a: &Arguments) -> Result<Option<Arc<Tls>>, Failure> {
    match (&a.tls_cert, &a.tls_key) {
        (Some(cert), Some(key)) => Ok(Some(Arc::new(Tls::read(cert, key)?))),
        (None, None) => Ok(None),
        _ => Err(Failure::usage("--tls-cert and --tls-key belong together; give both")),
    }
}

impl Arguments {
    /// Whether stderr is for programs, as far as the command line says.
    pub fn logs_json(&self) -> bool {
        self.log_format == Format::Json
    }
}

/// Arguments, with those of the file that `--config` names.
fn merged(path: &Path) -> Result<(Arguments, Vec<OsString>), Failure> {
    let argv: Vec<OsString> = std::env::args_os().collect();
    let argv = config::with_file(path, &argv)?;
    let parsed = crate::Arguments::try_parse_from(&argv)
        .map_err(|e| Failure::usage(format!("{}: {}", path.display(), Failure::arguments(&e).0)))?;
    match parsed.command {
        crate::Command::Serve(arguments) => Ok((*arguments, argv)),
        _ => Err(Failure::usage(format!("{}: only `serve` reads it", path.display()))),
    }
}

pub fn run(a: Arguments) -> Outcome {
    if let Some(url) = &a.check {
        return health_check::check(url);
    }
    let (a, argv) = match &a.config {
        Some(path) => merged(path)?,
        None => (a, std::env::args_os().collect()),
    };
    if a.logs_json() {
        crate::terminal::json_only();
    }
    let usual = if a.load.quiet { Level::Warn } else { Level::Info };
    logging::start(a.log_format, a.log_level.unwrap_or(usual));
    a.choose.check()?;
    let json = a.log_format == Format::Json;
    let say =
        move |text: &str| if json { tracing::info!(target: "farthing", "{text}") } else { crate::terminal::say(text) };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let tls = tls(&a)?;
    // A configuration is printed without a ledger being made.
    let ledger = if a.print_config { None } else { ledger_address(&a)? };
    // The address first: a second server that cannot have it must not take over the first one's name in the ledger.
    let early = if ledger.is_some() { Some(runtime.block_on(bind(&a))?) } else { None };
    let note = |text: &str| {
        if !a.load.quiet {
            say(text)
        }
    };
    if let (Some(given), Some(all)) = (a.memory, crate::doctor::memory_total())
        && given > all
    {
        note(&format!("warning: --memory is {}, and this machine has {}", bytes(given), bytes(all)));
    }
    let metering = runtime.block_on(metering(&a, ledger, &note))?;
    let batches = if a.print_config { None } else { batches(&a, &note)? };
    let access = access(&a, metering.clone())?;
    let open = !a.host.is_loopback() && access.keys.is_empty() && metering.is_none();
    let server = Server::plan(options(&a, access, tls.clone(), batches)?)?;
    if a.print_config {
        let lines: Vec<String> = server.describe().iter().map(|line| format!("# {line}\n")).collect();
        return crate::terminal::put(&format!("{}{}", config::printed(&argv)?, lines.concat()));
    }
    if !a.load.quiet {
        server.describe().iter().for_each(|line| say(line));
    }
    if let Some(metering) = &metering {
        for model in metering.unpriced(&server.names()) {
            say(&format!(
                "warning: --prices have no price for {model}, and it is free; name = \"*\" prices any other model"
            ));
        }
    }
    let outcome = runtime.block_on(async {
        let listener = match early {
            Some(listener) => listener,
            None => bind(&a).await?,
        };
        let outcome = serve(&a, server, listener, tls, open, say).await;
        if let Some(metering) = metering {
            metering.end().await;
        }
        outcome
    });
    // Background work is not waited for.
    runtime.shutdown_background();
    outcome
}

async fn bind(a: &Arguments) -> Result<TcpListener, Failure> {
    let address = SocketAddr::new(a.host, a.port);
    TcpListener::bind(address).await.map_err(|e| match e.kind() {
        ErrorKind::AddrInUse => Failure::failed(format!("{address} is in use; give another --port (0 = any)")),
        _ => Failure::failed(format!("{address}: {e}; give another --host or --port")),
    })
}

/// Serves until a signal. `open`: others reach the server, and it has no keys.
async fn serve(
    a: &Arguments,
    server: Server,
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    open: bool,
    say: impl Fn(&str),
) -> Outcome {
    let listening = listener.local_addr()?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let end = signals::until_told(tls, Duration::from_secs(u64::from(a.drain)))?;
    let names = server.names().join(", ");
    let ready = || {
        say(&format!("serving {names} at {scheme}://{listening}/v1 (ctrl-c ends it)"));
        if open {
            say(&format!("warning: there are no keys; whoever reaches {listening} can use it"));
        } else if !a.host.is_loopback() && scheme == "http" {
            say("warning: there is no TLS; keys and texts can be read on their way");
        }
        notify("READY=1");
    };
    Ok(server.run(listener, end, ready).await?)
}
