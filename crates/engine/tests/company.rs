//! Requests in company: whatever else runs, whatever the cache has and wherever it has it from, a request gives the text it gives alone.

mod submitting;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use farthing_engine::*;
use kernels::Pool;
use model::{CacheFormat, Checkpoint, Transformer};
use submitting::{all, alone, ids, submit};

/// The bundled model (latent attention, experts), and one with keys and values.
const MODELS: [&str; 2] = ["../../models/seed-5.7m", "../model/tests/data/oracle/llama-gqa"];

fn runner(model: &str, format: CacheFormat, context: usize, cached: usize) -> Runner {
    let checkpoint = Checkpoint::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(model)).unwrap();
    let weights = checkpoint.weights().unwrap();
    Runner::new(Transformer::new(checkpoint.structure, weights), Pool::new(2), format, Limits { context, cached })
}

fn prompt(len: usize, seed: u32) -> Vec<u32> {
    (0..len as u32).map(|i| (i * 37 + seed * 101 + i * i % 13) % 250).collect()
}

fn request(prompt: Vec<u32>, tokens_max: usize, seed: u64) -> Request {
    let sampling = Sampling { temperature: 1.0, seed: Some(seed), repetition_penalty: 1.1, ..Sampling::default() };
    Request { prompt, sampling, tokens_max, ..Request::default() }
}

fn cached(events: &[Event]) -> usize {
    match (&events[0], events.last()) {
        (Event::Started { cached, .. }, Some(Event::End { timing, .. })) => {
            assert_eq!(timing.cached_tokens, *cached, "what is told at the beginning holds at the end");
            timing.cached_tokens
        }
        other => panic!("{other:?}"),
    }
}

