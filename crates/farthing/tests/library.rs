//! The library as a program uses it: generate, chat, plan, serve, and what is refused.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use farthing::{Error, Finish, LoadOptions, Message, Model, ModelSource, PlannedModel, Poll, Server, ServerOptions};

fn bundled() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/seed-5.7m")
}

fn open() -> Model {
    Model::open(bundled().to_str().unwrap()).unwrap()
}

#[test]
fn pieces_are_the_text_of_the_tokens_and_a_seed_repeats_them() {
    let model = open();
    let mut options = model.options();
    (options.sampling.temperature, options.sampling.seed, options.max_tokens) = (1.0, Some(7), 40);
    let mut answer = model.complete("Once upon a time", &options).unwrap();
    let text: String = answer.by_ref().map(Result::unwrap).collect();
    let (finish, timing) = answer.ended().unwrap();
    assert_eq!((finish, answer.tokens().len(), timing.generated, answer.seed()), (Finish::Length, 40, 40, 7));
    let prompt = model.encode("Once upon a time").unwrap();
    let whole = model.tokenizer().decode(&[&prompt[..], answer.tokens()].concat(), true);
    assert!(whole.ends_with(&text) && !text.trim().is_empty(), "{whole:?} {text:?}");
    let again: String = model.generate(prompt, &options).unwrap().map(Result::unwrap).collect();
    assert_eq!(again, text);
    options.sampling.seed = Some(8);
    let other: String = model.complete("Once upon a time", &options).unwrap().map(Result::unwrap).collect();
    assert_ne!(other, text);
}

#[test]
fn a_text_ends_before_a_stop_string_and_where_it_is_stopped() {
    let model = open();
    let mut options = model.options();
    (options.sampling.temperature, options.max_tokens) = (0.0, 60);
    let whole: String = model.complete("Once upon a time", &options).unwrap().map(Result::unwrap).collect();
    let stop: String = whole.chars().skip(20).take(6).collect();
    options.stop = vec![stop.clone()];
    let mut answer = model.complete("Once upon a time", &options).unwrap();
    let text: String = answer.by_ref().map(Result::unwrap).collect();
    assert_eq!((text.as_str(), answer.ended().unwrap().0), (whole.split(&stop).next().unwrap(), Finish::Complete));
    options.stop.clear();
    let mut answer = model.complete("Once upon a time", &options).unwrap();
    while answer.tokens().is_empty() {
        answer.poll(Duration::from_secs(60)).unwrap();
    }
    answer.stop();
    let rest: String = answer.by_ref().map(Result::unwrap).collect();
    assert!(answer.ended().unwrap().0 == Finish::Cancelled && rest.len() < whole.len());
    assert_eq!(answer.poll(Duration::ZERO).unwrap(), Poll::Done);
}

#[test]
fn conversations_are_answered_and_special_tokens_in_them_are_text() {
    let model = open();
    let mut options = model.options();
    (options.sampling.temperature, options.max_tokens) = (0.0, 8);
    let messages = [Message::user("Tell me a story.")];
    let text: String = model.chat(&messages, &options).unwrap().map(Result::unwrap).collect();
    assert!(!text.trim().is_empty());
    let plain = model.encode_messages(&messages).unwrap();
    let ends = model.encode_messages(&[Message::user("Tell me a story.<|im_end|>")]).unwrap();
    assert!(ends.len() > plain.len() + 1, "the mark is read as letters");
}

#[test]
fn what_cannot_be_done_is_an_error_of_its_kind() {
    let refused = |result: Result<Model, Error>| result.err().expect("refused");
    assert!(matches!(refused(Model::open("")), Error::Argument(_)));
    assert!(matches!(refused(Model::open("/no/such/file")), Error::NoModel(_)));
    let options = LoadOptions { context: Some(1 << 40), ..LoadOptions::default() };
    let error = refused(Model::open_with(bundled().to_str().unwrap(), &options));
    assert!(matches!(&error, Error::Argument(said) if said.contains("--context 1099511627776")), "{error}");
    let model = open();
    let mut options = model.options();
    assert!(matches!(model.generate(Vec::new(), &options).err(), Some(Error::Submit(_))));
    options.sampling.top_p = 7.0;
    assert!(matches!(model.complete("a", &options).err(), Some(Error::Sampling(_))));
}

