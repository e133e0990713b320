//! Directories that a run may make, replace or read, and those that it leaves alone.

use super::*;

/// A directory in which somebody works is no place for a dataset, whatever the names of its folders.
#[test]
fn a_directory_of_other_files_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path());
    let out = folder.path().join("project");
    std::fs::create_dir_all(out.join("documents")).unwrap();
    std::fs::write(out.join("documents/thesis.txt"), "mine").unwrap();
    std::fs::write(out.join("dataset.json"), "{}").unwrap();
    std::fs::write(out.join("main.py"), "mine").unwrap();
    let options = options(&out, 2);
    let error = make(&recipe(folder.path(), RECIPE), options.clone()).unwrap_err().to_string();
    assert!(error.contains("no dataset's, such as \"main.py\"") && error.contains("--out"), "{error}");
    assert_eq!(std::fs::read_to_string(out.join("documents/thesis.txt")).unwrap(), "mine");
    assert!(!out.join("work").exists());
    // Once a dataset is there, files beside it and in its folders are no obstacle, and stay.
    std::fs::remove_dir_all(&out).unwrap();
    make(&recipe(folder.path(), RECIPE), options.clone()).unwrap();
    let mine = ["main.py", "documents/notes.txt", "rejected/thesis/1.txt", "shards/notes.bin"];
    for file in mine {
        std::fs::create_dir_all(out.join(file).parent().unwrap()).unwrap();
        std::fs::write(out.join(file), "mine").unwrap();
    }
    let without = RECIPE.split("[tokenizer]").next().unwrap();
    make(&recipe(folder.path(), without), Options { replace: true, ..options }).unwrap();
    let is_mine = |file: &&str| std::fs::read_to_string(out.join(file)).is_ok_and(|text| text == "mine");
    assert_eq!(mine.iter().filter(|file| is_mine(file)).count(), mine.len());
    assert_eq!(files(&out.join("shards")).len(), 1, "shards of the earlier recipe are gone");
}

/// A name that a dataset has too does not make a directory one.
#[test]
fn a_directory_with_a_readme_of_its_own_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path());
    let out = folder.path().join("project");
    let recipe = recipe(folder.path(), RECIPE);
    for mine in ["README.md", "documents/thesis.txt", "work/thesis.txt"] {
        std::fs::create_dir_all(out.join(mine).parent().unwrap()).unwrap();
        std::fs::write(out.join(mine), "mine").unwrap();
        let error = make(&recipe, options(&out, 2)).unwrap_err().to_string();
        assert!(error.contains("no dataset's") && error.contains("--out"), "{error}");
        assert_eq!(std::fs::read_to_string(out.join(mine)).unwrap(), "mine");
        std::fs::remove_dir_all(&out).unwrap();
    }
    // One that was finished is made again after its manifest was removed.
    make(&recipe, options(&out, 2)).unwrap();
    let before = files(&out);
    std::fs::remove_file(out.join("dataset.json")).unwrap();
    make(&recipe, options(&out, 2)).unwrap();
    assert!(files(&out) == before);
}

/// Another recipe of the same name does not take the place of what is finished unless somebody says so.
#[test]
fn a_finished_dataset_is_replaced_on_request_only() {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path());
    let out = folder.path().join("out");
    make(&recipe(folder.path(), RECIPE), options(&out, 2)).unwrap();
    let before = files(&out);
    let changed = RECIPE.replace("words_min = 30", "words_min = 31");
    let hash = |text: &str| blake3::hash(text.as_bytes()).to_hex()[..12].to_string();
    let error = make(&recipe(folder.path(), &changed), options(&out, 2)).unwrap_err().to_string();
    assert!(error.contains(&hash(RECIPE)) && error.contains(&hash(&changed)) && error.contains("--replace"), "{error}");
    std::fs::write(folder.path().join("book-9.txt"), prose(9, 400)).unwrap();
    let error = make(&recipe(folder.path(), RECIPE), options(&out, 2)).unwrap_err().to_string();
    assert!(error.contains("the sources or this program have changed") && error.contains("--replace"), "{error}");
    assert!(files(&out) == before, "nothing is touched");
    make(&recipe(folder.path(), &changed), Options { replace: true, ..options(&out, 2) }).unwrap();
    assert_ne!(files(&out)[Path::new("dataset.json")], before[Path::new("dataset.json")]);
}

#[test]
fn a_recipe_does_not_read_what_it_makes() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.jsonl"), serde_json::json!({"text": prose(1, 30)}).to_string()).unwrap();
    let text = "name = \"a\"\n[[sources]]\nname = \"s\"\nfiles = [\"**/*.jsonl*\"]\n";
    let options = options(&folder.path().join("out"), 1);
    make(&recipe(folder.path(), text), options.clone()).unwrap();
    let error = make(&recipe(folder.path(), text), options).unwrap_err().to_string();
    assert!(error.contains("train-00000.jsonl.zst") && error.contains("source s reads it"), "{error}");
}

/// What a stranger left in a directory leads nowhere else.
#[test]
fn a_work_directory_that_is_a_link_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path());
    let (out, elsewhere) = (folder.path().join("out"), folder.path().join("elsewhere"));
    std::fs::create_dir_all(&out).unwrap();
    std::fs::create_dir_all(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, out.join("work")).unwrap();
    let error = make(&recipe(folder.path(), RECIPE), options(&out, 1)).unwrap_err().to_string();
    assert!(error.contains("a link"), "{error}");
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
}

#[test]
fn a_dataset_does_not_take_the_place_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path());
    let error =
        make(&recipe(folder.path(), RECIPE), options(&folder.path().join("a.jsonl"), 1)).unwrap_err().to_string();
    assert!(error.contains("a.jsonl: a file; a dataset is a directory"), "{error}");
}
