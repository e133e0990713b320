//! A text while it is generated.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use engine::{Event, Finish, RequestHandle, Timing};
use text::{Detokenizer, StopStrings, Tokenizer};

use crate::error::Error;

/// How often an iterator looks again; nothing depends on it.
const WAIT: Duration = Duration::from_secs(1);

/// A text while it is generated. As an iterator it gives its pieces. Dropping it cancels the request.
pub struct Answer<'m> {
    /// `None` once it was stopped, by the caller or by a stop string.
    handle: Option<RequestHandle>,
    events: Receiver<Event>,
    detokenizer: Detokenizer<&'m Tokenizer>,
    stops: StopStrings,
    tokens: Vec<u32>,
    seed: u64,
    ended: Option<(Finish, Timing)>,
}

/// What `Answer::poll` found.
#[derive(Clone, Debug, PartialEq)]
pub enum Poll {
    /// A token came, or the text ended, and this much more of the text is certain; it may be empty.
    Text(String),
    /// Nothing came in the time that was given.
    Waiting,
    /// The text has ended, and all of it was given.
    Done,
}

impl<'m> Answer<'m> {
    pub(crate) fn new(
        (handle, events): (RequestHandle, Receiver<Event>),
        tokenizer: &'m Tokenizer,
        stops: Vec<String>,
    ) -> Answer<'m> {
        let detokenizer = Detokenizer::continuing(tokenizer, true);
        let (tokens, ended) = (Vec::new(), None);
        Answer { handle: Some(handle), events, detokenizer, stops: StopStrings::new(stops), tokens, seed: 0, ended }
    }

    /// Waits for the next token, at most so long.
    ///
    /// # Errors
    /// The engine failed at the request.
    pub fn poll(&mut self, wait: Duration) -> Result<Poll, Error> {
        if self.ended.is_some() {
            return Ok(Poll::Done);
        }
        loop {
            match self.events.recv_timeout(wait) {
                Ok(Event::Started { seed, .. }) => self.seed = seed,
                Ok(Event::Token { id, .. }) if self.handle.is_some() => {
                    self.tokens.push(id);
                    let text = self.stops.push(&self.detokenizer.push(id));
                    if self.stops.hit().is_some() {
                        self.stop();
                    }
                    return Ok(Poll::Text(text));
                }
                Ok(Event::Read { .. } | Event::Prompt(_) | Event::Pooled(_) | Event::Token { .. }) => {}
                Ok(Event::End { finish, timing }) => return Ok(self.end(finish, timing)),
                Ok(Event::Failed(error)) => return Err(error.into()),
                Err(RecvTimeoutError::Timeout) => return Ok(Poll::Waiting),
                // It was stopped before it began.
                Err(RecvTimeoutError::Disconnected) => return Ok(self.end(Finish::Cancelled, Timing::default())),
            }
        }
    }

    fn end(&mut self, finish: Finish, mut timing: Timing) -> Poll {
        let mut rest = self.stops.push(&self.detokenizer.finish());
        rest += &self.stops.finish();
        let finish = match (&self.handle, self.stops.hit()) {
            (_, Some(_)) => Finish::Complete,
            (None, None) => Finish::Cancelled,
            (Some(_), None) => finish,
        };
        if self.handle.is_none() {
            // Tokens that the engine was ahead by were not given.
            timing.generated = self.tokens.len();
        }
        self.ended = Some((finish, timing));
        Poll::Text(rest)
    }

    /// Cancels the request; what the engine gave so far is the text.
    pub fn stop(&mut self) {
        self.handle = None;
    }

    /// Tokens of the prompt that are in the KV cache by now.
    pub fn prompt_progress(&self) -> usize {
        self.handle.as_ref().map_or(0, RequestHandle::prompt_progress)
    }

    /// The tokens so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// With it the text can be made again; known once it has begun.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Why the text ended, and what it took; `None` while it goes on. A stop string is `Finish::Complete`.
    pub fn ended(&self) -> Option<(Finish, Timing)> {
        self.ended
    }
}

impl Iterator for Answer<'_> {
    type Item = Result<String, Error>;

    fn next(&mut self) -> Option<Result<String, Error>> {
        loop {
            match self.poll(WAIT) {
                Ok(Poll::Text(text)) if text.is_empty() => {}
                Ok(Poll::Text(text)) => return Some(Ok(text)),
                Ok(Poll::Waiting) => {}
                Ok(Poll::Done) => return None,
                Err(error) => {
                    self.ended = Some((Finish::Cancelled, Timing::default()));
                    return Some(Err(error));
                }
            }
        }
    }
}