/// Tokens of the prompt that were added to the cache, as was told before the first token.
fn written(events: &[Event]) -> usize {
    let reads: Vec<_> = events.iter().filter(|e| !matches!(e, Event::Prompt(_))).skip(1).take(1).collect();
    match &reads[..] {
        [Event::Read { written }] => *written,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_request_gives_in_company_what_it_gives_alone() {
    for model in MODELS {
        for format in [CacheFormat::F32, CacheFormat::Bf16, CacheFormat::Eight] {
            // Prompts that share beginnings, and pages for a third of them: some have to give way.
            let requests = || {
                (0..12u32).map(|i| {
                    let mut tokens = prompt(130 + 11 * i as usize, i % 2);
                    tokens.extend(prompt(20, i));
                    request(tokens, 20 + i as usize, u64::from(i))
                })
            };
            let mut plain = runner(model, format, 512, 512);
            let expected: Vec<_> = requests().map(|r| alone(&mut plain, r).0).collect();
            let settings = Settings { running: 5, ..Settings::default() };
            let service = Engine::start(runner(model, format, 512, 1024), settings);
            let running: Vec<_> = requests().map(|r| submit(&service, r)).collect();
            // Others come and go meanwhile.
            for i in 0..6 {
                let (ticket, _events) = submit(&service, request(prompt(200, i), 100, 9));
                std::thread::sleep(Duration::from_millis(3));
                drop(ticket);
            }
            for ((_ticket, events), expected) in running.into_iter().zip(&expected) {
                let events: Vec<Event> = events.iter().collect();
                assert_eq!(ids(&events), *expected, "{model} {format:?}");
            }
            let after = service.statistics();
            assert_eq!((after.running, after.waiting, after.pages_available), (0, 0, after.pages));
            assert!(after.cached_tokens > 0, "{after:?}");
        }
    }
}

#[test]
fn requests_that_give_way_lose_no_work_and_no_text() {
    for model in MODELS {
        let requests = || (0..4u32).map(|i| request(prompt(100, i), 300, u64::from(i)));
        let mut plain = runner(model, CacheFormat::F32, 448, 448);
        let expected: Vec<_> = requests().map(|r| alone(&mut plain, r).0).collect();
        // Each needs 7 pages at its end; there are 16 for four.
        let service = Engine::start(runner(model, CacheFormat::F32, 448, 1024), Settings::default());
        let running: Vec<_> = requests().map(|r| submit(&service, r)).collect();
        for ((_ticket, events), expected) in running.into_iter().zip(&expected) {
            assert_eq!(ids(&events.iter().collect::<Vec<_>>()), *expected, "{model}");
        }
        assert!(service.statistics().preempted > 0);
    }
}

#[test]
fn a_prompt_that_was_read_before_is_not_read_again() {
    for model in MODELS {
        let service = Engine::start(runner(model, CacheFormat::Bf16, 1024, 2048), Settings::default());
        let first = all(&service, request(prompt(512, 1), 30, 5));
        let again = all(&service, request(prompt(512, 1), 30, 5));
        assert_eq!((cached(&first), cached(&again)), (0, 511), "{model}");
        assert_eq!((written(&first), written(&again)), (512, 0), "{model}");
        assert_eq!(ids(&first), ids(&again), "{model}");
        // Another salt shares nothing, but has the same text.
        let other = all(&service, Request { salt: [7; 32], ..request(prompt(512, 1), 30, 5) });
        assert_eq!((cached(&other), ids(&other)), (0, ids(&first)), "{model}");
        // One that drifts is told where.
        let mut drifted = prompt(512, 1);
        drifted[300] += 1;
        let events = all(&service, request(drifted, 1, 5));
        assert!(matches!(events[0], Event::Started { cached: 256, differs_at: Some(300), .. }), "{:?}", events[0]);
        // All at once: the prompt is read once.
        let before = service.statistics().prompt_tokens;
        let many: Vec<_> = (0..6).map(|i| submit(&service, request(prompt(640, 3), 8, i))).collect();
        many.into_iter().for_each(|(_ticket, events)| assert_eq!(ids(&events.iter().collect::<Vec<_>>()).len(), 8));
        assert_eq!(service.statistics().prompt_tokens - before, 640 + 5, "{model}");
    }
}

fn with_disk(model: &str, dir: &Path) -> (Engine, Arc<std::sync::Mutex<Vec<String>>>) {
    let warnings = Arc::new(std::sync::Mutex::new(Vec::new()));
    let theirs = Arc::clone(&warnings);
    let disk = Disk {
        dir: dir.to_path_buf(),
        bytes_max: 1 << 30,
        warn: Box::new(move |line| theirs.lock().unwrap().push(line.to_string())),
    };
    let settings = Settings { disk: Some(disk), ..Settings::default() };
    let service = Engine::start(runner(model, CacheFormat::Bf16, 1024, 1024), settings);
    knows(&service, 0);
    (service, warnings)
}

/// A service that knows what is on disk by now.
fn knows(service: &Engine, blocks: u64) -> Statistics {
    for _ in 0..400 {
        let now = service.statistics();
        if now.disk.as_ref().is_some_and(|disk| disk.blocks >= blocks) {
            return now;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    panic!("{blocks} blocks on disk: {:?}", service.statistics())
}

#[test]
fn a_prompt_is_found_on_disk_by_the_next_service() {
    for model in MODELS {
        let dir = tempfile::tempdir().unwrap();
        let (service, _) = with_disk(model, dir.path());
        let first = all(&service, request(prompt(600, 1), 30, 5));
        drop(service);
        let (service, warnings) = with_disk(model, dir.path());
        knows(&service, 9);
        let again = all(&service, request(prompt(600, 1), 30, 5));
        // The last block that lies wholly in the prompt ends at 576.
        assert_eq!((cached(&again), ids(&again)), (576, ids(&first)), "{model}");
        assert!(service.statistics().disk.unwrap().hits >= 9);
        // Found in memory it is used on disk too, so that it is not evicted there.
        let used = |file: &std::path::PathBuf| std::fs::metadata(file).unwrap().modified().unwrap();
        let before: Vec<_> = walk(dir.path()).into_iter().map(|file| (used(&file), file)).collect();
        assert!(cached(&all(&service, request(prompt(600, 1), 1, 5))) >= 576);
        drop(service);
        assert!(before.iter().all(|(then, file)| used(file) > *then), "{model}");
        // One block is damaged, each in turn: what is before it is used and told, no more; the rest is computed, the text is the same.
        let mut told = Vec::new();
        for file in walk(dir.path()) {
            let mut bytes = std::fs::read(&file).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&file, bytes).unwrap();
            let (service, _) = with_disk(model, dir.path());
            knows(&service, 9);
            let again = all(&service, request(prompt(600, 1), 30, 5));
            assert_eq!(ids(&again), ids(&first), "{model}");
            let statistics = service.statistics();
            let disk = statistics.disk.unwrap();
            assert_eq!(
                (statistics.cached_tokens, disk.hits * 64, disk.damaged),
                (cached(&again) as u64, cached(&again) as u64, 1)
            );
            assert_eq!(statistics.prompt_tokens, 600 - statistics.cached_tokens);
            assert_eq!(cached(&again) + written(&again), 576);
            told.push(cached(&again));
        }
        told.sort_unstable();
        assert_eq!(told, (0..9).map(|block| block * 64).collect::<Vec<_>>(), "{model}");
        assert!(warnings.lock().unwrap().is_empty());
    }
}

fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let all = entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] });
    all.filter(|path| path.extension().is_some_and(|e| e == "unit")).collect()
}

