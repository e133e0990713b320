//! Laws of a training: it resumes to the bit, experts' loads are counted once, and what it writes is what is served.

extern crate model as farthing_model;

#[path = "../../model/tests/running/mod.rs"]
mod running;
mod tiny;

use std::fs;
use std::sync::atomic::AtomicBool;

use farthing_train::export::Format;
use farthing_train::{Batch, Role, Setup, Trainer};
use tiny::{MODEL, Notes, open, recipe};

fn bits(values: &[Vec<f32>]) -> Vec<Vec<u32>> {
    values.iter().map(|v| v.iter().map(|x| x.to_bits()).collect()).collect()
}

/// Two and a half epochs over several shards, with what every optimizer keeps: stopped without a state in between, the steps since the last
/// state are taken again.
#[test]
fn the_resumed_curve_is_the_same_to_the_bit_across_shards_and_epochs() {
    for optimizer in ["muon", "adamw"] {
        let folder = tempfile::tempdir().unwrap();
        let stop = AtomicBool::new(false);
        let train = format!(
            "tokens = 30000\nbatch = 1024\nmicro_batch = 512\nprecision = \"f32\"\noptimizer = \"{optimizer}\"\nsave_minutes = 1e6"
        );
        let recipe = recipe(folder.path(), MODEL, &train);
        let mut whole = Notes::default();
        let mut trainer = open(recipe.clone(), &folder.path().join("whole"), &mut whole);
        assert!(trainer.setup.corpus.tokens() < 13_000, "{}", trainer.setup.corpus.tokens());
        trainer.run(&stop, &mut whole).unwrap();
        let expected = bits(trainer.weights());

        let (mut losses, mut rates) = (vec![0f64; whole.steps.len()], vec![0f64; whole.steps.len()]);
        let place = folder.path().join("killed");
        for (kept, lost) in [(3, 2), (9, 1), (100, 0)] {
            let mut trainer = open(recipe.clone(), &place, &mut Notes::default());
            for i in 0..kept + lost {
                if trainer.tokens() >= 30_000 {
                    break;
                }
                let step = trainer.step(&stop).unwrap();
                let at = step.step as usize - 1;
                (losses[at], rates[at]) = (step.loss, step.rate);
                if i + 1 == kept {
                    trainer.save().unwrap();
                }
            }
            if kept == 100 {
                assert_eq!(bits(trainer.weights()), expected, "{optimizer}");
            }
        }
        let whole_losses: Vec<f64> = whole.steps.iter().map(|s| s.loss).collect();
        assert_eq!(losses, whole_losses, "{optimizer}");
        assert_eq!(rates, whole.steps.iter().map(|s| s.rate).collect::<Vec<_>>(), "the rate is the schedule's");
    }
}

#[test]
fn a_damaged_state_is_passed_over_and_that_of_another_training_refused() {
    let folder = tempfile::tempdir().unwrap();
    let stop = AtomicBool::new(false);
    let train = "tokens = 8000\nbatch = 1024\nmicro_batch = 512\nprecision = \"f32\"";
    let recipe_ = recipe(folder.path(), MODEL, train);
    let mut trainer = open(recipe_.clone(), folder.path(), &mut Notes::default());
    trainer.step(&stop).unwrap();
    let first = trainer.save().unwrap();
    trainer.step(&stop).unwrap();
    let second = trainer.save().unwrap();
    for name in ["weights.safetensors", "optimizer.safetensors", "state.json"] {
        let file = second.join(name);
        let whole = fs::read(&file).unwrap();
        let mut bytes = whole.clone();
        let at = bytes.len() / 2;
        bytes[at] ^= 0x40;
        for damaged in [bytes, whole[..at].to_vec()] {
            fs::write(&file, damaged).unwrap();
            let mut notes = Notes::default();
            let trainer = open(recipe_.clone(), folder.path(), &mut notes);
            assert_eq!((trainer.steps(), notes.warnings.len()), (1, 1), "{name}: {:?}", notes.warnings);
            // A changed hash in the state's description reads as a changed file.
            assert!(name == "state.json" || notes.warnings[0].contains(name), "{:?}", notes.warnings);
        }
        fs::write(&file, whole).unwrap();
    }
    assert_eq!(open(recipe_, folder.path(), &mut Notes::default()).steps(), 2);
    assert!(first.exists());
    let other = recipe(folder.path(), MODEL, &format!("{train}\ndecay = 0.2"));
    let error = Trainer::open(Setup::new(other).unwrap(), kernels::Pool::new(1), folder.path(), &mut Notes::default());
    let error = error.err().expect("another training").to_string();
    assert!(error.contains("another directory"), "{error}");
}

