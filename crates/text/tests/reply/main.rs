//! Replies of models: golden cases, and the law that cuts do not matter.

mod twin;

use proptest::prelude::*;
use text::reply::{Delta, Format, Options, Parser};
use twin::{Call, Message};

/// All deltas joined.
fn join(deltas: impl IntoIterator<Item = Delta>) -> Message {
    let mut message = Message::default();
    for delta in deltas {
        match delta {
            Delta::Reasoning(text) => message.reasoning += &text,
            Delta::Content(text) => message.content += &text,
            Delta::CallStart { index, name, id } => {
                assert_eq!(index, message.calls.len());
                message.calls.push(Call { name, id, arguments: String::new() });
            }
            Delta::Arguments { index, text } => {
                assert_eq!(index + 1, message.calls.len(), "arguments come behind their call's start");
                message.calls[index].arguments += &text;
            }
        }
    }
    message
}

fn stream<'t>(format: &Format, opened: bool, tools: bool, pieces: impl IntoIterator<Item = &'t str>) -> Message {
    let mut parser = Parser::new(*format, Options { reasoning_opened: opened, tools });
    let mut deltas: Vec<Delta> = pieces.into_iter().flat_map(|piece| parser.push(piece)).collect();
    deltas.extend(parser.finish());
    assert!(parser.finish().is_empty());
    join(deltas)
}

struct Case {
    format: Format,
    title: String,
    opened: bool,
    text: String,
    expected: Message,
}

/// The cases in `tests/data/replies`: text, then what it means, one file a format.
fn cases() -> Vec<Case> {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/replies");
    let mut cases = Vec::new();
    for name in Format::names() {
        let format = Format::by_name(name).unwrap();
        let file = std::fs::read_to_string(directory.join(format!("{name}.txt"))).unwrap();
        let before = cases.len();
        for part in format!("\n{file}").split("\n=== ").skip(1) {
            let (title, body) = part.strip_suffix('\n').unwrap_or(part).split_once('\n').unwrap();
            let mut sections = body.split("\n--- ");
            let text = sections.next().unwrap();
            let (opened, text) = text.strip_prefix("opened\n").map_or((false, text), |text| (true, text));
            let mut expected = Message::default();
            for section in sections {
                let (heading, text) = section.split_once('\n').unwrap();
                match *heading.split(' ').collect::<Vec<_>>() {
                    ["reasoning"] => expected.reasoning = text.to_string(),
                    ["content"] => expected.content = text.to_string(),
                    ["call", name, ref id @ ..] => expected.calls.push(Call {
                        name: name.to_string(),
                        id: id.first().map(|id| id.to_string()),
                        arguments: text.to_string(),
                    }),
                    _ => panic!("{name}: {heading}"),
                }
            }
            cases.push(Case { format, title: format!("{name}: {title}"), opened, text: text.to_string(), expected });
        }
        assert!(cases.len() >= before + 8, "{name}");
    }
    cases
}

#[test]
fn golden_cases_wherever_they_are_cut() {
    let mut wrong = Vec::new();
    let mut compare = |what: String, found: Message, expected: &Message| {
        if found != *expected {
            wrong.push(format!("{what}\n  {found:?}\n  expected {expected:?}"));
        }
    };
    for Case { format, title, opened, text, expected } in cases() {
        compare(format!("{title}, by the twin"), twin::parse(&format, &text, opened, true), &expected);
        compare(title.clone(), stream(&format, opened, true, [text.as_str()]), &expected);
        let at: Vec<usize> = text.char_indices().map(|(i, _)| i).collect();
        let singly = at.iter().map(|&i| &text[i..i + text[i..].chars().next().unwrap().len_utf8()]);
        compare(format!("{title}, character by character"), stream(&format, opened, true, singly), &expected);
        for &cut in &at {
            let (before, behind) = text.split_at(cut);
            compare(format!("{title}, cut at {cut}"), stream(&format, opened, true, [before, behind]), &expected);
            // Every beginning of it is a reply that was cut off.
            let whole = twin::parse(&format, before, opened, true);
            compare(format!("{title}, up to {cut}: {before:?}"), stream(&format, opened, true, [before]), &whole);
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
}