#[test]
fn a_prompts_own_scores_are_those_of_its_logits() {
    for model in MODELS {
        let mut plain = runner(model, CacheFormat::F32, 512, 512);
        let tokens = prompt(300, 2);
        let logits = plain.logits(&tokens).unwrap().to_vec();
        let vocab = plain.model().structure.vocab;
        let expected: Vec<_> =
            (1..300).map(|i| sampler::log_probabilities(&logits[(i - 1) * vocab..i * vocab], tokens[i], 2)).collect();
        let service = Engine::start(runner(model, CacheFormat::F32, 512, 512), Settings::default());
        for (tokens_max, finish) in [(0, Finish::Length), (1, Finish::Length), (3, Finish::Length)] {
            let wanted = Request { prompt_log_probabilities: Some(2), ..request(tokens.clone(), tokens_max, 1) };
            let events = all(&service, wanted);
            let scores = events.iter().filter_map(|e| if let Event::Prompt(scores) = e { Some(scores) } else { None });
            assert_eq!(scores.flatten().cloned().collect::<Vec<_>>(), expected, "{model}");
            assert_eq!(ids(&events).len(), tokens_max);
            assert!(matches!(events.last(), Some(Event::End { finish: f, .. }) if *f == finish));
        }
    }
}

/// Even ids only, five of them.
struct Even(Vec<u32>, usize);

impl Constraint for Even {
    fn allowed(&mut self) -> Result<&[u32], String> {
        Ok(&self.0)
    }

    fn accept(&mut self, id: u32) -> Result<(), String> {
        self.1 += 1;
        if id.is_multiple_of(2) { Ok(()) } else { Err(format!("{id} is odd")) }
    }

    fn is_done(&self) -> bool {
        self.1 == 5
    }

    fn stopper(&self) -> Box<dyn Fn() + Send> {
        Box::new(|| {})
    }
}

#[test]
fn a_text_obeys_its_constraint() {
    let service = Engine::start(runner(MODELS[0], CacheFormat::F32, 512, 512), Settings::default());
    let even = Request { constraint: Some(Box::new(Even(vec![0x5555_5555; 64], 0))), ..request(prompt(20, 1), 50, 1) };
    let events = all(&service, even);
    assert!(ids(&events).len() == 5 && ids(&events).iter().all(|id| id % 2 == 0));
    assert!(matches!(events.last(), Some(Event::End { finish: Finish::Complete, .. })));
    let none = Request { constraint: Some(Box::new(Even(vec![], 0))), ..request(prompt(20, 1), 50, 1) };
    assert!(matches!(all(&service, none).last(), Some(Event::Failed(EngineError::Constraint(_)))));
}

#[test]
fn requests_wait_and_run_no_longer_than_they_want() {
    let settings = Settings { running: 1, ..Settings::default() };
    let service = Engine::start(runner(MODELS[0], CacheFormat::F32, 2048, 2048), settings);
    let time_max = Some(Duration::from_millis(300));
    let (_first, first) = submit(&service, Request { time_max, ..request(prompt(20, 1), 2000, 1) });
    let (_second, second) =
        submit(&service, Request { wait_max: Some(Duration::from_millis(50)), ..request(prompt(20, 2), 5, 1) });
    let (_third, third) = submit(&service, request(prompt(20, 3), 5, 1));
    let second: Vec<Event> = second.iter().collect();
    assert!(matches!(&second[..], [Event::Failed(EngineError::Waited { .. })]), "{second:?}");
    let first: Vec<Event> = first.iter().collect();
    assert!(matches!(first.last(), Some(Event::End { finish: Finish::Time, .. })) && ids(&first).len() < 2000);
    assert_eq!(ids(&third.iter().collect::<Vec<_>>()).len(), 5);
}