/// A state of an earlier step is no reason to remove it: damaged ones of later steps, and those of another version, do not count.
#[test]
fn a_state_that_was_just_written_stays_beside_later_ones() {
    let folder = tempfile::tempdir().unwrap();
    let stop = AtomicBool::new(false);
    let recipe = recipe(folder.path(), MODEL, "tokens = 8000\nbatch = 1024\nmicro_batch = 512\nprecision = \"f32\"");
    let mut trainer = open(recipe.clone(), folder.path(), &mut Notes::default());
    let saved = [0; 3].map(|_| {
        trainer.step(&stop).unwrap();
        trainer.save().unwrap()
    });
    assert!(!saved[0].exists() && saved[1].exists() && saved[2].exists(), "the newest two stay");
    let version = fs::read_to_string(saved[2].join("state.json")).unwrap();
    fs::write(saved[2].join("state.json"), version.replace("\"version\": 2", "\"version\": 1")).unwrap();
    let error =
        Trainer::open(Setup::new(recipe.clone()).unwrap(), kernels::Pool::new(1), folder.path(), &mut Notes::default());
    let error = error.err().expect("another version").to_string();
    assert!(error.contains("it is of version 1, and this program reads 2"), "{error}");
    for state in &saved[1..] {
        fs::write(state.join("state.json"), "{").unwrap();
    }
    let mut trainer = open(recipe.clone(), folder.path(), &mut Notes::default());
    assert_eq!(trainer.steps(), 0);
    trainer.step(&stop).unwrap();
    let first = trainer.save().unwrap();
    assert_eq!(open(recipe, folder.path(), &mut Notes::default()).steps(), 1, "{}", first.display());
}

/// How long a training is can be decided while its rate is held: the steps are then those of a training that was so from the start.
#[test]
fn a_schedule_changes_only_where_the_rate_does_not_jump() {
    let folder = tempfile::tempdir().unwrap();
    let stop = AtomicBool::new(false);
    let with = |lines: &str| {
        let train =
            format!("batch = 1024\nmicro_batch = 512\nprecision = \"f32\"\nrate = 0.01\nsave_minutes = 1e6\n{lines}");
        recipe(folder.path(), MODEL, &train)
    };
    let long = "tokens = 40000\nwarm_up = 0.05\ncool_down = 0.2";
    let short = "tokens = 8000\nwarm_up = 0.25\ncool_down = 0.5";
    let mut trainer = open(with(long), folder.path(), &mut Notes::default());
    (0..3).for_each(|_| drop(trainer.step(&stop).unwrap()));
    trainer.save().unwrap();
    let mut notes = Notes::default();
    let mut trainer = open(with(short), folder.path(), &mut notes);
    assert!(trainer.steps() == 3 && notes.warnings[0].contains("from 40000 to 8000"), "{:?}", notes.warnings);
    trainer.run(&stop, &mut notes).unwrap();
    let rates: Vec<f64> = notes.steps.iter().map(|s| s.rate).collect();
    let other = folder.path().join("other");
    let mut whole = Notes::default();
    open(with(short), &other, &mut whole).run(&stop, &mut whole).unwrap();
    assert_eq!(rates, whole.steps[3..].iter().map(|s| s.rate).collect::<Vec<_>>());
    // Its rate has gone down: longer is too late.
    let late = Trainer::open(Setup::new(with(long)).unwrap(), kernels::Pool::new(1), &other, &mut Notes::default());
    let error = late.err().expect("a jump").to_string();
    assert!(error.contains("would jump from 0.000 to 1.000"), "{error}");
}

