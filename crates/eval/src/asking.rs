//! Prompts to a model, many at a time: their answers, and scores of sentences

use std::collections::VecDeque;
use std::time::Duration;

use data::generators::{Generated, Generator};
use engine::{Constraint, EngineError, SubmitError};
use farthing::{Answer, Error, Finish, GenerateOptions, Message, Model, Poll, Role, Sampling, Scoring};
use rand::SeedableRng;
use rand_pcg::Pcg64;

use crate::{EvalError, Progress, Settings, Wrong};

/// How often progress is told while nothing comes.
const GLANCE: Duration = Duration::from_millis(100);
/// Requests that are open for each that runs: what ends first leaves its place to one that waits, not to the next that is sent.
const AHEAD: usize = 2;
/// Asks a model for one skill.
pub(crate) struct Asking<'a> {
    model: &'a Model,
    pub settings: &'a Settings<'a>,
    skill: &'static str,
    proceed: &'a mut dyn FnMut(Progress) -> bool,
    /// Prompts that the context did not hold.
    pub too_long: usize,
}

/// A question with what is known of its answer.
pub(crate) struct Question<T> {
    pub messages: Vec<Message>,
    pub expected: T,
}

/// What a model answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Reply {
    pub text: String,
    /// There is one: the context held the prompt.
    pub given: bool,
    /// It ended by itself: by an end token, or by going on to the user's next message.
    pub ended: bool,
}

/// What an answer must obey: made anew for each.
pub(crate) type Constraints<'a> = &'a dyn Fn() -> Option<Box<dyn Constraint>>;

