//! What a user gets wrong: each is an error that names file, key and value, and nothing is half-written.

mod tiny;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use farthing_train::{Error, Recipe, Setup, Trainer};
use kernels::Pool;
use tiny::{MODEL, Notes, dataset, open, recipe};

const TRAIN: &str = "tokens = 8000\nbatch = 1024\nmicro_batch = 512\nprecision = \"f32\"";

fn refused(recipe: Recipe) -> String {
    Setup::new(recipe).err().expect("refused").to_string()
}

/// What a recipe of this text is refused for, in reading or in planning.
fn refused_text(folder: &Path, text: &str) -> String {
    let file = folder.join("recipe.toml");
    fs::write(&file, text).unwrap();
    let error = match Recipe::read(&file) {
        Ok(recipe) => Setup::new(recipe).err().expect("refused"),
        Err(error) => error,
    };
    assert!(matches!(error, Error::Recipe { .. }), "{error:?}");
    let error = error.to_string();
    assert!(error.starts_with(&format!("{}: ", file.display())), "{error}");
    error
}

#[test]
fn settings_that_contradict_each_other_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset().display();
    let of = |model: &str, train: &str| {
        let text = format!("name = \"m\"\ndata = \"{data}\"\n[model]\n{model}\n[train]\n{train}\n");
        refused_text(folder.path(), &text)
    };
    for (train, said) in [
        ("tokens = 0", "[train] tokens = 0: at least 1"),
        ("tokens = 8000\nbatch = 0", "[train] batch = 0"),
        ("tokens = 8000\nmicro_batch = 0", "[train] micro_batch = 0"),
        ("tokens = 8000\nbatch = 512\nmicro_batch = 1024", "micro_batch = 1024 is more than batch = 512"),
        ("tokens = 800\nbatch = 1024", "batch = 1024 is more than tokens = 800"),
        ("tokens = 8000\nbatch = 1024\nmicro_batch = 32", "micro_batch = 32 is below [model] context = 48"),
        ("tokens = 8000\nwarm_up = 0.6\ncool_down = 0.5", "warm_up = 0.6 and cool_down = 0.5"),
        ("tokens = 8000\nschedule = \"cosine\"\nwarm_up = 1.0", "[train] warm_up = 1: below 1"),
        ("tokens = \"10G\"\nbatch = \"2G\"", "[train] batch = 2000000000: at most 1073741824"),
        ("tokens = \"10G\"\nmicro_batch = \"2M\"", "[train] micro_batch = 2000000: at most 1048576"),
        ("tokens = 8000\nwarm_up = -0.1", "[train] warm_up = -0.1: a share"),
        ("tokens = 8000\nend = nan", "[train] end = NaN: a share"),
        ("tokens = 8000\nrate = -1e-3", "[train] rate = -0.001: above 0"),
        ("tokens = 8000\nrate = nan", "[train] rate = NaN: above 0"),
        ("tokens = 8000\nrate = inf", "[train] rate = inf: above 0"),
        ("tokens = 8000\nclip = nan", "[train] clip = NaN: above 0"),
        ("tokens = 8000\nmomentum = 1.0", "[train] momentum = 1: a decay"),
        ("tokens = 8000\nbetas = [0.9, 1.5]", "[train] betas[1] = 1.5: a decay"),
        ("tokens = 8000\nembedding_rate = -1.0", "[train] embedding_rate = -1: a number from 0 on"),
        ("tokens = 8000\nbalance_loss = -1.0", "[train] balance_loss = -1: a number from 0 on"),
        ("tokens = 8000\nbalance_bias = nan", "[train] balance_bias = NaN"),
        ("tokens = 8000\nprediction = inf", "[train] prediction = inf"),
        ("tokens = 8000\nsave_minutes = -1", "[train] save_minutes = -1: above 0"),
        ("tokens = \"many\"", "line 8: \"many\" is no count"),
        ("tokens = 8000\n[evaluate]\nevery = 0", "[evaluate] every and tokens are at least 1"),
    ] {
        let error = of(MODEL, train);
        assert!(error.contains(said), "{train}: {error}");
    }
    for (model, said) in [
        ("context = 48", "[model] says neither active"),
        ("active = 0", "[model] active = 0"),
        ("active = \"60K\"\nfrom = \"x\"", "leave out active and config"),
        ("active = \"60K\"\ncontext = 1", "[model] context = 1: from 2"),
        ("active = \"60K\"\nconfig = { num_experts_per_tok = 99 }", "99 active of 16 experts"),
        ("structure = \"gqa\"\nactive = \"60K\"\nconfig = { model_type = \"gemma3_text\" }", "[model] config: "),
        ("active = \"60K\"\nconfig = { n_group = 3, topk_group = 1 }", "16 experts in 3 groups"),
    ] {
        let error = of(model, "tokens = 8000\nbatch = 1024");
        assert!(error.contains(said), "{model}: {error}");
    }
}