#[test]
fn what_was_trained_is_what_is_served() {
    let models = [
        MODEL.to_string(),
        format!("structure = \"mla-moe-v2\"\n{MODEL}"),
        format!("predict = true\n{MODEL}"),
        "structure = \"gqa\"\nactive = \"100K\"\ncontext = 48\nconfig = { hidden_size = 64, num_hidden_layers = 2 }".to_string(),
        "structure = \"gqa\"\nactive = \"100K\"\ncontext = 48\nconfig = { hidden_size = 64, num_hidden_layers = 2, model_type = \"mistral\", architectures = [\"MistralForCausalLM\"], sliding_window = 5 }".to_string(),
        "structure = \"gqa-moe\"\nactive = \"100K\"\ncontext = 48\nconfig = { hidden_size = 64, num_hidden_layers = 2 }".to_string(),
    ];
    for lines in models {
        let folder = tempfile::tempdir().unwrap();
        let train = "tokens = 4000\nbatch = 1024\nmicro_batch = 512\nprecision = \"f32\"\nrate = 0.02\nwarm_up = 0.0";
        let mut notes = Notes::default();
        let mut trainer = open(recipe(folder.path(), &lines, train), folder.path(), &mut notes);
        trainer.run(&AtomicBool::new(false), &mut notes).unwrap();
        assert!(notes.steps.last().unwrap().loss < notes.steps[0].loss - 0.3, "{lines}: it learns");
        let out = trainer.export(Format::F32).unwrap();
        let served = running::Runner::open(&out);
        let (batch, _) = trainer.setup.corpus.batch(0, 48).unwrap();
        let tokens = &batch.tokens[batch.documents[0].clone()];
        let mut alone = Batch::default();
        alone.document(tokens);
        let Setup { network, settings, .. } = &trainer.setup;
        let weights = trainer.weights().to_vec();
        let logits = network.logits(&kernels::Pool::new(1), settings, &weights, &alone);
        let apart = running::largest_difference(&logits, &served.whole(tokens).0);
        assert!(apart < 1e-4, "{lines}: {apart}");
        // What is stored in 16 bits is the nearest.
        let out = trainer.export(Format::Bf16).unwrap();
        let apart = running::largest_difference(&logits, &running::Runner::open(&out).whole(tokens).0);
        assert!((1e-6..0.2).contains(&apart), "{lines}: {apart}");
    }
}

/// Loads are counted once a token, whether activations are computed again or not, and measuring held-out text moves no bias.
#[test]
fn loads_are_counted_once_and_biases_move_once_a_step() {
    let folder = tempfile::tempdir().unwrap();
    let stop = AtomicBool::new(false);
    let mut seen = Vec::new();
    for recompute in [false, true] {
        let train = format!(
            "tokens = 8000\nbatch = 1024\nmicro_batch = 256\nprecision = \"f32\"\nrecompute = {recompute}\nbalance_bias = 0.01"
        );
        let recipe = recipe(folder.path(), MODEL, &train);
        let mut trainer = open(recipe, &folder.path().join(recompute.to_string()), &mut Notes::default());
        let choices: Vec<usize> = trainer.setup.network.choices().into_iter().flatten().collect();
        assert_eq!(choices.len(), 1, "the first layer is dense");
        assert!(trainer.setup.network.parameters[choices[0]].role == Role::Choice);
        for _ in 0..3 {
            let before = trainer.weights()[choices[0]].clone();
            let step = trainer.step(&stop).unwrap();
            assert_eq!(step.loads[0].tokens.iter().sum::<u64>(), 2 * step.step_tokens);
            let after = trainer.weights()[choices[0]].clone();
            // Once by 0.01 and then centred: never more than 0.02, though there are four parts of a batch.
            let moved: Vec<f32> = before.iter().zip(&after).map(|(b, a)| (a - b).abs()).collect();
            assert!(moved.iter().any(|&m| m > 0.004) && moved.iter().all(|&m| m < 0.0201), "{moved:?}");
            assert!(after.iter().sum::<f32>().abs() < 1e-6, "{after:?}");
            trainer.evaluate(&AtomicBool::new(false)).unwrap().unwrap();
            assert_eq!(trainer.weights()[choices[0]], after, "held-out text is not counted");
            seen.push((recompute, step.loads, step.loss));
        }
    }
    let (kept, again) = seen.split_at(3);
    for (a, b) in kept.iter().zip(again) {
        assert_eq!((&a.1, a.2), (&b.1, b.2), "computed again, the same");
    }
}

