//! Laws of all generators

use std::collections::HashSet;

use rand::SeedableRng;
use rand_pcg::Pcg64;
use regex::Regex;

use super::conversation::{Conversation, Role};
use super::manual::Manual;
use super::{Generated, Generator, KINDS, english};

/// Documents of a generator, each from a random generator of its own.
pub fn documents(generator: &dyn Generator, held_out: bool, count: u64) -> Vec<Generated> {
    (0..count).map(|seed| generator.generate(&mut Pcg64::seed_from_u64(seed), held_out)).collect()
}

/// A part of the help of Farthing, as the command line may hand it in.
pub fn manual() -> Manual {
    serde_json::from_str(include_str!("../../tests/data/manual.json")).unwrap()
}

/// Generators whose label `frame` names lines of a file of frames, joined by `+`.
fn framed() -> Vec<(&'static str, Box<dyn Generator>)> {
    let framed = ["sums", "word_problems", "json", "formats", "copies", "about", "help"];
    let kinds = KINDS.iter().filter(|kind| framed.contains(&kind.name));
    kinds.map(|kind| (kind.name, (kind.make)(toml::Table::new(), &manual()).unwrap())).collect()
}

#[test]
fn frames_and_names_are_in_one_set_only() {
    for (name, generator) in framed() {
        let seen = |held_out| {
            let mut frames = HashSet::new();
            let mut names = HashSet::new();
            for document in documents(&*generator, held_out, 20_000) {
                let frame = document.labels["frame"].as_str().unwrap().to_owned();
                frames.extend(frame.split('+').filter(|part| *part != "line").map(str::to_owned));
                for person in document.labels.get("names").and_then(|names| names.as_array()).into_iter().flatten() {
                    names.insert(person.as_str().unwrap().to_owned());
                }
            }
            (frames, names)
        };
        let (training, held_out) = (seen(false), seen(true));
        assert!(!training.0.is_empty() && !held_out.0.is_empty());
        assert_eq!(training.0.intersection(&held_out.0).next(), None, "{name}");
        assert_eq!(training.1.intersection(&held_out.1).next(), None, "{name}");
        println!("{name}: {} frames in training, {} held out", training.0.len(), held_out.0.len());
    }
}

#[test]
fn the_same_seed_gives_the_same_document() {
    for (name, generator) in framed() {
        for held_out in [false, true] {
            assert_eq!(documents(&*generator, held_out, 300), documents(&*generator, held_out, 300), "{name}");
        }
    }
}

#[test]
fn text_is_that_of_the_messages() {
    for (name, generator) in framed() {
        for document in documents(&*generator, false, 2_000) {
            let Some(messages) = document.labels.get("messages") else { continue };
            let mut conversation = Conversation::default();
            for message in messages.as_array().unwrap() {
                let roles = [Role::System, Role::User, Role::Assistant];
                let role = roles.into_iter().find(|role| role.name() == message["role"]).unwrap();
                conversation = conversation.then(role, message["content"].as_str().unwrap());
            }
            assert_eq!(conversation.text(), document.text, "{name}");
        }
    }
}

#[test]
fn language_is_clean() {
    let doubled = Regex::new(r"\b(?:a a|the the|of of|to to|is is|and and|in in|an an|has has|have have)\b").unwrap();
    let article = Regex::new(r"(?:^|[^A-Za-z'])([Aa]n?) ([A-Za-z]+)").unwrap();
    for (name, generator) in framed() {
        for document in [documents(&*generator, false, 5_000), documents(&*generator, true, 2_000)].concat() {
            let text = &document.text;
            assert!(text.is_ascii(), "{name}: {text}");
            assert!(!text.contains(['{', '}']) || ["json", "copies"].contains(&name), "{name}: {text}");
            assert!(!text.contains("  ") || ["json", "formats", "help"].contains(&name), "{name}: {text}");
            assert!(!text.contains(" .") && !text.contains(" ,") && !text.contains(",."), "{name}: {text}");
            assert!(!text.contains("..") || name == "help", "{name}: {text}");
            assert!(!doubled.is_match(text), "{name}: {text}");
            if ["help", "formats", "json", "copies"].contains(&name) {
                continue;
            }
            for found in article.captures_iter(text) {
                assert_eq!(found[1].to_lowercase(), english::article(&found[2]), "{name}: {text}");
            }
        }
    }
}
