//! The engine with the bundled model: greedy text equals the reference, a seed repeats itself, cancelled and dropped sequences return their pages.

use std::ops::ControlFlow;
use std::path::Path;

use engine::*;
use kernels::Pool;
use model::{CacheFormat, Checkpoint, Transformer};

fn engine(context: usize) -> Engine {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/seed-5.7m");
    let checkpoint = Checkpoint::open(&path).unwrap();
    let weights = checkpoint.weights().unwrap();
    let limits = Limits { context, cached: context };
    Engine::new(Transformer::new(checkpoint.structure, weights), Pool::new(2), CacheFormat::F32, limits)
}

fn go(_: usize, _: usize) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn generate(
    engine: &mut Engine,
    sequence: &mut Sequence,
    prompt: &[u32],
    sampling: Sampling,
    n: usize,
) -> (Vec<u32>, Finish) {
    let mut generation =
        Generation::start(engine, sequence, prompt, Sampler::new(sampling), vec![1], n, &mut go).unwrap();
    let mut tokens = Vec::new();
    loop {
        match generation.step().unwrap() {
            Step::Token(id) => {
                let (chosen, top) = generation.log_probabilities(id, 2);
                assert!(chosen <= top[0].1 && top[1].1 <= top[0].1 && top[0].1 <= 0.0);
                tokens.push(id);
            }
            Step::End(finish) => return (tokens, finish),
        }
    }
}

/// "Once upon a time" and the reference's first greedy tokens after it.
const PROMPT: [u32; 5] = [0, 655, 561, 267, 468];

