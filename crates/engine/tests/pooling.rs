//! What is pooled of a prompt is what transformers computes (`model/tests/data/embedding`), whatever else runs and whatever the cache has.

mod submitting;

use std::path::Path;

use farthing_engine::*;
use kernels::Pool;
use model::structure::Head;
use model::{CacheFormat, Checkpoint, Transformer};
use serde_json::Value;
use submitting::{all, submit};

const MODEL: &str = "../model/tests/data/embedding";
const TOLERANCE: f32 = 1e-4;

fn data(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(MODEL).join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// An engine with room for so many tokens. With the head of the embedding's rows where logits are wanted.
fn engine(head: Head, cached: usize) -> Engine {
    let mut checkpoint = Checkpoint::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(MODEL)).unwrap();
    assert_eq!(checkpoint.structure.head, Head::None);
    checkpoint.structure.head = head;
    let transformer = Transformer::new(checkpoint.structure.clone(), checkpoint.weights().unwrap());
    let limits = Limits { context: 1024, cached };
    Engine::start(Runner::new(transformer, Pool::new(2), CacheFormat::F32, limits), Settings::default())
}

fn request(prompt: Vec<u32>, pooled: Pooled) -> Request {
    Request { prompt, pooled: Some(pooled), ..Request::default() }
}

/// What was pooled, and the tokens that were found in the cache.
fn pooled(events: impl IntoIterator<Item = Event>) -> (Vec<f32>, usize) {
    let (mut numbers, mut found) = (Vec::new(), 0);
    for event in events {
        match event {
            Event::Started { cached, .. } => found = cached,
            Event::Pooled(vector) => numbers.push(vector),
            Event::End { finish, timing } => assert_eq!((finish, timing.generated), (Finish::Complete, 0)),
            Event::Read { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(numbers.len(), 1);
    (numbers.swap_remove(0), found)
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn unit(x: &[f32]) -> Vec<f32> {
    let length = x.iter().map(|x| x * x).sum::<f32>().sqrt();
    x.iter().map(|x| x / length).collect()
}

fn assert_close(ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len());
    let difference = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference <= TOLERANCE, "{difference}");
}

fn ids(entry: &Value) -> Vec<u32> {
    entry["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn states_are_those_of_transformers() {
    let (service, reference) = (engine(Head::None, 1024), data("reference.json"));
    for entry in reference["embedded"].as_array().unwrap() {
        for (pooling, key) in [(Pooling::Last, "last"), (Pooling::Mean, "mean")] {
            let (state, _) = pooled(all(&service, request(ids(entry), Pooled::States(pooling))));
            assert_close(&unit(&state), &numbers(&entry[key]));
        }
        // The first token's is that of a prompt of this token alone.
        let (first, _) = pooled(all(&service, request(ids(entry), Pooled::States(Pooling::First))));
        let (alone, _) = pooled(all(&service, request(ids(entry)[..1].to_vec(), Pooled::States(Pooling::Last))));
        assert_eq!(first, alone);
    }
}

/// Equal bits together, one by one, from the prefix cache, and where some have to give way.
#[test]
fn a_prompt_gives_in_company_what_it_gives_alone() {
    let wanted = [Pooled::States(Pooling::Last), Pooled::States(Pooling::Mean), Pooled::States(Pooling::First)];
    let prompt = |i: u32| -> Vec<u32> { (0..300 + 20 * i).map(|at| (at * 37 + at * at % 11 + i / 4) % 250).collect() };
    let requests = || (0..12u32).map(|i| request(prompt(i), wanted[i as usize % 3].clone()));
    let alone: Vec<Vec<f32>> = requests().map(|r| pooled(all(&engine(Head::None, 1024), r)).0).collect();
    let service = engine(Head::None, 1536);
    let mut from_cache = 0;
    for _ in 0..2 {
        let running: Vec<_> = requests().map(|r| submit(&service, r)).collect();
        for ((i, (_handle, events)), alone) in running.into_iter().enumerate().zip(&alone) {
            let (numbers, found) = pooled(events);
            assert_eq!(numbers, *alone, "{i}");
            assert!(i % 3 == 0 || found == 0, "all states are computed: {i}");
            from_cache += found;
        }
    }
    let after = service.statistics();
    assert_eq!((after.running, after.waiting, after.pages_available), (0, 0, after.pages));
    assert!(from_cache > 0);
}

#[test]
fn logits_of_some_outputs() {
    let reference = data("reference.json");
    let prompt = ids(&reference["embedded"][0]);
    let all_ids: Vec<u32> = (0..267).collect();
    let (every, _) = pooled(all(&engine(Head::Tied, 1024), request(prompt.clone(), Pooled::Logits(all_ids))));
    let (some, _) = pooled(all(&engine(Head::Tied, 1024), request(prompt, Pooled::Logits(vec![7, 3]))));
    assert_eq!((every.len(), some), (267, vec![every[7], every[3]]));
}

#[test]
fn a_model_without_a_head_gives_no_text() {
    let service = engine(Head::None, 1024);
    let refused = |request| service.generate(request).unwrap_err();
    let text = Request { prompt: vec![1], tokens_max: 1, ..Request::default() };
    assert_eq!(refused(text), SubmitError::Prompt(EngineError::NoText));
    let none = EngineError::Output { output: 0, outputs: 0 };
    assert_eq!(refused(request(vec![1], Pooled::Logits(vec![0]))), SubmitError::Prompt(none));
    let (two, three) = (vec![1, 266], vec![1, 267]);
    let tied = engine(Head::Tied, 1024);
    assert!(tied.generate(request(vec![1], Pooled::Logits(two))).is_ok());
    let outside = EngineError::Output { output: 267, outputs: 267 };
    assert_eq!(tied.generate(request(vec![1], Pooled::Logits(three))).unwrap_err(), SubmitError::Prompt(outside));

    let checkpoint = Checkpoint::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(MODEL)).unwrap();
    let weights = checkpoint.weights().unwrap();
    let limits = Limits { context: 64, cached: 64 };
    let transformer = Transformer::new(checkpoint.structure, weights);
    let mut runner = Runner::new(transformer, Pool::new(1), CacheFormat::F32, limits);
    assert_eq!(runner.logits(&[1]).unwrap_err(), EngineError::NoText);
    assert_eq!(runner.read(&mut Positions::new(0, 64), &[1]).unwrap_err(), EngineError::NoText);
}
