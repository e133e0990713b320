//! A text while it is generated, for a terminal: a bar while its prompt is read, ctrl-c.

use std::time::Duration;

use farthing::{Answer, Poll};

use crate::Outcome;
use crate::terminal::{interrupted, prompt_bar};

/// How often the bar moves and ctrl-c is looked for while nothing comes.
const GLANCE: Duration = Duration::from_millis(50);

/// Give each piece of an answer's text. Ctrl-c ends it; then it is `Cancelled`.
pub fn follow(answer: &mut Answer, prompt_tokens: usize, give: &mut dyn FnMut(&str) -> Outcome) -> Outcome {
    let bar = prompt_bar(prompt_tokens);
    loop {
        if interrupted() {
            answer.stop();
        }
        match answer.poll(GLANCE)? {
            Poll::Text(text) => {
                bar.finish_and_clear();
                give(&text)?;
            }
            Poll::Waiting => bar.set_position(answer.prompt_progress() as u64),
            Poll::Done => return Ok(()),
        }
    }
}
