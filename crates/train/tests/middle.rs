//! A recipe that comes with the program, over tiny data, from a state in its middle: the steps are those of a training that was never stopped.

mod tiny;

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use farthing_train::{Recipe, Step};
use tiny::{Notes, dataset, open};

/// The recipe with the tiny dataset and so many tokens; all else is as it stands in the file.
fn short(name: &str, folder: &Path, tokens: u64) -> Recipe {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes").join(name);
    let text = fs::read_to_string(&file).unwrap();
    let replaced = |line: &str| match line.split_once(" = ") {
        Some(("data", _)) => format!("data = {:?}\n", dataset().display().to_string()),
        Some(("tokens", _)) => format!("tokens = {tokens}\nsave_minutes = 1e6\n"),
        _ => format!("{line}\n"),
    };
    let own: String = text.lines().map(replaced).collect();
    assert_eq!(text.lines().zip(own.lines()).filter(|(a, b)| a != b).count(), 2, "{own}");
    fs::write(folder.join(name), own).unwrap();
    Recipe::read(&folder.join(name)).unwrap()
}

/// Loss, norm, rate and experts' tokens of a step, to the bit.
fn figures(step: &Step) -> (u64, [u64; 3], Vec<Vec<u64>>) {
    let loads = step.loads.iter().map(|load| load.tokens.clone()).collect();
    (step.step, [step.loss, step.norm, step.rate].map(f64::to_bits), loads)
}

/// Four steps over more than two epochs, the state between the second and the third: the rate is held before it, and goes down behind.
#[test]
fn the_recipe_of_five_minutes_goes_on_from_its_middle() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = short("five-minutes.toml", folder.path(), 4 * 4096);
    let (mut whole, never) = (Notes::default(), AtomicBool::new(false));
    let mut trainer = open(recipe.clone(), &folder.path().join("whole"), &mut whole);
    assert_eq!(trainer.setup.batch, 4096, "as large as a micro-batch");
    assert_eq!(trainer.setup.embedding_rate, 10.0, "fresh rows are of size one");
    trainer.run(&never, &mut whole).unwrap();
    assert_eq!(whole.steps.len(), 4);
    assert!(whole.steps[3].loss < whole.steps[0].loss - 0.2, "it learns: {:?}", whole.steps);

    let place = folder.path().join("middle");
    let mut trainer = open(recipe.clone(), &place, &mut Notes::default());
    for _ in 0..2 {
        trainer.step(&never).unwrap();
    }
    let middle = trainer.save().unwrap();
    assert!(middle.ends_with("step-00000002"), "{}", middle.display());
    drop(trainer);

    let mut rest = Notes::default();
    let mut trainer = open(recipe, &place, &mut rest);
    assert_eq!(trainer.steps(), 2);
    trainer.run(&never, &mut rest).unwrap();
    let [expected, found] =
        [&whole.steps[2..], &rest.steps[..]].map(|steps| steps.iter().map(figures).collect::<Vec<_>>());
    assert_eq!(found, expected);
}
