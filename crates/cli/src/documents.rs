//! Commands in the documents: each is parsed as the command line would be.

use std::path::{Path, PathBuf};

use clap::Parser;
use clap::error::ErrorKind;

use crate::Arguments;

/// How a line of a document may call the binary.
const CALLS: [&str; 6] = [
    "farthing ",
    "./farthing ",
    "target/release/farthing ",
    "target/debug/farthing ",
    "cargo run --release -- ",
    "ExecStart=/usr/local/bin/farthing ",
];

/// Words that stand for a number.
const NUMBERS: [&str; 2] = ["N", "TOKENS"];

fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = vec![root.join("packaging/farthing.service")];
    for folder in ["", "docs", "packaging", "fuzz", "models/pocket", "models/seed-5.7m"] {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "md") && path.file_name().unwrap() != "LOG.md" {
                found.push(path);
            }
        }
    }
    found
}

/// The lines of a text, those that end with a backslash joined with the next.
fn joined(text: &str) -> Vec<String> {
    let (mut lines, mut open) = (Vec::<String>::new(), false);
    for line in text.lines() {
        let (part, continues) = line.strip_suffix('\\').map_or((line, false), |part| (part, true));
        match lines.last_mut() {
            Some(last) if open => *last += part.trim_start(),
            _ => lines.push(part.to_string()),
        }
        open = continues;
    }
    lines
}

/// The arguments of a line that calls the binary, without comments and explanations beside it.
fn call(line: &str) -> Option<&str> {
    let line = line.trim().trim_start_matches("$ ");
    let arguments = CALLS.iter().find_map(|call| line.strip_prefix(call))?;
    let end = [" #", "   ", " > ", " | ", " 2>", " &"].iter().filter_map(|stop| arguments.find(stop)).min();
    Some(arguments[..end.unwrap_or(arguments.len())].trim())
}

/// Every variant of a command line: `a|b` is either.
fn variants(words: &[String]) -> Vec<Vec<String>> {
    words.iter().fold(vec![vec!["farthing".to_string()]], |lines, word| {
        let choices: Vec<&str> = if NUMBERS.contains(&word.as_str()) { vec!["1"] } else { word.split('|').collect() };
        lines
            .iter()
            .flat_map(|line| choices.iter().map(|c| line.iter().cloned().chain([c.to_string()]).collect()))
            .collect()
    })
}

/// Errors of a command that lacks something.
const LACKS: [ErrorKind; 3] = [
    ErrorKind::MissingRequiredArgument,
    ErrorKind::MissingSubcommand,
    ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
];

/// What is wrong with a command. A mention in running text may leave out what the command needs.
fn fault(arguments: &str, mention: bool) -> Option<String> {
    let Some(words) = shlex::split(arguments) else { return Some("its quotes do not match".to_string()) };
    variants(&words).into_iter().find_map(|line| match Arguments::try_parse_from(line) {
        Ok(_) => None,
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => None,
        Err(e) if mention && LACKS.contains(&e.kind()) => None,
        Err(e) => Some(e.to_string()),
    })
}

#[test]
fn commands_in_documents_parse() {
    let (mut lines, mut mentions, mut faults) = (0, 0, Vec::new());
    for path in documents() {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        for line in joined(&text) {
            if let Some(arguments) = call(&line) {
                lines += 1;
                faults.extend(fault(arguments, false).map(|f| format!("{name}: {}: {f}", line.trim())));
            }
            // Code spans are the odd pieces between back-quotes.
            for span in line.split('`').skip(1).step_by(2) {
                let Some(arguments) = span.strip_prefix("farthing ") else { continue };
                // `help` takes a command's name; a placeholder stands for it.
                let arguments = if arguments.starts_with("help ") { "--help" } else { arguments };
                mentions += 1;
                faults.extend(fault(arguments, true).map(|f| format!("{name}: `{span}`: {f}")));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(lines >= 25 && mentions >= 10, "{lines} lines and {mentions} mentions: are they still found?");
}

#[test]
fn wrong_commands_in_documents_are_found() {
    assert_eq!(call("    farthing bench M --suite    the whole"), Some("bench M --suite"));
    assert_eq!(call("farthing chat x # a comment"), Some("chat x"));
    assert_eq!(call("cargo run --release -- chat"), Some("chat"));
    assert_eq!(call("other farthing chat"), None);
    assert_eq!(joined("farthing a \\\n    --b\nc"), ["farthing a --b", "c"]);
    assert!(fault("serve org/name --port 8080", false).is_none());
    assert!(fault("serve org/name --prot 8080", false).is_some());
    assert!(fault("loss models/x --text t --threads 1|2|x", false).is_some());
    assert!(fault("loss", true).is_none() && fault("loss", false).is_some());
    assert!(fault("keys", true).is_none() && fault("keys", false).is_some());
    assert!(fault("chat 'x", false).is_some());
}