#[test]
fn greedy_text_is_the_reference() {
    let oracle =
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/data/seed-5.7m/oracle.safetensors"))
            .unwrap();
    let oracle = safetensors::SafeTensors::deserialize(&oracle).unwrap();
    let ids = |name: &str| -> Vec<u32> {
        let tensor = oracle.tensor(name).unwrap();
        tensor.data().chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let mut engine = engine(256);
    for prompt in 0..4 {
        let (tokens, greedy) = (ids(&format!("p{prompt}.input_ids")), ids(&format!("p{prompt}.greedy")));
        let mut sequence = engine.sequence();
        let (text, finish) = generate(&mut engine, &mut sequence, &tokens, Sampling::default(), greedy.len());
        // The reference keeps the end token, where it comes to it.
        let kept: Vec<u32> = greedy.iter().copied().take_while(|&t| t != 1).collect();
        assert_eq!(text, kept);
        assert_eq!(finish, if kept.len() < greedy.len() { Finish::Stop(1) } else { Finish::Length });
    }
}

#[test]
fn a_seed_repeats_itself_and_rewinding_changes_nothing() {
    let mut engine = engine(256);
    let warm = |seed| Sampling { temperature: 1.0, top_p: 0.9, seed: Some(seed), ..Sampling::default() };
    let mut sequence = engine.sequence();
    let first = generate(&mut engine, &mut sequence, &PROMPT, warm(5), 40);
    sequence.rewind(2);
    let again = generate(&mut engine, &mut sequence, &PROMPT[2..], warm(5), 40);
    assert_eq!(first, again);
    sequence.rewind(0);
    assert_ne!(first, generate(&mut engine, &mut sequence, &PROMPT, warm(6), 40));
    drop(sequence);
    assert_eq!(engine.free_pages(), 4);
}

#[test]
fn limits_are_told() {
    let mut engine = engine(128);
    let mut sequence = engine.sequence();
    let long = vec![5u32; 200];
    assert_eq!(
        engine.prefill(&mut sequence, &long, &mut go).unwrap_err(),
        EngineError::TooLong { tokens: 200, over: 72, context: 128 }
    );
    assert_eq!(engine.prefill(&mut sequence, &[], &mut go).unwrap_err(), EngineError::Empty);
    let unknown = engine.prefill(&mut sequence, &[9999], &mut go).unwrap_err();
    assert_eq!(unknown, EngineError::Vocabulary { token: 9999, vocab: 2048 });
    assert_eq!(engine.free_pages(), 2);
    let (tokens, finish) = generate(
        &mut engine,
        &mut sequence,
        &[5; 120],
        Sampling { logit_bias: vec![(1, -1000.0)], ..Sampling::default() },
        50,
    );
    assert_eq!((tokens.len(), finish), (9, Finish::Context));
    let mut other = engine.sequence();
    assert_eq!(engine.prefill(&mut other, &[5], &mut go).unwrap_err(), EngineError::Full { needed: 1, free: 0 });
}

#[test]
fn a_stopped_prompt_keeps_what_was_read_and_drops_return_pages() {
    let mut engine = engine(2048);
    let mut sequence = engine.sequence();
    let prompt = vec![7u32; 1300];
    let mut calls = Vec::new();
    let stopped = engine.prefill(&mut sequence, &prompt, &mut |done, total| {
        calls.push((done, total));
        if done >= 1024 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(stopped.unwrap().is_none());
    assert_eq!(calls, [(512, 1300), (1024, 1300)]);
    assert_eq!(sequence.tokens().len(), 1024);
    assert_eq!(engine.free_pages(), 32 - 16);
    drop(sequence);
    assert_eq!(engine.free_pages(), 32);
}

#[test]
fn sequences_decoded_together_are_as_alone() {
    let mut engine = engine(512);
    let prompts: [&[u32]; 3] = [&PROMPT, &[0, 312, 475], &[0, 509, 391, 20, 761, 626]];
    let mut alone = Vec::new();
    for prompt in prompts {
        let mut sequence = engine.sequence();
        engine.prefill(&mut sequence, prompt, &mut go).unwrap();
        alone.push(engine.decode(&mut [(&mut sequence, 42)]).unwrap().to_vec());
    }
    let mut sequences: Vec<Sequence> = prompts.iter().map(|_| engine.sequence()).collect();
    for (sequence, prompt) in sequences.iter_mut().zip(prompts) {
        engine.prefill(sequence, prompt, &mut go).unwrap();
    }
    let mut together: Vec<_> = sequences.iter_mut().map(|s| (s, 42)).collect();
    let logits = engine.decode(&mut together).unwrap();
    assert_eq!(logits, alone.concat());
}

/// A step that reads a chunk of one prompt, the end of another and decodes two sequences gives each what it gets alone.
#[test]
fn prompts_and_decoding_mixed_are_as_alone() {
    let mut engine = engine(1024);
    let long: Vec<u32> = (0..300).map(|i| (i * 37 + 11) % 2000).collect();
    let prompts: [&[u32]; 2] = [&PROMPT, &[0, 312, 475]];
    let mut alone = Vec::new();
    for prompt in prompts {
        let mut sequence = engine.sequence();
        engine.prefill(&mut sequence, prompt, &mut go).unwrap();
        alone.push(engine.decode(&mut [(&mut sequence, 42)]).unwrap().to_vec());
    }
    let mut sequence = engine.sequence();
    alone.push(engine.prefill(&mut sequence, &long, &mut go).unwrap().unwrap().to_vec());
    sequence.rewind(0);
    let mut decoding: Vec<Sequence> = prompts.iter().map(|_| engine.sequence()).collect();
    for (sequence, prompt) in decoding.iter_mut().zip(prompts) {
        engine.prefill(sequence, prompt, &mut go).unwrap();
    }
    let mut reading = engine.sequence();
    let [a, b] = &mut decoding[..] else { unreachable!() };
    fn part<'a>(sequence: &'a mut Sequence, tokens: &'a [u32], prompt: usize, logits: bool) -> Part<'a> {
        Part { sequence, tokens, prompt, logits }
    }
    let first = engine.step(&mut [part(&mut reading, &long[..100], 300, false), part(a, &[42], 0, true)]).unwrap();
    assert_eq!(first, alone[0]);
    let second = engine.step(&mut [part(b, &[42], 0, true), part(&mut reading, &long[100..], 300, true)]).unwrap();
    assert_eq!(second, [&alone[1][..], &alone[2][..]].concat());
}

#[test]
fn a_fork_goes_on_alone() {
    let mut engine = engine(256);
    let mut sequence = engine.sequence();
    engine.prefill(&mut sequence, &[&PROMPT[..], &[7; 90]].concat(), &mut go).unwrap();
    let mut fork = engine.fork(&sequence).unwrap();
    let expected = engine.decode(&mut [(&mut sequence, 42)]).unwrap().to_vec();
    engine.decode(&mut [(&mut sequence, 43)]).unwrap();
    assert_eq!(engine.decode(&mut [(&mut fork, 42)]).unwrap(), expected);
    assert_eq!(fork.tokens().len(), 96);
    assert!(matches!(engine.fork(&fork), Err(EngineError::Full { needed: 2, free: 0 })));
    drop((fork, sequence));
    assert_eq!(engine.free_pages(), 4);
}