/// Bits a byte are what a person computes from the loss, and a stop leaves a state.
#[test]
fn held_out_text_and_a_stop() {
    let folder = tempfile::tempdir().unwrap();
    let train = "tokens = 3000\nbatch = 1024\nmicro_batch = 512\nprecision = \"f32\"";
    let mut notes = Notes::default();
    let mut trainer = open(recipe(folder.path(), MODEL, train), folder.path(), &mut notes);
    let evaluation = trainer.evaluate(&AtomicBool::new(false)).unwrap().unwrap();
    // Nothing is learnt yet: every token is about as likely, ln 400 nats.
    assert!((evaluation.loss - 400f64.ln()).abs() < 0.05, "{evaluation:?}");
    let error = trainer.run(&AtomicBool::new(true), &mut notes).unwrap_err();
    assert!(matches!(error, farthing_train::Error::Stopped), "{error}");
    assert!(folder.path().join("states/step-00000000/state.json").exists());
    trainer.run(&AtomicBool::new(false), &mut notes).unwrap();
    let last = notes.evaluations.last().unwrap();
    assert!(last.loss < evaluation.loss && last.bits_per_byte < evaluation.bits_per_byte);
    let ratio = evaluation.bits_per_byte / last.bits_per_byte;
    assert!((ratio - evaluation.loss / last.loss).abs() < 1e-9, "the same text both times");
}

/// After learning, so that texts differ in their loss: the mean of what each piece of held-out text has by itself, once.
#[test]
fn held_out_text_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    let train = "tokens = 4000\nbatch = 1024\nmicro_batch = 512\nprecision = \"f32\"\nrate = 0.02\nwarm_up = 0.0";
    let mut notes = Notes::default();
    let mut trainer = open(recipe(folder.path(), MODEL, train), folder.path(), &mut notes);
    trainer.run(&AtomicBool::new(false), &mut notes).unwrap();
    let measured = trainer.evaluate(&AtomicBool::new(false)).unwrap().unwrap().loss;
    let (pool, weights) = (kernels::Pool::new(1), trainer.weights().to_vec());
    let setup = &mut trainer.setup;
    let corpus = setup.held_out.as_mut().unwrap();
    let (mut loss, mut targets) = (0.0, 0);
    for place in 0..corpus.pieces() {
        let (batch, next) = corpus.batch(place, 1).unwrap();
        assert_eq!(next, place + 1);
        let outcome = setup.network.loss(&pool, &setup.settings, &weights, &batch);
        (loss, targets) = (loss + outcome.loss, targets + outcome.targets);
    }
    assert!((measured - loss / targets as f64).abs() < 1e-6, "{measured}, not {}", loss / targets as f64);
}

