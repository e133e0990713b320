//! The engine with the bundled model: greedy text equals the reference, a seed repeats itself, ended requests return their pages; and the
//! runner: sequences that are computed together are as alone.

mod submitting;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::channel;

use farthing_engine::*;
use kernels::Pool;
use model::{Batch, CacheFormat, Checkpoint, Span, Transformer, Wanted};
use submitting::{all, alone, ids, submit};

fn runner(context: usize) -> Runner {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/seed-5.7m");
    let checkpoint = Checkpoint::open(&path).unwrap();
    let weights = checkpoint.weights().unwrap();
    let limits = Limits { context, cached: context };
    Runner::new(Transformer::new(checkpoint.structure, weights), Pool::new(2), CacheFormat::F32, limits)
}

fn engine(context: usize) -> Engine {
    Engine::start(runner(context), Settings::default())
}

fn generate(engine: &Engine, prompt: &[u32], sampling: Sampling, n: usize) -> (Vec<u32>, Finish) {
    let (prompt, log_probabilities) = (prompt.to_vec(), Some(2));
    let request = Request { prompt, sampling, stops: vec![1], tokens_max: n, log_probabilities, ..Request::default() };
    let events = all(engine, request);
    for event in &events {
        if let Event::Token { log_probabilities: Some((chosen, top)), .. } = event {
            assert!(*chosen <= top[0].1 && top[1].1 <= top[0].1 && top[0].1 <= 0.0);
        }
    }
    let Some(Event::End { finish, .. }) = events.last() else { panic!("{events:?}") };
    (ids(&events), *finish)
}

/// "Once upon a time" and the reference's first greedy tokens after it.
const PROMPT: [u32; 5] = [0, 655, 561, 267, 468];

