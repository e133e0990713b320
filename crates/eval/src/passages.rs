//! Questions on a passage: the answer is a span of it, or the passage does not say it

use data::generators::questions::{Questions, Settings};

use crate::asking::{Asking, Question, Reply, asked, label, wrong};
use crate::figures::{Measure, has_word, plain};
use crate::{EvalError, Measured};

/// Tokens of an answer, at most.
const TOKENS_MAX: usize = 64;

/// How answers begin that refuse.
const REFUSAL: &str = "the text does not say";

/// The span that is the answer; none where the passage has no answer.
type Span = Option<String>;

fn refuses(reply: &Reply) -> bool {
    plain(&reply.text).starts_with(REFUSAL)
}

fn is_exact(span: &str, reply: &Reply) -> bool {
    plain(&reply.text) == plain(span)
}

fn is_right(span: &Span, reply: &Reply) -> bool {
    span.as_ref().map_or_else(|| refuses(reply), |span| is_exact(span, reply))
}

/// Figures of answers, each beside what was expected.
fn figures(answers: &[(&Span, &Reply)]) -> Vec<Measure> {
    let spans = || answers.iter().filter_map(|(span, reply)| Some((span.as_ref()?, *reply)));
    let silent = answers.iter().filter(|(span, _)| span.is_none()).count();
    let refused = answers.iter().filter(|(_, reply)| refuses(reply)).count();
    let rightly = answers.iter().filter(|(span, reply)| span.is_none() && refuses(reply)).count();
    let answerable = answers.len() - silent;
    vec![
        Measure::of("exact span", spans().filter(|(span, reply)| is_exact(span, reply)).count(), answerable),
        Measure::of("span within", spans().filter(|(span, reply)| has_word(&reply.text, span)).count(), answerable),
        Measure::of("refusal precision", rightly, refused),
        Measure::of("refusal recall", rightly, silent),
    ]
}

pub(crate) fn measure(asking: &mut Asking<'_>) -> Result<Measured, EvalError> {
    let generator = Questions::new(Settings { conversation: 1.0, ..Settings::default() }).expect("sound settings");
    let documents = asking.held_out(&generator).take(asking.settings.samples);
    let questions: Vec<Question<Span>> = documents
        .map(|document| {
            let expected = (document.labels["answerable"] == true).then(|| label(&document, "answer"));
            Question { messages: asked(&document), expected }
        })
        .collect();
    let replies = asking.answers(&questions, TOKENS_MAX, &|| None)?;
    let answers: Vec<(&Span, &Reply)> = questions.iter().map(|question| &question.expected).zip(&replies).collect();
    Ok(Measured {
        measures: figures(&answers),
        too_long: asking.too_long,
        wrong: wrong(asking.settings.wrong, &questions, &replies, is_right, |span| {
            span.clone().unwrap_or_else(|| Settings::default().no_answer)
        }),
        ..Measured::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_refusals_are_counted() {
        let reply = |text: &str| Reply { text: text.into(), given: true, ended: true };
        let span = |text: &str| Some(text.to_owned());
        let answers = [
            (span("the old mill"), reply("The old mill.")),
            (span("Mira"), reply("It was Mira who did it.")),
            (span("7 days"), reply("The text does not say.")),
            (span("a fox"), reply("A foxglove.")),
            (None, reply(" The text does not say.")),
            (None, reply("Mira")),
            (None, reply("")),
        ];
        let answers: Vec<(&Span, &Reply)> = answers.iter().map(|(span, reply)| (span, reply)).collect();
        let counts: Vec<(String, f64, usize)> =
            figures(&answers).into_iter().map(|m| (m.name, m.right, m.of)).collect();
        let expected = [
            ("exact span", 1.0, 4),
            ("span within", 2.0, 4),
            ("refusal precision", 1.0, 2),
            ("refusal recall", 1.0, 3),
        ];
        assert_eq!(counts, expected.map(|(name, right, of)| (name.to_owned(), right, of)));
        assert!(figures(&[]).iter().all(|measure| measure.share().is_none()));
    }
}
