//! Facts on anything: so many things, qualities and values that the answer can only be read in the passage

use std::ops::Range;

use rand::RngExt;
use rand_pcg::Pcg64;

use super::super::grammar::append_polished;
use super::super::split::choose;
use super::{Asked, Asking, Question, Questions, find_word};

/// What is told of whom.
struct Fact {
    entity: String,
    key: String,
    value: String,
}

impl Questions {
    /// A passage of a few facts on one to three things, with questions on them; or on one that is told of another, or of none.
    pub(super) fn about_anything(&self, random: &mut Pcg64, held_out: bool, answerable: bool) -> Asked {
        let rule = self.grammar.rule("coined.ask").expect("a rule of the questions");
        loop {
            let mut asking = Asking::new(self, held_out);
            let (facts, absent) = asking.facts(random);
            let chosen = self.chosen(random, answerable, facts.len(), facts.len() + 1);
            let Some((passage, spans)) = asking.tell(&facts, random) else { continue };
            let ask = |place: usize| {
                asking.take(facts.get(place).unwrap_or(&absent));
                let (text, line) = asking.ask(rule, random);
                let (frame, kind) = (format!("coined.ask/{line}"), "coined".to_owned());
                Question { text, frame, kind, answer: spans.get(place).cloned() }
            };
            let questions = chosen.into_iter().map(ask).collect();
            return Asked { passage, questions, story: None };
        }
    }
}

impl Asking<'_> {
    fn take(&mut self, fact: &Fact) {
        self.entity.clone_from(&fact.entity);
        self.key.clone_from(&fact.key);
        self.value.clone_from(&fact.value);
    }

    fn draw(&mut self, rule: &str, random: &mut Pcg64) -> String {
        let rule = self.questions.grammar.rule(rule).expect("a rule of the questions");
        self.expand(rule, random).0
    }

    /// Two to six facts, and one that is not among them: no two have the same value, nor the same key of the same thing.
    fn facts(&mut self, random: &mut Pcg64) -> (Vec<Fact>, Fact) {
        let entities: Vec<String> =
            (0..random.random_range(1..=3)).map(|_| self.draw("coined.entity", random)).collect();
        let keys: Vec<String> = (0..random.random_range(3..=6)).map(|_| self.draw("coined.key", random)).collect();
        let mut facts: Vec<Fact> = Vec::new();
        let count = random.random_range(2..=6.min(entities.len() * keys.len() - 1));
        while facts.len() <= count {
            let (entity, key) = (choose(random, &entities).clone(), choose(random, &keys).clone());
            let value = self.draw("coined.value", random);
            if !facts.iter().any(|fact| fact.value == value || (fact.entity == entity && fact.key == key)) {
                facts.push(Fact { entity, key, value });
            } else if random.random_bool(0.01) {
                // Few of the drawn things and keys differ.
                return self.facts(random);
            }
        }
        let absent = facts.pop().expect("one more than was wanted");
        (facts, absent)
    }

    /// The facts in sentences, with the places of their values; none if a value stands elsewhere, too.
    fn tell(&mut self, facts: &[Fact], random: &mut Pcg64) -> Option<(String, Vec<Range<usize>>)> {
        let (mut passage, mut spans) = (String::new(), Vec::new());
        for fact in facts {
            self.take(fact);
            let raw = self.draw("coined.say", random);
            if !passage.is_empty() {
                passage.push(' ');
            }
            append_polished(&raw, &mut passage);
        }
        let lower = passage.to_ascii_lowercase();
        for fact in facts {
            let value = fact.value.to_ascii_lowercase();
            let start = find_word(&lower, &value)?;
            let end = start + value.len();
            if find_word(&lower[end..], &value).is_some() {
                return None;
            }
            spans.push(start..end);
        }
        Some((passage, spans))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::Settings;
    use super::*;
    use crate::generators::tests::documents;

    /// The value stands once in the passage, behind or before what it is asked by; and nowhere where the passage does not say it.
    #[test]
    fn the_answer_stands_once_and_only_where_it_is_told() {
        let settings = Settings { stories: 0.0, coined: 1.0, ..Settings::default() };
        let questions = Questions::new(settings).unwrap();
        let (mut answered, mut others) = (0, 0);
        for document in documents(&questions, false, 2_000).into_iter().chain(documents(&questions, true, 500)) {
            let label = |name: &str| document.labels[name].as_str().unwrap().to_owned();
            let (passage, answer) = (label("passage"), label("answer"));
            assert_eq!(label("kind"), "coined");
            if let Value::Array(span) = &document.labels["span"] {
                let [start, end] = [0, 1].map(|i| span[i].as_u64().unwrap() as usize);
                assert_eq!(passage[start..end], answer);
                assert_eq!(find_word(&passage, &answer), Some(start));
                assert!(find_word(&passage[end..], &answer).is_none(), "{passage}");
                answered += 1;
            } else {
                assert_eq!(answer, "The text does not say.");
                others += 1;
            }
        }
        assert!(answered > 1_400 && others > 600, "{answered} {others}");
    }

    #[test]
    fn no_fact_is_told_twice_and_the_absent_one_not_at_all() {
        use rand::SeedableRng;
        let questions = Questions::new(Settings::default()).unwrap();
        let mut asking = Asking::new(&questions, false);
        let mut shared = 0;
        for seed in 0..2_000 {
            let (facts, absent) = asking.facts(&mut Pcg64::seed_from_u64(seed));
            for (i, fact) in facts.iter().chain([&absent]).enumerate() {
                let before = || facts[..i].iter();
                assert!(before().all(|other| other.value != fact.value));
                assert!(before().all(|other| (&other.entity, &other.key) != (&fact.entity, &fact.key)));
                shared += usize::from(before().any(|other| other.key == fact.key));
            }
        }
        assert!(shared > 500, "{shared}: the key alone does not give the answer");
    }
}
