//! Log-probabilities of a text's tokens while they are computed.

use std::sync::mpsc::Receiver;

use engine::{EngineError, Event, RequestHandle};

use crate::error::Error;

/// Log-probabilities of a text's tokens. Dropping it cancels the request.
pub struct Scoring {
    _handle: RequestHandle,
    events: Receiver<Event>,
}

impl Scoring {
    pub(crate) fn new((handle, events): (RequestHandle, Receiver<Event>)) -> Scoring {
        Scoring { _handle: handle, events }
    }

    /// Waits for ln p of each token after the first.
    ///
    /// # Errors
    /// The engine failed at the request.
    pub fn log_probabilities(self) -> Result<Vec<f32>, Error> {
        let mut all = Vec::new();
        loop {
            match self.events.recv() {
                Ok(Event::Prompt(scores)) => all.extend(scores.iter().map(|(log_probability, _)| *log_probability)),
                Ok(Event::End { .. }) => return Ok(all),
                Ok(Event::Failed(error)) => return Err(error.into()),
                Ok(_) => {}
                Err(_) => return Err(EngineError::Fault("it ended before a text was scored".to_owned()).into()),
            }
        }
    }
}