#[test]
fn an_unknown_key_has_a_line_and_the_nearest_name() {
    let folder = tempfile::tempdir().unwrap();
    for (text, said) in [
        ("nam = \"m\"", "line 1: unknown field `nam`, expected one of `name`"),
        ("name = \"m\"\n[model]\nactiv = \"5M\"", "line 3: unknown field `activ`"),
        (
            "name = \"m\"\ndata = \"d\"\n[model]\nactive = \"5M\"\n[train]\ntokens = 5\nmicrobatch = 3",
            "did you mean `micro_batch`?",
        ),
        (
            "name = \"m\"\ndata = \"d\"\n[model]\nactive = \"5M\"\nstructure = \"mla-mo\"\n[train]\ntokens = 5",
            "did you mean `mla-moe`?",
        ),
    ] {
        let error = refused_text(folder.path(), text);
        assert!(error.contains(said), "{text}: {error}");
    }
    let error = refused_text(folder.path(), "zzz = 1");
    assert!(!error.contains("did you mean"), "{error}");
}

#[test]
fn what_is_no_dataset_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!("name = \"m\"\ndata = \"nowhere\"\n[model]\n{MODEL}\n[train]\n{TRAIN}\n");
    fs::write(folder.path().join("r.toml"), text).unwrap();
    let error = refused(Recipe::read(&folder.path().join("r.toml")).unwrap());
    assert!(error.contains("nowhere: no dataset with shards is there; `farthing data` makes one"), "{error}");
    fs::create_dir_all(folder.path().join("nowhere/shards")).unwrap();
    let error = refused(Recipe::read(&folder.path().join("r.toml")).unwrap());
    assert!(error.contains("shards.json"), "{error}");
}

/// A copy of the dataset, and a recipe over it.
fn copied(folder: &Path) -> (PathBuf, Recipe) {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy(&entry.path(), &to);
            } else {
                fs::copy(entry.path(), to).unwrap();
            }
        }
    }
    let data = folder.join("data");
    copy(dataset(), &data);
    let mut recipe = recipe(folder, MODEL, TRAIN);
    recipe.data.clone_from(&data);
    (data, recipe)
}

#[test]
fn shards_that_were_cut_short_or_changed_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (data, recipe) = copied(folder.path());
    Setup::new(recipe.clone()).unwrap();
    for name in ["train-00001.bin", "train-00000.idx", "held_out-00000.bin"] {
        let file = data.join("shards").join(name);
        let whole = fs::read(&file).unwrap();
        let mut changed = whole.clone();
        changed[whole.len() / 2] ^= 1;
        for damaged in [whole[..whole.len() - 2].to_vec(), changed] {
            fs::write(&file, damaged).unwrap();
            let error = refused(recipe.clone());
            // What the index tells is found before hashes are computed.
            let told = ["cut short or changed", "which is not inside", "its blake3 is"];
            assert!(error.contains(name) && told.iter().any(|told| error.contains(told)), "{error}");
        }
        fs::remove_file(&file).unwrap();
        assert!(refused(recipe.clone()).contains(name));
        fs::write(&file, whole).unwrap();
    }
}

