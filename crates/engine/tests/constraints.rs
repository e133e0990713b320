//! Constraints work beside the forward: one that is slow delays its own request, and changes no text.

mod submitting;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use farthing_engine::*;
use kernels::Pool;
use model::{CacheFormat, Checkpoint, Transformer};
use submitting::{all, ids, submit};

fn service(settings: Settings, cached: usize) -> Engine {
    let checkpoint = Checkpoint::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/seed-5.7m")).unwrap();
    let (weights, limits) = (checkpoint.weights().unwrap(), Limits { context: 512, cached });
    let runner = Runner::new(Transformer::new(checkpoint.structure, weights), Pool::new(2), CacheFormat::F32, limits);
    Engine::start(runner, settings)
}

fn request(constraint: Option<Box<dyn Constraint>>, tokens_max: usize) -> Request {
    let sampling = Sampling { temperature: 1.0, seed: Some(3), ..Sampling::default() };
    Request { prompt: (0..100).map(|i| i * 37 % 250).collect(), sampling, tokens_max, constraint, ..Request::default() }
}

/// Where a constraint waits until it is let through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Gate {
    Mask,
    Accept,
}

/// Even ids only, as many as are wanted. Before answer number `at` of its kind it waits until the gate opens or it is stopped.
struct Gated {
    mask: Vec<u32>,
    wanted: usize,
    accepted: usize,
    at: (Gate, usize),
    waits: Sender<()>,
    open: Receiver<()>,
    stopped: Arc<AtomicBool>,
}

impl Gated {
    fn pass(&mut self, gate: Gate) {
        if self.at != (gate, self.accepted) {
            return;
        }
        let _ = self.waits.send(());
        while self.open.recv_timeout(Duration::from_millis(5)).is_err() && !self.stopped.load(Ordering::Relaxed) {}
    }
}

impl Constraint for Gated {
    fn allowed(&mut self) -> Result<&[u32], String> {
        self.pass(Gate::Mask);
        Ok(&self.mask)
    }

    fn accept(&mut self, id: u32) -> Result<(), String> {
        self.pass(Gate::Accept);
        self.accepted += 1;
        if id.is_multiple_of(2) { Ok(()) } else { Err(format!("{id} is odd")) }
    }

    fn is_done(&self) -> bool {
        self.accepted == self.wanted
    }

    fn stopper(&self) -> Box<dyn Fn() + Send> {
        let stopped = Arc::clone(&self.stopped);
        Box::new(move || stopped.store(true, Ordering::Relaxed))
    }
}

/// A constraint; what tells that it waits, what lets it through, and whether it was stopped.
fn gated(wanted: usize, at: (Gate, usize)) -> (Box<dyn Constraint>, Receiver<()>, Sender<()>, Arc<AtomicBool>) {
    let ((waits, waiting), (opener, open)) = (channel(), channel());
    let stopped = Arc::new(AtomicBool::new(false));
    let gate =
        Gated { mask: vec![0x5555_5555; 64], wanted, accepted: 0, at, waits, open, stopped: Arc::clone(&stopped) };
    (Box::new(gate), waiting, opener, stopped)
}

const NEVER: (Gate, usize) = (Gate::Mask, 1000);

#[test]
fn others_go_on_while_a_constraint_works_and_its_text_is_the_same() {
    let service = service(Settings::default(), 2048);
    let expected = all(&service, request(Some(gated(12, NEVER).0), 50));
    assert!(ids(&expected).len() == 12 && ids(&expected).iter().all(|id| id % 2 == 0));
    assert!(matches!(expected.last(), Some(Event::End { finish: Finish::Complete, .. })));
    let plain = ids(&all(&service, request(None, 60)));
    for gate in [Gate::Mask, Gate::Accept] {
        for at in [0, 1, 5, 11] {
            let (constraint, waiting, opener, _) = gated(12, (gate, at));
            let (_ticket, events) = submit(&service, request(Some(constraint), 50));
            waiting.recv().unwrap();
            // While it works, others are read and decoded to their end.
            assert_eq!(ids(&all(&service, request(None, 60))), plain, "{gate:?} {at}");
            opener.send(()).unwrap();
            let events: Vec<Event> = events.iter().collect();
            assert_eq!(ids(&events), ids(&expected), "{gate:?} {at}");
            assert!(matches!(events.last(), Some(Event::End { finish: Finish::Complete, .. })), "{:?}", events.last());
            assert_eq!(events.iter().filter(|e| matches!(e, Event::Read { .. })).count(), 1);
        }
    }
    // The last token that is allowed may end the text too: how it ends does not hang on who was faster.
    let (constraint, waiting, opener, _) = gated(12, (Gate::Accept, 11));
    let (_ticket, events) = submit(&service, request(Some(constraint), 12));
    waiting.recv().unwrap();
    std::thread::sleep(Duration::from_millis(20));
    opener.send(()).unwrap();
    assert!(matches!(events.iter().last(), Some(Event::End { finish: Finish::Complete, .. })));
    assert_eq!(service.statistics().pages_available, service.statistics().pages);
}

