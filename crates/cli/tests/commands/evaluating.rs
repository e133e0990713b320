//! `farthing eval` with the bundled model.

use serde_json::Value;

use super::*;

fn report(args: &[&str]) -> Value {
    let mut report: Value = serde_json::from_str(&succeed(&[&["eval", "-q", "--json"], args].concat(), "")).unwrap();
    report.as_object_mut().unwrap().remove("seconds");
    report
}

#[test]
fn skills_have_figures_and_the_same_ones_each_time() {
    let model = bundled();
    let args = [model.to_str().unwrap(), "--samples", "3", "--seed", "7"];
    let first = report(&args);
    assert_eq!(first, report(&args));
    let skills = first["skills"].as_array().unwrap();
    let names: Vec<&str> = skills.iter().map(|skill| skill["skill"].as_str().unwrap()).collect();
    assert_eq!(names, ["stories", "sums", "word-problems", "passages", "help", "json", "blimp", "reading"]);
    for skill in skills {
        assert!(skill["too_long"] == 0 || skill["skill"] == "reading", "{skill}");
        for measure in skill["measures"].as_array().unwrap() {
            assert!(measure["right"].as_f64().unwrap() <= measure["of"].as_f64().unwrap(), "{measure}");
        }
    }
    // No command and no flag is invented, whatever the model says.
    assert_eq!(skills[4]["measures"][3]["name"], "nothing invented");
    assert_eq!(
        (skills[4]["measures"][3]["share"].as_f64(), skills[4]["measures"][3]["of"].as_u64()),
        (Some(1.0), Some(4))
    );
    assert_eq!(skills[6]["paradigms"].as_array().unwrap().len(), 67);
    assert_eq!(skills[6]["measures"][0]["of"], 3 * 67);
    let read = &skills[7]["bits_per_byte"];
    assert_eq!(read["texts"].as_u64().unwrap() + skills[7]["too_long"].as_u64().unwrap(), 3, "{read}");
    assert!((0.1..8.0).contains(&read["bits_per_byte"].as_f64().unwrap()), "{read}");
    // Another seed asks other questions.
    let other = report(&[model.to_str().unwrap(), "--samples", "3", "--seed", "8", "--skill", "sums"]);
    assert_ne!(other["skills"][0]["wrong"][0]["prompt"], skills[1]["wrong"][0]["prompt"]);
}

#[test]
fn paradigms_are_shown_of_their_skill_alone() {
    let model = bundled();
    let text = succeed(&["eval", model.to_str().unwrap(), "-q", "--skill", "blimp", "--samples", "2"], "");
    assert!(text.contains("grammatical is likelier") && text.contains("  adjunct_island"), "{text}");
    let both = succeed(&["eval", model.to_str().unwrap(), "-q", "--skill", "sums,blimp", "--samples", "2"], "");
    assert!(both.contains("products of one digit") && !both.contains("adjunct_island"), "{both}");
    assert!(both.lines().all(|line| line.chars().count() <= 80), "{both}");
}

#[test]
fn mistakes_are_told_before_a_model_is_loaded() {
    let output = run_with(&["eval", "nowhere", "--skill", "sums,storys"], "");
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert!(err.contains("did you mean stories?"), "{err}");
    let output = run_with(&["eval", "nowhere", "--samples", "0"], "");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_model_without_a_template_and_one_with_a_small_context_are_measured() {
    let scratch = Scratch::new("eval");
    let copy = scratch.model();
    let file = copy.join("tokenizer_config.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    json.as_object_mut().unwrap().remove("chat_template");
    std::fs::write(&file, json.to_string()).unwrap();
    let path = copy.to_str().unwrap();
    let report = report(&[path, "--samples", "2", "--skill", "json"]);
    assert_eq!(report["skills"][0]["measures"][0]["of"], 2);
    let output = run_with(&["eval", path, "-q", "--context", "20", "--samples", "4", "--skill", "passages"], "");
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{err}");
    assert!(err.contains("4 prompts too long for the context and counted as wrong"), "{err}");
    assert!(out.contains("exact span"), "{out}");
}