impl<'a> Asking<'a> {
    pub fn new(
        model: &'a Model,
        settings: &'a Settings<'a>,
        skill: &'static str,
        proceed: &'a mut dyn FnMut(Progress) -> bool,
    ) -> Asking<'a> {
        Asking { model, settings, skill, proceed, too_long: 0 }
    }

    pub fn model(&self) -> &'a Model {
        self.model
    }

    /// Whether the model's chat template takes a message of the system.
    pub fn takes_system(&self) -> bool {
        self.model.encode_messages(&[Message::system("a"), Message::user("b")]).is_ok()
    }

    /// Held-out documents of a function, each from a random generator of its own.
    pub fn documents(&self, generator: impl Fn(&mut Pcg64, u64) -> Generated) -> impl Iterator<Item = Generated> {
        drawn(self.settings.seed, generator)
    }

    /// As `documents`, of a generator alone.
    pub fn held_out(&self, generator: &dyn Generator) -> impl Iterator<Item = Generated> {
        held_out(self.settings.seed, generator)
    }

    fn tell(&mut self, done: usize, of: usize) -> Result<(), EvalError> {
        let skill = self.skill;
        if (self.proceed)(Progress { skill, done, of }) { Ok(()) } else { Err(EvalError::Stopped { skill, done, of }) }
    }

    /// The model's answers, in order, by greedy decoding. A prompt that the context does not hold has an empty one.
    pub fn answers<T>(
        &mut self,
        questions: &[Question<T>],
        tokens_max: usize,
        constraints: Constraints<'_>,
    ) -> Result<Vec<Reply>, EvalError> {
        let model = self.model;
        let stop = text::families::user_marks().map(str::to_owned).collect();
        let options = GenerateOptions { sampling: Sampling::default(), max_tokens: tokens_max, stop };
        let (mut open, mut replies) = (VecDeque::new(), Vec::with_capacity(questions.len()));
        for question in questions {
            if open.len() >= AHEAD * model.requests() {
                self.finish(&mut open, &mut replies, questions.len())?;
            }
            let ids = model.encode_messages(&question.messages)?;
            open.push_back(self.fitting(model.generate_within(ids, &options, constraints()))?);
        }
        while !open.is_empty() {
            self.finish(&mut open, &mut replies, questions.len())?;
        }
        Ok(replies)
    }

    /// Waits for the oldest answer.
    fn finish(
        &mut self,
        open: &mut VecDeque<Option<Answer<'_>>>,
        replies: &mut Vec<Reply>,
        of: usize,
    ) -> Result<(), EvalError> {
        let mut reply = Reply::default();
        if let Some(mut answer) = open.pop_front().flatten() {
            loop {
                match answer.poll(GLANCE)? {
                    Poll::Text(text) => reply.text.push_str(&text),
                    Poll::Waiting => {}
                    Poll::Done => break,
                }
                self.tell(replies.len(), of)?;
            }
            reply.given = true;
            reply.ended = matches!(answer.ended(), Some((Finish::Stop(_) | Finish::Complete, _)));
        }
        replies.push(reply);
        self.tell(replies.len(), of)
    }

    /// A request, unless its prompt is too long.
    fn fitting<T>(&mut self, request: Result<T, Error>) -> Result<Option<T>, EvalError> {
        match request {
            Ok(request) => Ok(Some(request)),
            Err(Error::Submit(SubmitError::Prompt(EngineError::TooLong { .. }))) => {
                self.too_long += 1;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The sum of ln p of each text's tokens, in order. A text that the context does not hold has minus infinity.
    pub fn scores(&mut self, texts: &[&str]) -> Result<Vec<f64>, EvalError> {
        let (mut open, mut scores) = (VecDeque::new(), Vec::with_capacity(texts.len()));
        for text in texts {
            if open.len() >= AHEAD * self.model.requests() {
                self.scored(&mut open, &mut scores, texts.len())?;
            }
            // A text without a token before it has no probability of its first one.
            let mut ids: Vec<u32> = self.model.first_token().into_iter().collect();
            ids.extend(self.model.tokenizer().encode(text, false).map_err(Error::from)?);
            let request = self.model.score(ids);
            open.push_back(self.fitting(request)?);
        }
        while !open.is_empty() {
            self.scored(&mut open, &mut scores, texts.len())?;
        }
        Ok(scores)
    }

    fn scored(
        &mut self,
        open: &mut VecDeque<Option<Scoring>>,
        scores: &mut Vec<f64>,
        of: usize,
    ) -> Result<(), EvalError> {
        let score = match open.pop_front().flatten() {
            Some(scoring) => scoring.log_probabilities()?.iter().map(|&p| f64::from(p)).sum(),
            None => f64::NEG_INFINITY,
        };
        scores.push(score);
        self.tell(scores.len(), of)
    }
}

/// Documents of a function, each from a random generator that the seed and its number give.
fn drawn(seed: u64, generator: impl Fn(&mut Pcg64, u64) -> Generated) -> impl Iterator<Item = Generated> {
    (0_u64..).map(move |number| generator(&mut Pcg64::seed_from_u64(seed ^ number.rotate_left(32)), number))
}

/// Held-out documents of a generator.
fn held_out(seed: u64, generator: &dyn Generator) -> impl Iterator<Item = Generated> {
    drawn(seed, |random, _| generator.generate(random, true))
}

/// The messages of a document but for the last, which is the answer.
pub(crate) fn asked(document: &Generated) -> Vec<Message> {
    let messages = document.labels.get("messages").and_then(|messages| messages.as_array());
    let messages = messages.map_or(&[][..], |messages| &messages[..messages.len().saturating_sub(1)]);
    let message = |message: &serde_json::Value| {
        let content = message["content"].as_str().unwrap_or_default();
        if message["role"] == Role::System.word() { Message::system(content) } else { Message::user(content) }
    };
    messages.iter().map(message).collect()
}

/// A label that is a text.
pub(crate) fn label(document: &Generated, name: &str) -> String {
    document.labels.get(name).and_then(|value| value.as_str()).unwrap_or_default().to_owned()
}

/// The first `count` answers that are wrong.
pub(crate) fn wrong<T>(
    count: usize,
    questions: &[Question<T>],
    replies: &[Reply],
    right: impl Fn(&T, &Reply) -> bool,
    expected: impl Fn(&T) -> String,
) -> Vec<Wrong> {
    let pairs = questions.iter().zip(replies).filter(|(question, reply)| !right(&question.expected, reply));
    let shown = pairs.take(count).map(|(question, reply)| Wrong {
        prompt: question.messages.last().map(|message| message.text().to_owned()).unwrap_or_default(),
        answer: reply.text.clone(),
        expected: expected(&question.expected),
    });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;

    /// Says what it was asked for.
    struct Told;

    impl Generator for Told {
        fn generate(&self, random: &mut Pcg64, held_out: bool) -> Generated {
            Generated { text: format!("{held_out} {}", random.random::<u64>()), labels: serde_json::Map::new() }
        }
    }

    #[test]
    fn documents_are_held_out_and_drawn_by_seed_and_number() {
        let texts = |seed| -> Vec<String> { held_out(seed, &Told).take(50).map(|document| document.text).collect() };
        let (first, second) = (texts(7), texts(8));
        assert!(first.iter().chain(&second).all(|text| text.starts_with("true ")), "{first:?}");
        let all: std::collections::HashSet<&String> = first.iter().chain(&second).collect();
        assert_eq!(all.len(), 100);
        assert_eq!(first, texts(7));
    }
}