#[test]
fn one_that_gives_way_while_its_constraint_works_loses_nothing() {
    // Pages for one context and a little: who asks later, of a higher priority, takes them.
    let expected = {
        let service = service(Settings::default(), 2048);
        ids(&all(&service, request(Some(gated(12, NEVER).0), 50)))
    };
    for gate in [Gate::Mask, Gate::Accept] {
        for before in [true, false] {
            let service = service(Settings::default(), 512);
            let (constraint, waiting, opener, _) = gated(12, (gate, 5));
            let (_ticket, events) = submit(&service, request(Some(constraint), 50));
            waiting.recv().unwrap();
            let urgent = Request { prompt: (0..440).map(|i| i * 31 % 250).collect(), priority: 1, ..request(None, 30) };
            let (_urgent, urgents) = submit(&service, urgent);
            assert!(matches!(urgents.recv().unwrap(), Event::Started { .. }));
            if before {
                opener.send(()).unwrap();
            }
            assert_eq!(ids(&urgents.iter().collect::<Vec<_>>()).len(), 30);
            if !before {
                opener.send(()).unwrap();
            }
            let events: Vec<Event> = events.iter().collect();
            assert_eq!(ids(&events), expected, "{gate:?} {before}");
            assert!(service.statistics().preempted > 0);
        }
    }
}

#[test]
fn a_constraint_is_stopped_when_nobody_waits_for_it() {
    let settings = Settings { constraint: Duration::from_millis(300), ..Settings::default() };
    let service = service(settings, 2048);
    // Its time is over: an error of its own, and its pages are free.
    for gate in [Gate::Mask, Gate::Accept] {
        let (constraint, _waiting, _opener, stopped) = gated(12, (gate, 3));
        let events = all(&service, request(Some(constraint), 50));
        let last = events.last();
        assert!(
            matches!(last, Some(Event::Failed(EngineError::ConstraintLate { seconds })) if *seconds >= 0.3),
            "{last:?}"
        );
        assert!(stopped.load(Ordering::Relaxed), "it works for nobody");
    }
    // Its client leaves.
    let (constraint, waiting, _opener, stopped) = gated(12, (Gate::Mask, 3));
    let (ticket, events) = submit(&service, request(Some(constraint), 50));
    waiting.recv().unwrap();
    drop(ticket);
    assert!(matches!(events.iter().last(), Some(Event::End { finish: Finish::Cancelled, .. })));
    assert!(stopped.load(Ordering::Relaxed));
    assert_eq!(service.statistics().pages_available, service.statistics().pages);
}

/// Fails in one way or another.
struct Broken(&'static str, Vec<u32>);

impl Constraint for Broken {
    fn allowed(&mut self) -> Result<&[u32], String> {
        match self.0 {
            "error" => Err("on purpose".to_string()),
            "panic" => panic!("on purpose"),
            _ => Ok(&self.1),
        }
    }

    fn accept(&mut self, _: u32) -> Result<(), String> {
        match self.0 {
            "error after" => Err("on purpose".to_string()),
            "panic after" => panic!("on purpose"),
            _ => Ok(()),
        }
    }

    fn is_done(&self) -> bool {
        false
    }

    fn stopper(&self) -> Box<dyn Fn() + Send> {
        Box::new(|| {})
    }
}

#[test]
fn a_constraint_that_fails_ends_its_own_request() {
    let service = service(Settings::default(), 2048);
    let plain = ids(&all(&service, request(None, 40)));
    for (how, tokens) in [("error", 0), ("error after", 1), ("panic", 0), ("panic after", 1), ("none", 0)] {
        let (_ticket, beside) = submit(&service, request(None, 40));
        let mask = if how == "none" { vec![0; 64] } else { vec![u32::MAX; 64] };
        let events = all(&service, request(Some(Box::new(Broken(how, mask))), 40));
        assert_eq!(ids(&events).len(), tokens, "{how}");
        match events.last() {
            Some(Event::Failed(EngineError::Constraint(why))) => {
                assert!(why == "on purpose" || how == "none", "{how}: {why}")
            }
            Some(Event::Failed(EngineError::Fault(said))) => assert!(said == "on purpose" && how.starts_with("panic")),
            other => panic!("{how}: {other:?}"),
        }
        assert_eq!(ids(&beside.iter().collect::<Vec<_>>()), plain, "{how}");
    }
    assert_eq!(service.fault(), None);
}