/// The same pieces, in another order.
#[test]
fn every_epoch_has_an_order_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let mut setup = Setup::new(recipe(folder.path(), MODEL, "tokens = 4000")).unwrap();
    let pieces = setup.corpus.pieces();
    let mut epoch = |n: u64| -> Vec<Vec<u32>> {
        (n * pieces..(n + 1) * pieces).map(|place| setup.corpus.batch(place, 1).unwrap().0.tokens).collect()
    };
    let [mut first, mut second] = [0, 1].map(&mut epoch);
    assert!(first != second);
    first.sort();
    second.sort();
    assert!(first == second);
}

/// Where the recipe leaves it open, activations are computed again exactly where they would not fit; the state is the same training's.
#[test]
fn activations_are_computed_again_where_memory_asks_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let train = "tokens = 8000\nbatch = 1024\nmicro_batch = 1024\nprecision = \"f32\"";
    let pool = kernels::Pool::new(1);
    let planned = |more: &str, available: u64| {
        let mut setup = Setup::new(recipe(folder.path(), MODEL, &format!("{train}{more}"))).unwrap();
        let measured = setup.measure_within(&pool, Some(available)).unwrap();
        (setup.settings.recompute, measured.memory)
    };
    let (again, whole) = planned("", u64::MAX);
    assert!(!again);
    let (again, less) = planned("", whole.total() - whole.activations / 2);
    assert!(again && less.activations < whole.activations, "{less:?} {whole:?}");
    assert_eq!(planned("", whole.total() + whole.activations / 10), (false, whole), "it just fits");
    assert_eq!(planned("\nrecompute = true", u64::MAX), (true, less), "asked for");
    let tight = whole.total() - whole.activations;
    assert!(!planned("\nrecompute = false", tight).0, "ruled out");
    let small = Setup::new(recipe(folder.path(), MODEL, train)).unwrap().measure_within(&pool, Some(1 << 20));
    let error = small.unwrap_err().to_string();
    assert!(error.contains("optimizer need") && error.contains("1 MiB are available"), "{error}");
    // Numbers do not change, so neither does the training.
    let mut trainer = open(recipe(folder.path(), MODEL, train), folder.path(), &mut Notes::default());
    trainer.step(&AtomicBool::new(false)).unwrap();
    trainer.save().unwrap();
    let mut setup = Setup::new(recipe(folder.path(), MODEL, train)).unwrap();
    setup.measure_within(&pool, Some(tight)).unwrap();
    assert!(setup.settings.recompute);
    let mut notes = Notes::default();
    let again = farthing_train::Trainer::open(setup, kernels::Pool::new(1), folder.path(), &mut notes).unwrap();
    assert_eq!((again.steps(), notes.warnings.len()), (1, 0));
}