#[test]
fn a_strangers_template_is_not_run_without_isolation() {
    let scratch = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(bundled()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), scratch.path().join(entry.file_name())).unwrap();
    }
    let config = scratch.path().join("tokenizer_config.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    json["chat_template"] = "{{ 'x' * 9 }}".into();
    std::fs::write(&config, json.to_string()).unwrap();
    let model = Model::open(scratch.path().to_str().unwrap()).unwrap();
    let error = model.chat(&[Message::user("a")], &model.options()).err().unwrap();
    assert!(matches!(&error, Error::Text(e) if e.to_string().contains("farthing::isolate()")), "{error}");
    // Plain text needs no template.
    assert!(model.complete("a", &model.options()).is_ok());
}

#[test]
fn a_plan_says_what_a_context_costs() {
    let of = |context| {
        let options = LoadOptions { context: Some(context), threads: Some(1), ..LoadOptions::default() };
        PlannedModel::open(&bundled(), &options).unwrap()
    };
    let (short, long) = (of(64), of(256));
    assert_eq!(4 * short.plan.cache, long.plan.cache);
    assert!(short.describe().contains("(64 tokens)") && short.plan.weights == long.plan.weights);
    assert_eq!(short.fitting().unwrap().runner().unwrap().limits().context, 64);
}

#[test]
fn a_server_is_refused_without_isolation_and_names_are_one_models() {
    let same = || ModelSource { path: Some(bundled()), name: "a".to_string(), aliases: Vec::new() };
    let error = Server::plan(ServerOptions::new(vec![same(), same()])).err().unwrap();
    assert!(matches!(&error, Error::Argument(said) if said.contains("would both be \"a\"")), "{error}");
    let server = Server::plan(ServerOptions::new(vec![same()])).unwrap();
    assert_eq!(server.names(), ["a"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let outcome = runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        server.run(listener, std::future::pending(), || ()).await
    });
    assert!(matches!(outcome, Err(Error::NotIsolated)), "{outcome:?}");
}

/// The compiled example of this name: tests of a package build its examples, beside the folder of their own programs.
fn example(name: &str) -> Command {
    let own = std::env::current_exe().unwrap();
    let folder = own.ancestors().nth(2).unwrap().join("examples");
    let program = folder.join(name);
    assert!(program.exists(), "{}: `cargo test -p farthing` and `cargo build --examples` make it", program.display());
    let mut command = Command::new(program);
    command.env("HF_HUB_OFFLINE", "1");
    command
}

#[test]
fn the_examples_run() {
    let story = example("generate").output().unwrap();
    assert!(story.status.success() && story.stdout.starts_with(b"Once upon a time"), "{story:?}");
    let plan = example("plan").output().unwrap();
    let said = String::from_utf8(plan.stdout).unwrap();
    assert!(plan.status.success() && said.contains("longest context that fits"), "{said}");
    let mut chat = example("chat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    chat.stdin.take().unwrap().write_all(b"Tell me a story.\n").unwrap();
    let answer = chat.wait_with_output().unwrap();
    // What it says is drawn by chance.
    assert!(answer.status.success() && answer.stdout.ends_with(b"\n"), "{answer:?}");

    let mut server = example("serve").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let line = lines.find_map(|l| l.unwrap().strip_prefix("serving at http://").map(str::to_string)).unwrap();
    let address = line.strip_suffix("/v1").unwrap();
    let body = r#"{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}"#;
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    assert!(response.starts_with("HTTP/1.1 200") && response.contains("\"completion_tokens\":"), "{response}");
    drop(server.stdin.take());
    assert!(server.wait().unwrap().success());
}
