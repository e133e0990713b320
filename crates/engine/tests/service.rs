//! Requests through a service: order, bounds, cancelling, faults; and weights that change or are no numbers.

mod submitting;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use farthing_engine::*;
use kernels::Pool;
use model::{CacheFormat, Checkpoint, Transformer};
use submitting::{ids, submit};

fn bundled() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/seed-5.7m")
}

fn runner(path: &Path, context: usize) -> Runner {
    let checkpoint = Checkpoint::open(path).unwrap();
    let weights = checkpoint.weights().unwrap();
    let limits = Limits { context, cached: context };
    Runner::new(Transformer::new(checkpoint.structure, weights), Pool::new(1), CacheFormat::F32, limits)
}

fn request(tokens_max: usize) -> Request {
    // The end is never chosen, so that as many tokens come as are asked for.
    let sampling = Sampling { logit_bias: vec![(1, -1000.0)], ..Sampling::default() };
    Request { prompt: vec![0, 655, 561, 267, 468], sampling, tokens_max, ..Request::default() }
}

#[test]
fn requests_run_in_order_and_the_queue_is_bounded() {
    let service = Engine::start(runner(&bundled(), 512), Settings { waiting: 2, running: 1, ..Settings::default() });
    let (first, events) = submit(&service, request(400));
    // It runs once its first event is there.
    assert!(matches!(events.recv().unwrap(), Event::Started { .. }));
    let (second, seconds) = submit(&service, request(3));
    let (third, thirds) = submit(&service, Request { log_probabilities: Some(2), ..request(2) });
    let refused = service.submit(request(1), |_| ControlFlow::Continue(()));
    assert_eq!(refused.err(), Some(SubmitError::Busy { waiting: 2 }));
    assert_eq!(service.load(), (1, 2));
    // A place is free again when one that waits goes.
    drop(second);
    assert_eq!(service.load().1, 1);
    assert!(seconds.iter().next().is_none(), "cancelled before it began: nothing comes");
    drop(first);
    let rest: Vec<Event> = events.iter().collect();
    assert!(matches!(rest.last(), Some(Event::End { finish: Finish::Cancelled, .. })) && ids(&rest).len() < 400);
    let all: Vec<Event> = thirds.iter().collect();
    assert_eq!(ids(&all).len(), 2);
    let Event::Token { log_probabilities: Some((chosen, top)), id } = &all[2] else { panic!("{all:?}") };
    assert!(top.len() == 2 && top[0] == (*id, *chosen));
    assert!(matches!(all.last(), Some(Event::End { finish: Finish::Length, timing }) if timing.generated == 2));
    drop(third);
    assert_eq!(service.statistics().pages_available, 8);
}

#[test]
fn a_full_queue_has_a_place_for_who_has_fewer_in_it() {
    let service = Engine::start(runner(&bundled(), 512), Settings { waiting: 2, running: 1, ..Settings::default() });
    let of = |account, tokens_max| Request { account, ..request(tokens_max) };
    let (first, events) = submit(&service, of(1, 400));
    assert!(matches!(events.recv().unwrap(), Event::Started { .. }));
    let (_second, seconds) = submit(&service, of(1, 3));
    let (_third, thirds) = submit(&service, of(1, 3));
    assert!(service.submit(of(1, 3), |_| ControlFlow::Continue(())).is_err());
    let (_other, others) = submit(&service, of(2, 3));
    assert_eq!(thirds.iter().collect::<Vec<_>>(), [Event::Failed(EngineError::Displaced)]);
    drop(first);
    for events in [seconds, others] {
        assert_eq!(ids(&events.iter().collect::<Vec<_>>()).len(), 3);
    }
    assert_eq!(service.load(), (0, 0));
}

#[test]
fn prompts_that_cannot_be_are_refused_before_they_wait() {
    let service = Engine::start(runner(&bundled(), 64), Settings::default());
    let refused = |prompt: Vec<u32>| {
        service.submit(Request { prompt, ..request(1) }, |_| ControlFlow::Continue(())).err().unwrap()
    };
    assert_eq!(refused(vec![]), SubmitError::Prompt(EngineError::Empty));
    assert_eq!(refused(vec![2048]), SubmitError::Prompt(EngineError::Vocabulary { token: 2048, vocab: 2048 }));
    assert!(refused(vec![5; 70]).to_string().contains("6 more than the context of 64"));
}

#[test]
fn what_was_taken_is_finished_when_the_engine_ends() {
    let service = Engine::start(runner(&bundled(), 256), Settings::default());
    let taken: Vec<_> = (0..3).map(|_| submit(&service, request(20))).collect();
    service.end();
    let refused = service.submit(request(1), |_| ControlFlow::Continue(()));
    assert_eq!(refused.err(), Some(SubmitError::Ending));
    drop(service);
    let texts: Vec<_> = taken.iter().map(|(_, events)| ids(&events.iter().collect::<Vec<_>>())).collect();
    assert!(texts[0].len() == 20 && texts.iter().all(|t| *t == texts[0]));
}