/// What a sample says is what the written model says, greedily; a mark's name in a prompt is the mark; and sampling changes no number.
#[test]
fn samples_are_what_the_served_model_writes() {
    let folder = tempfile::tempdir().unwrap();
    let train = "tokens = 60000\nbatch = 1024\nmicro_batch = 512\nprecision = \"f32\"\nrate = 0.02";
    let text = |prompts: &str| {
        let evaluate = format!("{train}\n[evaluate]\nevery = 30000\n{prompts}");
        recipe(folder.path(), MODEL, &evaluate)
    };
    let run = |recipe, place: &str| {
        let mut notes = Notes::default();
        let mut trainer = open(recipe, &folder.path().join(place), &mut notes);
        trainer.run(&AtomicBool::new(false), &mut notes).unwrap();
        (trainer, notes)
    };
    let (without, none) = run(text("prompts = []"), "none");
    assert!(none.samples.is_empty());
    let file = tiny::dataset().join("tokenizer/tokenizer.json");
    let tokenizer = data::tokenizer::Tokenizer::open(&file, &Default::default()).unwrap();
    let [begin, end] = tokenizer.ends();
    let mark = std::str::from_utf8(tokenizer.bytes(end.unwrap())).unwrap();
    let prompts = format!("prompts = [\"What is 2 + 3?\", \"{mark}What is\"]");
    let (trainer, notes) = run(text(&prompts), "some");
    assert_eq!(bits(trainer.weights()), bits(without.weights()));
    let counted: Vec<u64> = notes.samples.iter().map(|samples| samples.tokens).collect();
    assert_eq!(counted, notes.evaluations.iter().map(|e| e.tokens).collect::<Vec<_>>());
    assert!(
        counted.len() >= 2
            && notes.samples.last().unwrap().texts == trainer.samples(&AtomicBool::new(false)).unwrap().texts
    );

    // One of them comes to the end of its document.
    let ended: Vec<bool> =
        notes.samples.iter().flat_map(|samples| samples.texts.iter().map(|text| text.ended)).collect();
    assert!(ended.contains(&true) && ended.contains(&false), "{:?}", notes.samples);
    let served = running::Runner::open(&trainer.export(Format::F32).unwrap());
    for (sample, (mark, plain)) in
        trainer.samples(&AtomicBool::new(false)).unwrap().texts.iter().zip([(None, "What is 2 + 3?"), (end, "What is")])
    {
        let mut tokens: Vec<u32> = begin.into_iter().chain(mark).collect();
        tokenizer.encode_plainly(plain, &mut tokens).unwrap();
        let prompt = tokens.len();
        while tokens.len() < prompt + 24 && tokens.last().copied() != end {
            let logits = served.whole(&tokens).0;
            let last = &logits[logits.len() - 400..];
            tokens.push(last.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0 as u32);
        }
        assert_eq!(sample.ended, tokens.last().copied() == end);
        tokens.truncate(tokens.len() - usize::from(sample.ended));
        let text = |tokens: &[u32]| -> String {
            String::from_utf8_lossy(&tokens.iter().flat_map(|&t| tokenizer.bytes(t).to_vec()).collect::<Vec<u8>>())
                .into()
        };
        assert_eq!(
            (&sample.prompt, &sample.text),
            (&text(&tokens[usize::from(begin.is_some())..prompt]), &text(&tokens[prompt..]))
        );
        assert!(!sample.text.is_empty());
    }
}

#[test]
fn prompts_are_of_held_out_text_or_fit_the_context() {
    let folder = tempfile::tempdir().unwrap();
    let mut setup = Setup::new(recipe(folder.path(), MODEL, "tokens = 4000")).unwrap();
    let corpus = setup.held_out.as_mut().unwrap();
    let pieces: Vec<Vec<u32>> = (0..corpus.pieces()).map(|place| corpus.batch(place, 1).unwrap().0.tokens).collect();
    let trainer = Trainer::open(setup, kernels::Pool::new(1), folder.path(), &mut Notes::default()).unwrap();
    let samples = trainer.samples(&AtomicBool::new(false)).unwrap().texts;
    assert!(samples.len() == 3 && samples[0] != samples[1] && samples[1] != samples[2]);
    let file = tiny::dataset().join("tokenizer/tokenizer.json");
    let tokenizer = data::tokenizer::Tokenizer::open(&file, &Default::default()).unwrap();
    let text = |tokens: &[u32]| -> Vec<u8> { tokens.iter().flat_map(|&t| tokenizer.bytes(t).to_vec()).collect() };
    for sample in &samples {
        let from = pieces.iter().find(|tokens| text(&tokens[1..]).starts_with(sample.prompt.as_bytes()));
        assert!(from.is_some_and(|tokens| text(&tokens[1..]).len() > sample.prompt.len()), "{sample:?}");
    }
    let refused = |prompts: &str| {
        let train = format!("tokens = 4000\n[evaluate]\nprompts = [{prompts}]");
        Setup::new(recipe(folder.path(), MODEL, &train)).err().expect("it is refused").to_string()
    };
    let long = refused(&format!("\"short\", {:?}", "12 ".repeat(40)));
    assert!(
        long.contains("[evaluate] prompts[1] has ") && long.contains("from 1 to 24 fit into the context of 48"),
        "{long}"
    );
}
