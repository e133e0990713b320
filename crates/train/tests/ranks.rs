//! Ranks of a training, here threads of one process: several train as one does, and what ends one ends all. MPI's own are tested by `mpi/run`.

mod tiny;

use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use farthing_train::ranks::{self, Communicator};
use farthing_train::{Error, Evaluation, Recipe, Step};
use tiny::{MODEL, Notes, dataset, open, recipe};

/// A rank with a channel to and from each rank, itself included.
struct Threads {
    rank: usize,
    to: Vec<Sender<Vec<f64>>>,
    from: Vec<Receiver<Vec<f64>>>,
}

/// So many ranks.
fn threads(size: usize) -> Vec<Threads> {
    let mut all: Vec<Threads> = (0..size).map(|rank| Threads { rank, to: Vec::new(), from: Vec::new() }).collect();
    for sender in 0..size {
        for receiver in 0..size {
            let (to, from) = channel();
            all[sender].to.push(to);
            all[receiver].from.push(from);
        }
    }
    all
}

impl Threads {
    fn exchange(&self, own: &[f64]) -> Vec<Vec<f64>> {
        self.to.iter().for_each(|to| to.send(own.to_vec()).expect("every rank is there"));
        let receive = |from: &Receiver<Vec<f64>>| {
            let other = from.recv_timeout(Duration::from_secs(60)).expect("every rank comes to this exchange");
            assert_eq!(other.len(), own.len(), "every rank sends as much");
            other
        };
        self.from.iter().map(receive).collect()
    }
}

impl Communicator for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.to.len()
    }

    fn local_size(&self) -> usize {
        self.to.len()
    }

    fn sum_f32(&self, numbers: &mut [f32]) {
        let own: Vec<f64> = numbers.iter().map(|&n| f64::from(n)).collect();
        numbers.fill(0.0);
        for other in self.exchange(&own) {
            numbers.iter_mut().zip(other).for_each(|(sum, n)| *sum += n as f32);
        }
    }

    fn sum_f64(&self, numbers: &mut [f64]) {
        let all = self.exchange(numbers);
        numbers.fill(0.0);
        all.iter().for_each(|other| numbers.iter_mut().zip(other).for_each(|(sum, n)| *sum += n));
    }

    fn broadcast(&self, root: usize, bytes: &mut [u8]) {
        let own: Vec<f64> = bytes.iter().map(|&byte| f64::from(byte)).collect();
        let all = self.exchange(&own);
        bytes.iter_mut().zip(&all[root]).for_each(|(byte, n)| *byte = *n as u8);
    }
}

/// What each of so many ranks makes of it.
fn each<T: Send>(size: usize, work: impl Fn(Rc<dyn Communicator>) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let started: Vec<_> = threads(size).into_iter().map(|own| scope.spawn(|| work(Rc::new(own)))).collect();
        started.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

struct Trained {
    steps: Vec<Step>,
    evaluations: Vec<Evaluation>,
    weights: Vec<Vec<f32>>,
}

fn trained(recipe: &Recipe, folder: &Path, ranks: Rc<dyn Communicator>) -> Trained {
    let mut notes = Notes::default();
    let mut trainer = open(recipe.clone(), folder, &mut notes);
    trainer.join(ranks).unwrap();
    trainer.run(&AtomicBool::new(false), &mut notes).unwrap();
    trainer.export(farthing_train::export::Format::Bf16).unwrap();
    Trained { steps: notes.steps, evaluations: notes.evaluations, weights: trainer.weights().to_vec() }
}

/// Shares by which a mean over tokens may be off, and by which a norm or a balance may, which one token that chooses another expert moves more.
const OFF: [f64; 2] = [1e-4, 5e-3];

fn near(a: f64, b: f64, off: f64) -> bool {
    (a - b).abs() < off * a.abs().max(b.abs())
}

/// With either optimizer, by ranks that have as many micro-batches each and by ranks that have not. The balance loss and a module of multi-token
/// prediction count by tokens too.
#[test]
fn several_ranks_train_as_one_does() {
    for optimizer in ["muon", "adamw"] {
        let folder = tempfile::tempdir().unwrap();
        let train = format!(
            "tokens = 12000\nbatch = 2048\nmicro_batch = 512\nprecision = \"f32\"\noptimizer = \"{optimizer}\"\nbalance_loss = 0.02\nbalance_bias = 0.01"
        );
        let recipe = recipe(folder.path(), &MODEL.replacen("context", "predict = true\ncontext", 1), &train);
        let one = trained(&recipe, &folder.path().join("one"), Rc::new(ranks::Alone));
        for size in [2, 3] {
            let out = folder.path().join(size.to_string());
            let all = each(size, |ranks| trained(&recipe, &out, ranks));
            assert_eq!(all[0].steps.len(), one.steps.len());
            for (a, b) in one.steps.iter().zip(&all[0].steps) {
                assert_eq!((a.step, a.tokens, a.rate, a.operations), (b.step, b.tokens, b.rate, b.operations));
                assert!(
                    near(a.loss, b.loss, OFF[0]) && near(a.norm, b.norm, OFF[1]),
                    "{optimizer}, {size} ranks: {a:?} {b:?}"
                );
                assert!(near(a.bits_per_byte.unwrap(), b.bits_per_byte.unwrap(), OFF[0]), "{a:?} {b:?}");
                assert!(near(a.prediction.unwrap(), b.prediction.unwrap(), OFF[0]), "{a:?} {b:?}");
                assert_eq!(a.loads.len(), b.loads.len());
                for (a, b) in a.loads.iter().zip(&b.loads) {
                    let moved: u64 = a.tokens.iter().zip(&b.tokens).map(|(a, b)| a.abs_diff(*b)).sum();
                    assert!(moved <= 16 && near(a.loss, b.loss, OFF[1]), "{a:?} {b:?}");
                }
            }
            let (first, together) = (&one.steps[0], &all[0].steps[0]);
            assert!(near(first.loss, together.loss, 1e-6) && near(first.norm, together.norm, 1e-5), "{together:?}");
            assert_eq!(first.loads[0].tokens, together.loads[0].tokens, "the same weights choose alike");
            for (a, b) in one.evaluations.iter().zip(&all[0].evaluations) {
                assert!(a.tokens == b.tokens && near(a.loss, b.loss, OFF[0]), "{a:?} {b:?}");
                assert!(near(a.bits_per_byte, b.bits_per_byte, OFF[0]), "{a:?} {b:?}");
            }
            assert!(all.iter().all(|rank| rank.weights == all[0].weights), "equal bits on all ranks");
            assert!(out.join("model/config.json").exists());
        }
    }
}

const TRAIN: &str = "tokens = 12000\nbatch = 1024\nmicro_batch = 512\nprecision = \"f32\"";

/// One rank is told to stop in the second step: all stop before it, and go on together from the state.
#[test]
fn a_stop_on_one_rank_stops_all_at_the_same_step() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe(folder.path(), MODEL, TRAIN);
    each(2, |ranks| {
        let rank = ranks.rank();
        let mut trainer = open(recipe.clone(), folder.path(), &mut Notes::default());
        trainer.join(ranks).unwrap();
        let stop = AtomicBool::new(false);
        trainer.step(&stop).unwrap();
        stop.store(rank == 1, Ordering::Relaxed);
        let error = trainer.run(&stop, &mut Notes::default()).unwrap_err();
        assert!(matches!(error, Error::Stopped), "rank {rank}: {error}");
        assert_eq!(trainer.steps(), 1, "rank {rank}");
    });
    let going_on = each(2, |ranks| {
        let mut trainer = open(recipe.clone(), folder.path(), &mut Notes::default());
        trainer.join(ranks).unwrap();
        trainer.step(&AtomicBool::new(false)).unwrap().step
    });
    assert_eq!(going_on, [2, 2]);
}