#[test]
fn greedy_text_is_the_reference() {
    let oracle =
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/data/seed-5.7m/oracle.safetensors"))
            .unwrap();
    let oracle = safetensors::SafeTensors::deserialize(&oracle).unwrap();
    let numbers = |name: &str| -> Vec<u32> {
        let tensor = oracle.tensor(name).unwrap();
        tensor.data().chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let engine = engine(256);
    for prompt in 0..4 {
        let (tokens, greedy) = (numbers(&format!("p{prompt}.input_ids")), numbers(&format!("p{prompt}.greedy")));
        let (text, finish) = generate(&engine, &tokens, Sampling::default(), greedy.len());
        // The reference keeps the end token, where it comes to it.
        let kept: Vec<u32> = greedy.iter().copied().take_while(|&t| t != 1).collect();
        assert_eq!(text, kept);
        assert_eq!(finish, if kept.len() < greedy.len() { Finish::Stop(1) } else { Finish::Length });
        // The plain twin, without any engine, says the same.
        let request = Request { prompt: tokens, stops: vec![1], tokens_max: greedy.len(), ..Request::default() };
        assert_eq!(alone(&mut runner(256), request), (text, finish));
    }
}

#[test]
fn a_seed_repeats_itself_and_what_is_in_the_cache_changes_nothing() {
    let engine = engine(256);
    let warm = |seed| Sampling { temperature: 1.0, top_p: 0.9, seed: Some(seed), ..Sampling::default() };
    let long: Vec<u32> = PROMPT.iter().copied().chain((0..80).map(|i| (i * 37 + 11) % 2000)).collect();
    let first = generate(&engine, &long, warm(5), 40);
    let cached = engine.statistics().cached_tokens;
    assert_eq!(first, generate(&engine, &long, warm(5), 40));
    assert_eq!(engine.statistics().cached_tokens, cached + 64, "the second found the first's block");
    assert_ne!(first, generate(&engine, &long, warm(6), 40));
    assert_eq!(engine.statistics().pages_available, 4);
}

#[test]
fn limits_are_told() {
    let engine = engine(128);
    let refused = |prompt: Vec<u32>| match engine.generate(Request { prompt, tokens_max: 1, ..Request::default() }) {
        Err(SubmitError::Prompt(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(vec![5; 200]), EngineError::TooLong { tokens: 200, over: 72, context: 128 });
    assert_eq!(refused(vec![]), EngineError::Empty);
    assert_eq!(refused(vec![9999]), EngineError::Vocabulary { token: 9999, vocab: 2048 });
    assert_eq!(engine.statistics().pages_available, 2);
    let endless = Sampling { logit_bias: vec![(1, -1000.0)], ..Sampling::default() };
    let (tokens, finish) = generate(&engine, &[5; 120], endless, 50);
    assert_eq!((tokens.len(), finish), (9, Finish::Context));
    // The runner says the same to those who use it alone.
    let (mut runner, mut at) = (runner(128), Positions::new(0, 128));
    let error = runner.read(&mut at, &[5; 200]).unwrap_err();
    assert_eq!(error, EngineError::TooLong { tokens: 200, over: 72, context: 128 });
    assert_eq!(runner.read(&mut at, &[]).unwrap_err(), EngineError::Empty);
    assert_eq!(at.len(), 0);
    runner.read(&mut at, &[5; 128]).unwrap();
    let error = runner.decode(&mut [(&mut at, 5)]).unwrap_err();
    assert_eq!((error, at.len()), (EngineError::TooLong { tokens: 129, over: 1, context: 128 }, 128));
}

#[test]
fn a_prompt_whose_client_leaves_is_read_no_further_and_its_pages_return() {
    let engine = engine(2048);
    let (sender, events) = channel();
    let request = Request { prompt: vec![7; 1300], tokens_max: 5, ..Request::default() };
    // Nobody wants more once it has begun: its first chunk is read, the others are not.
    let sink = move |event: Event| {
        sender.send(event).unwrap();
        ControlFlow::Break(())
    };
    let _handle = engine.submit(request, sink).unwrap();
    let events: Vec<Event> = events.iter().collect();
    assert!(matches!(events[..], [Event::Started { .. }, Event::End { finish: Finish::Cancelled, .. }]), "{events:?}");
    let now = engine.statistics();
    assert_eq!((now.prompt_tokens, now.pages_available), (512, 32));
    // What was read stays in the cache.
    let (_handle, events) = submit(&engine, Request { prompt: vec![7; 1300], tokens_max: 1, ..Request::default() });
    assert!(matches!(events.recv(), Ok(Event::Started { cached: 512, .. })));
}

#[test]
fn sequences_decoded_together_are_as_alone() {
    let mut runner = runner(512);
    let prompts: [&[u32]; 3] = [&PROMPT, &[0, 312, 475], &[0, 509, 391, 20, 761, 626]];
    let mut alone = Vec::new();
    for prompt in prompts {
        let mut at = Positions::new(0, 64);
        runner.read(&mut at, prompt).unwrap();
        alone.push(runner.decode(&mut [(&mut at, 42)]).unwrap().to_vec());
    }
    let mut sequences: Vec<_> = (0..3).map(|page| Positions::new(page, 64)).collect();
    for (at, prompt) in sequences.iter_mut().zip(prompts) {
        runner.read(at, prompt).unwrap();
    }
    let mut together: Vec<_> = sequences.iter_mut().map(|at| (at, 42)).collect();
    assert_eq!(runner.decode(&mut together).unwrap(), alone.concat());
}

/// A step that reads a chunk of one prompt, the end of another and decodes two sequences gives each what it gets alone.
#[test]
fn prompts_and_decoding_mixed_are_as_alone() {
    let mut runner = runner(1024);
    let long: Vec<u32> = (0..300).map(|i| (i * 37 + 11) % 2000).collect();
    let prompts: [&[u32]; 2] = [&PROMPT, &[0, 312, 475]];
    let mut alone = Vec::new();
    for prompt in prompts {
        let mut at = Positions::new(0, 64);
        runner.read(&mut at, prompt).unwrap();
        alone.push(runner.decode(&mut [(&mut at, 42)]).unwrap().to_vec());
    }
    alone.push(runner.read(&mut Positions::new(0, 300), &long).unwrap().to_vec());
    let mut decoding: Vec<_> = (0..2).map(|page| Positions::new(page, 64)).collect();
    for (at, prompt) in decoding.iter_mut().zip(prompts) {
        runner.read(at, prompt).unwrap();
    }
    let pages = [&[2u32, 3, 4, 5, 6][..], &[0], &[1]];
    let span = |first, len, position, prompt, pages, logits| Span { first, len, position, prompt, pages, logits };
    let tokens = [&long[..100], &[42]].concat();
    let spans = [span(0, 100, 0, 300, pages[0], Wanted::None), span(100, 1, PROMPT.len(), 0, pages[1], Wanted::Last)];
    assert_eq!(runner.forward(&Batch { tokens: &tokens, spans: &spans }).unwrap(), alone[0]);
    let tokens = [&[42], &long[100..]].concat();
    let spans = [span(0, 1, 3, 0, pages[2], Wanted::Last), span(1, 200, 100, 300, pages[0], Wanted::Last)];
    let second = runner.forward(&Batch { tokens: &tokens, spans: &spans }).unwrap();
    assert_eq!(second, [&alone[1][..], &alone[2][..]].concat());
}

#[test]
fn a_copy_goes_on_alone() {
    let mut runner = runner(256);
    let (mut at, mut copy) = (Positions::new(0, 128), Positions::new(2, 128));
    runner.read(&mut at, &[&PROMPT[..], &[7; 90]].concat()).unwrap();
    runner.copy(&at, &mut copy);
    let expected = runner.decode(&mut [(&mut at, 42)]).unwrap().to_vec();
    at.rewind(95);
    runner.decode(&mut [(&mut at, 43)]).unwrap();
    assert_eq!(runner.decode(&mut [(&mut copy, 42)]).unwrap(), expected);
    assert_eq!(copy.len(), 96);
}