#[test]
fn a_sink_that_panics_or_stops_harms_nobody_else() {
    let service = Engine::start(runner(&bundled(), 256), Settings::default());
    let (sender, receiver) = channel();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let _panics = service.submit(request(5), move |event| {
        let failed = matches!(event, Event::Failed(EngineError::Fault(_)));
        let _ = sender.send(event);
        if failed { ControlFlow::Continue(()) } else { panic!("on purpose") }
    });
    let last = receiver.iter().last();
    std::panic::set_hook(hook);
    assert!(matches!(last, Some(Event::Failed(EngineError::Fault(said))) if said == "on purpose"));
    let (sender, receiver) = channel();
    let mut seen = 0;
    let _stops = service.submit(request(50), move |event| {
        seen += 1;
        let _ = sender.send(event);
        if seen == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let events: Vec<Event> = receiver.iter().collect();
    assert_eq!(ids(&events).len(), 3);
    assert!(matches!(events.last(), Some(Event::End { finish: Finish::Cancelled, .. })));
    let started = Instant::now();
    let (_ticket, events) = submit(&service, request(5));
    assert_eq!(ids(&events.iter().collect::<Vec<_>>()).len(), 5);
    assert!(started.elapsed() < Duration::from_secs(60));
    assert_eq!(service.statistics().pages_available, 4);
}

fn copy(name: &str) -> PathBuf {
    let to = std::env::temp_dir().join(format!("farthing-service-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&to).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(bundled().join(file), to.join(file)).unwrap();
    }
    to
}

#[test]
fn weights_that_change_while_they_are_used_are_noticed() {
    let directory = copy("changes");
    let file = directory.join("model.safetensors");
    let mut runner = runner(&directory, 256);
    let mut at = Positions::new(0, 256);
    runner.read(&mut at, &[0, 655]).unwrap();
    assert!(runner.decode(&mut [(&mut at, 42)]).is_ok());
    // The file is cut in the middle of a run: an error, not a signal and not another text.
    std::fs::File::options().write(true).open(&file).unwrap().set_len(20_000).unwrap();
    let error = runner.decode(&mut [(&mut at, 42)]).unwrap_err();
    assert!(matches!(&error, EngineError::Changed { file } if file.contains("model.safetensors")), "{error}");
    // And before anything is read; a request through an engine hears it too.
    let error = runner.read(&mut at, &[0]).unwrap_err();
    assert!(matches!(error, EngineError::Changed { .. }));
    let (_handle, events) = Engine::start(runner, Settings::default()).generate(request(50)).unwrap();
    let last = events.iter().last();
    assert!(matches!(&last, Some(Event::Failed(EngineError::Changed { .. }))), "{last:?}");
    let _ = std::fs::remove_dir_all(directory);
}

#[test]
fn weights_that_are_no_numbers_are_an_error() {
    let directory = copy("nan");
    let file = directory.join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let text = String::from_utf8(bytes[8..8 + header].to_vec()).unwrap();
    let places = text.split("\"model.layers.2.self_attn.o_proj.weight\":").nth(1).expect("the tensor is there");
    let from = places.split("\"data_offsets\":[").nth(1).unwrap().split(',').next().unwrap();
    let at = 8 + header + from.parse::<usize>().unwrap();
    bytes[at..at + 4].copy_from_slice(&[0xff; 4]);
    std::fs::write(&file, bytes).unwrap();
    let error = runner(&directory, 256).read(&mut Positions::new(0, 256), &[0, 655]).unwrap_err();
    assert!(matches!(error, EngineError::NotFinite { .. }) && error.to_string().contains("--check"), "{error}");
    let _ = std::fs::remove_dir_all(directory);
}

/// Whose end is a panic, where nothing guards the engine's thread.
struct Planted;

impl EventSink for Planted {
    fn take(&mut self, _: Event) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        panic!("planted")
    }
}

#[test]
fn a_panic_of_the_engine_ends_every_request_with_an_error() {
    let (sender, told) = channel();
    let fault: Option<Box<dyn Fn(&str) + Send>> = Some(Box::new(move |said| sender.send(said.to_string()).unwrap()));
    let settings = Settings { running: 2, fault, ..Settings::default() };
    let service = Engine::start(runner(&bundled(), 512), settings);
    assert_eq!(service.fault(), None);
    let (runs, running) = submit(&service, request(500));
    assert!(matches!(running.recv().unwrap(), Event::Started { .. }));
    let planted = service.submit(request(3), Planted).unwrap();
    let (waits, waiting) = submit(&service, request(500));
    for events in [running, waiting] {
        let last = events.iter().last();
        assert!(matches!(&last, Some(Event::Failed(EngineError::Fault(said))) if said == "planted"), "{last:?}");
    }
    assert_eq!(told.recv_timeout(Duration::from_secs(60)).as_deref(), Ok("planted"));
    let refused = service.submit(request(1), |_| ControlFlow::Continue(())).unwrap_err();
    assert_eq!(refused, SubmitError::Stopped("planted".to_string()));
    drop((runs, planted, waits));
    assert_eq!(service.fault().as_deref(), Some("planted"));
    drop(service);
}