/// A copy of the dataset whose shards are there when a rank opens them, and gone when it reads.
#[test]
fn an_error_on_one_rank_ends_all_with_its_message() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy");
    for part in ["shards", "tokenizer"] {
        fs::create_dir_all(copy.join(part)).unwrap();
        for file in fs::read_dir(dataset().join(part)).unwrap().map(|entry| entry.unwrap().path()) {
            fs::copy(&file, copy.join(part).join(file.file_name().unwrap())).unwrap();
        }
    }
    let recipe = recipe(folder.path(), MODEL, TRAIN);
    let errors = each(2, |ranks| {
        let rank = ranks.rank();
        let mut own = recipe.clone();
        if rank == 1 {
            own.data = copy.clone();
        }
        let mut trainer = open(own, folder.path(), &mut Notes::default());
        trainer.join(ranks).unwrap();
        if rank == 1 {
            for file in fs::read_dir(copy.join("shards")).unwrap().map(|entry| entry.unwrap().path()) {
                fs::File::options().write(true).open(file).unwrap().set_len(1).unwrap();
            }
        }
        let error = trainer.run(&AtomicBool::new(false), &mut Notes::default()).unwrap_err();
        assert_eq!(trainer.steps(), 0, "nothing has changed");
        error.to_string()
    });
    assert!(errors[1].contains("copy/shards"), "{}", errors[1]);
    assert_eq!(errors[0], format!("rank 1: {}", errors[1]));
}

#[test]
fn ranks_that_would_not_train_the_same_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let of_two = recipe(folder.path(), MODEL, TRAIN);
    let errors = each(3, |ranks| {
        let mut trainer = open(of_two.clone(), folder.path(), &mut Notes::default());
        trainer.join(ranks).unwrap_err().to_string()
    });
    assert!(errors[2].contains("batch = 1024 has 2 micro-batches of 512, fewer than 3 ranks"), "{}", errors[2]);
    // A state that only one rank sees.
    let mut trainer = open(of_two.clone(), folder.path(), &mut Notes::default());
    trainer.step(&AtomicBool::new(false)).unwrap();
    trainer.save().unwrap();
    let errors = each(2, |ranks| {
        let place = if ranks.rank() == 0 { folder.path().to_path_buf() } else { folder.path().join("elsewhere") };
        let mut trainer = open(of_two.clone(), &place, &mut Notes::default());
        trainer.join(ranks).unwrap_err().to_string()
    });
    assert!(errors[1].contains("step 0, weights ") && errors[1].contains("rank 0 has training "), "{}", errors[1]);
    assert!(errors[0].starts_with("rank 1: ") && errors[0].contains("step 1, weights "), "{}", errors[0]);
}