#[test]
fn a_tokenizer_that_is_not_that_of_the_shards_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (data, recipe) = copied(folder.path());
    let file = data.join("tokenizer/tokenizer.json");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text} ")).unwrap();
    let error = refused(recipe.clone());
    assert!(error.contains("tokenizer.json: the shards were made with another tokenizer"), "{error}");
    fs::remove_file(&file).unwrap();
    assert!(refused(recipe).contains("tokenizer.json"));
}

/// A reference checkpoint of the model crate beside the dataset's tokenizer, and a recipe that goes on from it.
fn from(folder: &Path, case: &str, more: &str) -> Recipe {
    let oracle = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/data/oracle").join(case);
    let checkpoint = folder.join(case);
    fs::create_dir_all(&checkpoint).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(oracle.join(name), checkpoint.join(name)).unwrap();
    }
    fs::copy(dataset().join("tokenizer/tokenizer.json"), checkpoint.join("tokenizer.json")).unwrap();
    recipe(folder, &format!("from = {case:?}\n{more}"), "tokens = 8000\nbatch = 1024\nprecision = \"f32\"")
}

#[test]
fn a_checkpoint_that_is_not_trained_is_named_with_those_that_are() {
    let folder = tempfile::tempdir().unwrap();
    for case in ["mixtral", "granite", "gemma3"] {
        let error = refused(from(folder.path(), case, "context = 64"));
        assert!(error.contains(case) && error.contains("trained are llama, mistral"), "{error}");
    }
    let error = refused(from(folder.path(), "llama-gqa", "context = 4096"));
    assert!(error.contains("[model] context = 4096: the checkpoint was made for 1024"), "{error}");
    // The configuration of one model, the tensors of another.
    let recipe = from(folder.path(), "llama-gqa", "context = 64");
    let place = folder.path().join("llama-gqa");
    fs::copy(folder.path().join("mixtral/model.safetensors"), place.join("model.safetensors")).unwrap();
    let error = refused(recipe);
    assert!(error.contains("llama-gqa") && error.contains("tensor "), "{error}");
    let error = refused(tiny::recipe(folder.path(), "from = \"nowhere\"", "tokens = 8000"));
    assert!(error.contains("nowhere"), "{error}");
}

/// The training ends with the step, the loss and the state to go on from; that state stays, and no other is written.
#[test]
fn a_rate_that_diverges_ends_at_the_last_good_state() {
    let folder = tempfile::tempdir().unwrap();
    let train = "tokens = 60000\nbatch = 512\nmicro_batch = 512\nprecision = \"f32\"\nrate = 1.0\nwarm_up = 0.0\ncool_down = 0.0\noptimizer = \"adamw\"";
    let mut notes = Notes::default();
    let mut trainer = open(recipe(folder.path(), MODEL, train), folder.path(), &mut notes);
    let saved = trainer.save().unwrap();
    let result = trainer.run(&AtomicBool::new(false), &mut notes);
    let error = result.expect_err(&format!("{:?}", notes.steps.iter().map(|s| s.loss).collect::<Vec<_>>()));
    assert!(matches!(error, Error::Diverged { .. }), "{error}");
    let said = error.to_string();
    let step = notes.steps.len() + 1;
    assert!(said.contains(&format!("step {step}: the loss is ")), "{said}");
    assert!(said.contains(saved.to_str().unwrap()) && said.contains("lower [train] rate"), "{said}");
    let states: Vec<_> = fs::read_dir(folder.path().join("states")).unwrap().collect();
    assert_eq!(states.len(), 1, "the last good state alone");
    assert!(!folder.path().join("model").exists());
    // From there it goes on.
    let recipe = recipe(folder.path(), MODEL, train);
    let again = Trainer::open(Setup::new(recipe).unwrap(), Pool::new(1), folder.path(), &mut Notes::default()).unwrap();
    assert_eq!(again.steps(), 0);
}
