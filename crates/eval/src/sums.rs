//! Sums and word problems: the last number of the answer counts

use std::sync::LazyLock;

use data::generators::sums::{Settings, Sums};
use data::generators::word_problems::{self, WordProblems};
use data::generators::{Generated, Generator};
use rand::RngExt;
use regex::Regex;

use crate::asking::{Asking, Question, Reply, asked, label, wrong};
use crate::figures::Measure;
use crate::{EvalError, Measured};

/// Tokens of an answer with its working, at most.
const TOKENS_MAX: usize = 200;

/// Share of products of one digit.
const PRODUCTS: f64 = 0.15;

static NUMBER: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"[0-9][0-9,]*(?:\.[0-9]+)?").expect("a sound expression"));

/// The last number of an answer. A sign belongs to it unless it stands between two numbers, as in `9 -5`, or in a word.
fn last_number(answer: &str) -> Option<f64> {
    let found = NUMBER.find_iter(answer).last()?;
    let before = &answer[..found.start()];
    let is_sign = |before: &str| {
        let between_numbers = before.trim_end_matches(' ').ends_with(|c: char| c.is_ascii_digit() || c == ')');
        !between_numbers && !before.ends_with(char::is_alphanumeric)
    };
    let negative = before.strip_suffix(['-', '\u{2212}']).is_some_and(is_sign);
    let number: f64 = found.as_str().replace(',', "").parse().ok()?;
    Some(if negative { -number } else { number })
}

fn is_right(expected: &str, reply: &Reply) -> bool {
    last_number(&reply.text).is_some() && last_number(&reply.text) == expected.parse().ok()
}

pub(crate) fn measure_sums(asking: &mut Asking<'_>) -> Result<Measured, EvalError> {
    let settings =
        Settings { three: 0.0, multiply: 0.0, multiply_two_digits: 0.0, conversation: 1.0, ..Settings::default() };
    let sums = Sums::new(settings).expect("sound settings");
    let documents: Vec<Generated> =
        asking
            .documents(|random, _| {
                if random.random_bool(PRODUCTS) { sums.table(random, true) } else { sums.generate(random, true) }
            })
            .take(asking.settings.samples)
            .collect();
    exact(asking, &documents, &[("add", "sums"), ("subtract", "differences"), ("multiply", "products of one digit")])
}

pub(crate) fn measure_word_problems(asking: &mut Asking<'_>) -> Result<Measured, EvalError> {
    let settings = word_problems::Settings { two_steps: 0.0, ..word_problems::Settings::default() };
    let problems = WordProblems::new(settings).expect("sound settings");
    let documents: Vec<Generated> = asking.held_out(&problems).take(asking.settings.samples).collect();
    exact(asking, &documents, &[])
}

/// How many answers are exact, in all and by kind.
fn exact(asking: &mut Asking<'_>, documents: &[Generated], kinds: &[(&str, &str)]) -> Result<Measured, EvalError> {
    let question = |document| Question { messages: asked(document), expected: label(document, "answer") };
    let questions: Vec<Question<String>> = documents.iter().map(question).collect();
    let replies = asking.answers(&questions, TOKENS_MAX, &|| None)?;
    let right: Vec<bool> = questions.iter().zip(&replies).map(|(q, reply)| is_right(&q.expected, reply)).collect();
    let mut measures = vec![Measure::of("exact", right.iter().filter(|right| **right).count(), right.len())];
    for (kind, name) in kinds {
        let of_kind: Vec<bool> =
            documents.iter().zip(&right).filter(|(d, _)| label(d, "kind") == *kind).map(|(_, &right)| right).collect();
        let right = of_kind.iter().filter(|right| **right).count();
        measures.push(Measure::of(format!("  {name}"), right, of_kind.len()));
    }
    Ok(Measured {
        measures,
        too_long: asking.too_long,
        wrong: wrong(
            asking.settings.wrong,
            &questions,
            &replies,
            |expected, reply| is_right(expected, reply),
            String::clone,
        ),
        ..Measured::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_number_counts() {
        assert_eq!(last_number("Backwards: 7 1 4 + 5 2 3 = 2 4 7. So 417 + 325 = 742."), Some(742.0));
        assert_eq!(last_number("12 - 5 = 7"), Some(7.0));
        assert_eq!(last_number("12 -5"), Some(5.0));
        assert_eq!(last_number("The answer is -5."), Some(-5.0));
        assert_eq!(last_number("= \u{2212}5"), Some(-5.0));
        assert_eq!(last_number("It is 1,234."), Some(1234.0));
        assert_eq!(last_number("7.50"), Some(7.5));
        assert_eq!(last_number("number-5"), Some(5.0));
        assert_eq!(last_number("I do not know."), None);
        assert_eq!(last_number(""), None);
    }

    #[test]
    fn answers_are_right_or_wrong() {
        let right =
            |expected: &str, text: &str| is_right(expected, &Reply { text: text.into(), given: true, ended: true });
        assert!(right("42", "42") && right("42", "17 + 25 = 42.") && right("-3", "2 - 5 = -3"));
        assert!(!right("42", "42 apples and 3 pears") && !right("42", "-42") && !right("42", "forty-two"));
        // More digits than a number can have.
        assert!(!right("42", &"9".repeat(5_000)));
    }

    #[test]
    fn products_are_asked_for_in_held_out_frames() {
        use rand::SeedableRng;
        let settings = Settings { conversation: 1.0, ..Settings::default() };
        let sums = Sums::new(settings).unwrap();
        let frames = |held_out| -> std::collections::HashSet<String> {
            let draw = |seed| sums.table(&mut rand_pcg::Pcg64::seed_from_u64(seed), held_out);
            (0..500)
                .map(draw)
                .inspect(|d| assert_eq!(label(d, "kind"), "multiply"))
                .map(|d| label(&d, "frame"))
                .collect()
        };
        let (training, held_out) = (frames(false), frames(true));
        assert!(!held_out.is_empty() && training.is_disjoint(&held_out));
    }
}
