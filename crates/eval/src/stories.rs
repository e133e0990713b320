//! Stories to order: whether the name and the thing of the request are kept, and whether the story ends

use data::generators::story::{Settings, Stories};

use crate::asking::{Asking, Question, Reply, asked, label, wrong};
use crate::figures::{Measure, has_word};
use crate::{EvalError, Measured};

/// Tokens of a story, at most.
const TOKENS_MAX: usize = 400;

/// The last line of the generator's stories.
const END_MARK: &str = "THE END.";

/// What a request names.
struct Ordered {
    name: String,
    thing: String,
}

/// What holds of a story.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Kept {
    name: bool,
    thing: bool,
    ended: bool,
}

impl Ordered {
    /// The name stands in the second half of the story, and the thing behind its first third, as in every story of the generator: pronouns alone
    /// lose them.
    fn kept(&self, reply: &Reply) -> Kept {
        let story = reply.text.split(END_MARK).next().unwrap_or_default();
        let from = |bytes: usize| &story[story.ceil_char_boundary(bytes)..];
        Kept {
            name: has_word(from(story.len() / 2), &self.name),
            thing: has_word(from(story.len() / 3), &self.thing),
            ended: reply.ended || reply.text.contains(END_MARK),
        }
    }
}

pub(crate) fn measure(asking: &mut Asking<'_>) -> Result<Measured, EvalError> {
    let settings = Settings { ordered: 1.0, styled: 0.0, titled: 0.0, ..Settings::default() };
    let stories = Stories::new(settings).expect("sound settings");
    let questions = asking.held_out(&stories).filter_map(|document| {
        let of = |label: &str, field: &str| document.labels[label][field].as_str().unwrap_or_default().to_owned();
        let expected = Ordered { name: of("hero", "name"), thing: of("object", "noun") };
        let request = label(&document, "request");
        // Some requests name no thing.
        let both = has_word(&request, &expected.name) && has_word(&request, &expected.thing);
        both.then(|| Question { messages: asked(&document), expected })
    });
    let questions: Vec<Question<Ordered>> = questions.take(asking.settings.samples).collect();
    let replies = asking.answers(&questions, TOKENS_MAX, &|| None)?;
    let kept: Vec<Kept> = questions.iter().zip(&replies).map(|(q, reply)| q.expected.kept(reply)).collect();
    let count = |holds: fn(&Kept) -> bool| kept.iter().filter(|kept| holds(kept)).count();
    let measures = [
        ("name kept", count(|kept| kept.name)),
        ("object kept", count(|kept| kept.thing)),
        ("ends before 400 tokens", count(|kept| kept.ended)),
        ("all three", count(|kept| kept.name && kept.thing && kept.ended)),
    ];
    let all = |ordered: &Ordered, reply: &Reply| {
        let Kept { name, thing, ended } = ordered.kept(reply);
        name && thing && ended
    };
    Ok(Measured {
        measures: measures.map(|(name, right)| Measure::of(name, right, replies.len())).into(),
        too_long: asking.too_long,
        wrong: wrong(asking.settings.wrong, &questions, &replies, all, |ordered| {
            format!("{}, {}", ordered.name, ordered.thing)
        }),
        ..Measured::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_things_are_kept_to_the_end() {
        let ordered = Ordered { name: "Mira".into(), thing: "hat".into() };
        let kept = |text: &str, ended| {
            let Kept { name, thing, ended } = ordered.kept(&Reply { text: text.into(), given: true, ended });
            (name, thing, ended)
        };
        let story = "Mira the fox lost her hat. She looked for it. The wind had taken the hat, and Mira laughed.";
        assert_eq!(kept(story, true), (true, true, true));
        assert_eq!(kept(story, false), (true, true, false));
        assert_eq!(kept(&format!("{story}\n\nTHE END."), false), (true, true, true));
        // Named at the beginning only; another one's name; a word that begins like the thing.
        let lost =
            "Mira the fox lost her hat. She looked for it in the wood, and Miranda helped her. They found the hatch.";
        assert_eq!(kept(lost, true), (false, false, true));
        // What stands behind the end is no part of the story.
        assert_eq!(kept("A dog ran. THE END. Mira has a hat.", true), (false, false, true));
        assert_eq!(kept("", false), (false, false, false));
        assert_eq!(kept("\u{1f98a}\u{1f98a}\u{1f98a}", true), (false, false, true));
    }
}
