//! Questions on the program's commands and flags, answered as `farthing chat` does without a model: from paragraphs of the manual that are found by
//! the question's words, naming only commands that exist; and questions on other things, to which the answer is not known

use std::sync::Arc;

use data::generators::Generated;
use data::generators::help::{Help, Settings};
use farthing::Message;
use help::{Commands, Guides, HelpIndex};

use crate::asking::{Asking, Question, Reply, asked, label, wrong};
use crate::figures::{Measure, plain};
use crate::{EvalError, Measured};

/// Tokens of an answer, at most.
const TOKENS_MAX: usize = 96;
/// Questions on commands, and on other things, at most.
const PARAPHRASES: usize = 200;
const OFF_TOPIC: usize = 50;

/// How answers begin that decline.
const UNKNOWN: &str = "i do not know";

/// Questions whose answer names a command line.
const KINDS: [&str; 3] = ["command", "setting", "effect"];

/// What is right.
#[derive(Clone, Debug, PartialEq)]
enum Expected {
    /// This command, with this flag if there is one.
    Command {
        command: String,
        flag: Option<String>,
        paragraph: String,
    },
    Unknown,
}

impl Expected {
    /// Takes the command line from the beginning of its paragraph: `farthing serve --port PORT: Port.`
    fn of(document: &Generated) -> Expected {
        let paragraph = label(document, "asks");
        if label(document, "kind") == "off-topic" {
            return Expected::Unknown;
        }
        let line = paragraph.split(": ").next().unwrap_or_default();
        let mut words = line.split(' ').skip(1);
        let command = words.next().unwrap_or_default().to_owned();
        Expected::Command { command, flag: words.next().map(str::to_owned), paragraph }
    }

    /// The first command that the answer names is the right one, and the first flag, if one is asked for.
    fn is_met(&self, commands: &Commands, reply: &Reply) -> bool {
        let Expected::Command { command, flag, .. } = self else { return declines(reply) };
        let named = commands.named(&reply.text);
        let first =
            |is_flag| named.iter().find(|named| named.word.starts_with("--") == is_flag).map(|named| &named.word);
        first(false) == Some(command) && (flag.is_none() || first(true) == flag.as_ref())
    }

    fn in_words(&self) -> String {
        match self {
            Expected::Command { command, flag, .. } => {
                format!("farthing {command} {}", flag.as_deref().unwrap_or_default()).trim_end().to_owned()
            }
            Expected::Unknown => Settings::default().unknown,
        }
    }
}

fn declines(reply: &Reply) -> bool {
    plain(&reply.text).starts_with(UNKNOWN)
}

/// An answer without the word in whose middle it was cut.
fn whole(reply: &Reply) -> &str {
    let in_word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if reply.ended { &reply.text } else { reply.text.trim_end_matches(in_word) }
}

pub(crate) fn measure(asking: &mut Asking<'_>) -> Result<Measured, EvalError> {
    let manual = asking.settings.manual;
    let (index, commands) = (HelpIndex::new(manual), Arc::new(Commands::new(manual)));
    let model = asking.model();
    let guides = Arc::new(Guides::new(Arc::clone(&commands), model.tokenizer(), model.vocab()));
    let mut questions = questions(asking);
    let (mut found, takes_system) = (0, asking.takes_system());
    for question in &mut questions {
        let asked = question.messages.last().map(|message| message.text().to_owned()).unwrap_or_default();
        let context = index.context(&asked);
        if let (Expected::Command { paragraph, .. }, Some(context)) = (&question.expected, &context) {
            found += usize::from(context.lines().any(|line| line.strip_prefix("- ") == Some(paragraph)));
        }
        question.messages = match context {
            None => vec![Message::user(asked)],
            Some(context) if takes_system => vec![Message::system(context), Message::user(asked)],
            Some(context) => vec![Message::user(format!("{context}\n\n{asked}"))],
        };
    }
    let replies = asking.answers(&questions, TOKENS_MAX, &|| Some(guides.guide()))?;
    let count = |on_topic: bool| {
        let of: Vec<bool> = questions
            .iter()
            .zip(&replies)
            .filter(|(question, _)| (question.expected != Expected::Unknown) == on_topic)
            .map(|(question, reply)| question.expected.is_met(&commands, reply))
            .collect();
        (of.iter().filter(|right| **right).count(), of.len())
    };
    let (right, on_topic) = count(true);
    let (declined, off_topic) = count(false);
    let invents = |reply: &&Reply| !reply.given || commands.named(whole(reply)).iter().any(|named| !named.exists);
    let invented = replies.iter().filter(invents).count();
    Ok(Measured {
        measures: vec![
            Measure::of("paragraph found", found, on_topic),
            Measure::of("right command", right, on_topic),
            Measure::of("off topic: not known", declined, off_topic),
            Measure::of("nothing invented", replies.len() - invented, replies.len()),
        ],
        too_long: asking.too_long,
        wrong: wrong(
            asking.settings.wrong,
            &questions,
            &replies,
            |expected, reply| expected.is_met(&commands, reply),
            Expected::in_words,
        ),
        ..Measured::default()
    })
}

/// Questions on commands, then those on other things.
fn questions(asking: &Asking<'_>) -> Vec<Question<Expected>> {
    let generator = |off_topic: f64| {
        let settings = Settings { off_topic, missing: 0.0, invented: 0.0, misspelled: 0.0, ..Settings::default() };
        Help::new(settings, asking.settings.manual).expect("the manual of this program")
    };
    let (on, off) = (generator(0.0), generator(0.9));
    let samples = asking.settings.samples.min(PARAPHRASES);
    let commands = asking.held_out(&on).filter(|document| KINDS.contains(&&*label(document, "kind")));
    let others = asking.held_out(&off).filter(|document| label(document, "kind") == "off-topic");
    let off_topic = (samples * OFF_TOPIC).div_ceil(PARAPHRASES);
    commands
        .take(samples)
        .chain(others.take(off_topic))
        .map(|document| Question { messages: asked(&document), expected: Expected::of(&document) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands() -> Commands {
        Commands::new(&serde_json::from_str(include_str!("../../data/tests/data/manual.json")).unwrap())
    }

    #[test]
    fn commands_are_right_with_their_flags() {
        let expected = |flag: Option<&str>| Expected::Command {
            command: "serve".into(),
            flag: flag.map(str::to_owned),
            paragraph: String::new(),
        };
        let commands = commands();
        let right =
            |flag, text: &str| expected(flag).is_met(&commands, &Reply { text: text.into(), given: true, ended: true });
        assert!(right(None, "Use `farthing serve`.") && right(None, "`farthing serve --port PORT`"));
        assert!(right(Some("--port"), "Add `--port PORT` to `farthing serve`."));
        assert!(!right(Some("--port"), "Use `farthing serve`.") && !right(Some("--port"), "`farthing serve --host`"));
        assert!(!right(None, "Use `farthing pull`.") && !right(None, "serve") && !right(None, ""));
        // A list of guesses is no answer.
        assert!(!right(None, "`farthing chat`, `farthing pull` or `farthing serve`"));
        let cut = |ended| whole(&Reply { text: "Use `farthing serve --po".into(), given: true, ended }).len();
        assert_eq!((cut(false), cut(true)), (20, 24));
        let unknown =
            |text: &str| Expected::Unknown.is_met(&commands, &Reply { text: text.into(), given: true, ended: true });
        assert!(unknown("I do not know.") && unknown(" I do not know that.") && !unknown("Paris.") && !unknown(""));
    }
}
