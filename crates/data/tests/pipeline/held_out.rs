//! What is held out: a split of its own, whole with its copies, which no tokenizer learns from and no record decides.

use super::*;

/// `datasets.load_dataset` takes the files of a split as the card names them.
#[test]
fn what_is_held_out_is_a_split_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path());
    let out = folder.path().join("out");
    let report = make(&recipe(folder.path(), RECIPE), options(&out, 2)).unwrap().unwrap();
    let mut splits = [0, 0];
    for path in files(&out.join("documents")).keys() {
        let held_out = path.to_str().unwrap().starts_with("held_out-");
        assert!(held_out || path.to_str().unwrap().starts_with("train-"), "{}", path.display());
        for document in Reader::<Document>::open(&out.join("documents").join(path)).unwrap() {
            assert_eq!(document.unwrap().labels.contains_key("held_out"), held_out, "{}", path.display());
            splits[usize::from(held_out)] += 1;
        }
    }
    assert!(splits[0] > 0 && splits[1] > 0);
    assert_eq!(report.total.held_out.documents, splits[1]);
    let card = std::fs::read_to_string(out.join("README.md")).unwrap();
    let named =
        |card: &str| card.contains("- split: held_out\n    path: documents/held_out-*.jsonl.zst\ndataset_info:");
    assert!(card.contains("- split: train\n    path: documents/train-*.jsonl.zst\n") && named(&card), "{card}");
    let without =
        make(&recipe(folder.path(), &RECIPE.replace("held_out = 0.1", "")), options(&folder.path().join("b"), 2));
    assert_eq!(without.unwrap().unwrap().total.held_out.documents, 0);
    assert!(!named(&std::fs::read_to_string(folder.path().join("b/README.md")).unwrap()));
}

/// By their text, whatever their ids are.
#[test]
fn copies_are_held_out_together() {
    let folder = tempfile::tempdir().unwrap();
    let line = |i: u32| serde_json::json!({"text": prose(i, 30), "id": "same"}).to_string();
    let lines: Vec<String> = (0..200).chain(0..200).map(line).collect();
    std::fs::write(folder.path().join("a.jsonl"), lines.join("\n")).unwrap();
    let text = "name = \"a\"\nheld_out = 0.1\n[[sources]]\nname = \"s\"\nfiles = [\"a.jsonl\"]\nid = \"id\"\n";
    let out = folder.path().join("out");
    make(&recipe(folder.path(), text), options(&out, 2)).unwrap();
    let mut by_text: BTreeMap<String, Vec<bool>> = BTreeMap::new();
    for document in documents(&out) {
        by_text.entry(document.text().to_string()).or_default().push(document.labels.contains_key("held_out"));
    }
    assert!(by_text.len() == 200 && by_text.values().all(|held| held.len() == 2 && held[0] == held[1]));
    assert!((8..40).contains(&by_text.values().filter(|held| held[0]).count()));
}

/// The words of documents that are held out are no tokens: no merge was learnt from them.
#[test]
fn a_tokenizer_is_not_trained_on_what_is_held_out() {
    let folder = tempfile::tempdir().unwrap();
    let letter = |i: usize| char::from(b'a' + (i % 20) as u8);
    let word = |i: usize| format!("{0}{1}q{1}{0}", letter(i), letter(i / 2 + 7));
    let lines = (0..40).map(|i| serde_json::json!({"text": format!("{} ", word(i)).repeat(20 * i + 20)}).to_string());
    std::fs::write(folder.path().join("a.jsonl"), lines.collect::<Vec<_>>().join("\n")).unwrap();
    let text = "name = \"a\"\nheld_out = 0.4\n[[sources]]\nname = \"s\"\nfiles = [\"a.jsonl\"]\n\
                [tokenizer]\nvocabulary_size = 340\n[shards]\n";
    let out = folder.path().join("out");
    make(&recipe(folder.path(), text), options(&out, 2)).unwrap();
    let tokenizer = std::fs::read_to_string(out.join("tokenizer/tokenizer.json")).unwrap();
    let (mut learnt, mut unseen) = (0, 0);
    for document in documents(&out) {
        let word = document.text().split(' ').next().unwrap();
        let is_token = tokenizer.contains(&format!("\"\u{120}{word}\""));
        if document.labels.contains_key("held_out") {
            assert!(!is_token, "{word}");
            unseen += 1;
        } else {
            learnt += usize::from(is_token);
        }
    }
    assert!(learnt > 10 && unseen > 5, "{learnt} {unseen}");
}

#[test]
fn a_record_has_no_say_in_what_is_held_out() {
    let folder = tempfile::tempdir().unwrap();
    let line = |i: u32| serde_json::json!({"text": prose(i, 30), "held_out": true}).to_string();
    let lines: Vec<String> = (0..200).map(line).collect();
    std::fs::write(folder.path().join("a.jsonl"), lines.join("\n")).unwrap();
    let text = "name = \"a\"\nheld_out = 0.1\n[[sources]]\nname = \"s\"\nfiles = [\"a.jsonl\"]\nkeep = [\"held_out\"]\n\
                [tokenizer]\nvocabulary_size = 280\n[shards]\n";
    let out = folder.path().join("out");
    make(&recipe(folder.path(), text), options(&out, 2)).unwrap();
    let held_out = documents(&out).iter().filter(|document| document.labels.contains_key("held_out")).count() as u64;
    assert!((8..40).contains(&held_out), "{held_out}");
    let shards = Shards::open(&out.join("shards")).unwrap();
    let in_split = |split| shards.splits[&split].iter().map(|shard| shard.written.documents).sum::<u64>();
    assert_eq!((in_split(Split::Train), in_split(Split::HeldOut)), (200 - held_out, held_out));
}
