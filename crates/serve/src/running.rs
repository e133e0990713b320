//! The choices of one request while they run: those the queue takes at once, the others when some have ended.
//!
//! A token counts when the part that it belongs to is taken from here, to be given. So whatever ends a request (its client leaves, a deadline, a
//! fault), its record has the tokens that were given until then.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll};

use engine::{RequestHandle, SubmitError};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::State;
use crate::answer::{Count, Given};
use crate::loaded::Loaded;
use crate::pace::UnderWay;
use crate::prepare::Plan;
use crate::problem::Problem;
use crate::record::Record;
use crate::wire::{End, Part, Usage, Whole};

/// Choices that run. Dropping it drops their tickets, which frees the engine.
pub struct Running {
    state: Arc<State>,
    served: Arc<Loaded>,
    plan: Plan,
    tickets: Vec<Option<RequestHandle>>,
    sender: UnboundedSender<Given>,
    parts: UnboundedReceiver<Given>,
    /// Tokens of the prompts; those of the choices are in `counts`.
    usage: Usage,
    counts: Vec<Count>,
    ended: usize,
    record: Record,
    /// Of each choice that left the queue.
    under_way: HashMap<usize, UnderWay>,
}

impl Running {
    /// Queue the choices.
    ///
    /// # Errors
    /// None of them was taken.
    pub fn start(state: Arc<State>, served: Arc<Loaded>, plan: Plan, record: Record) -> Result<Running, Problem> {
        let (sender, parts) = unbounded_channel();
        let usage = Usage { prompt: plan.prompt_tokens(), ..Usage::default() };
        let counts = vec![Count::default(); plan.choices()];
        let (tickets, under_way) = (Vec::new(), HashMap::new());
        let mut running =
            Running { state, served, plan, tickets, sender, parts, usage, counts, ended: 0, record, under_way };
        running.submit()?;
        Ok(running)
    }

    /// Queue what the engine takes.
    fn submit(&mut self) -> Result<(), Problem> {
        while self.tickets.len() < self.plan.choices() {
            let (request, answer) = self.plan.choice(self.tickets.len(), self.sender.clone());
            match self.served.engine.submit(request, answer) {
                Ok(ticket) => self.tickets.push(Some(ticket)),
                // It goes on when one of those that were taken ends.
                Err(SubmitError::Busy { .. }) if self.tickets.iter().any(Option::is_some) => return Ok(()),
                Err(refused) => {
                    let busy = matches!(refused, SubmitError::Busy { .. });
                    let problem = Problem::from(refused);
                    return Err(if busy { self.later(problem) } else { problem });
                }
            }
        }
        Ok(())
    }

    /// Another try makes sense when the queue will be empty.
    fn later(&self, problem: Problem) -> Problem {
        let (running, waiting) = self.served.engine.load();
        let retry = problem.retry.map(|_| self.state.pace.retry_after(running, waiting));
        Problem { retry, ..problem }
    }

    /// The next part. None when all choices have ended.
    pub fn poll(&mut self, task: &mut Context<'_>) -> Poll<Option<Result<(usize, Part), Problem>>> {
        if self.ended == self.plan.choices() {
            return Poll::Ready(None);
        }
        match self.parts.poll_recv(task) {
            Poll::Pending => Poll::Pending,
            // It has a sender of its own, so the channel does not end.
            Poll::Ready(None) => Poll::Ready(Some(Err(Problem::fault("the engine ended without an answer")))),
            Poll::Ready(Some(given)) => Poll::Ready(Some(self.took(given))),
        }
    }

    fn took(&mut self, (choice, count, part): Given) -> Result<(usize, Part), Problem> {
        if matches!(part, Part::Started { .. }) {
            self.under_way.insert(choice, self.state.pace.began());
        }
        self.counts[choice] = count;
        // The choices of one prompt share its computation: what the first found in the cache is what the request saved.
        let first = choice.is_multiple_of(self.plan.wanted.best_of);
        match &part {
            Part::Started { cached, differs_at, waited, .. } => {
                self.record.fill(|f| f.queued = f.queued.or(Some(*waited)));
                if first {
                    self.usage.cached += cached;
                    self.usage.differs_at = self.usage.differs_at.or(*differs_at);
                }
            }
            Part::Read { written } if first => self.usage.written += written,
            Part::End(end) => {
                self.under_way.remove(&choice);
                self.state.pace.ended(end.timing.prefill + end.timing.decode);
                self.told(end);
                self.ended += 1;
                self.tickets[choice] = None;
                self.submit()?;
            }
            Part::Failed(error) => {
                let problem = self.later(self.plan.problem(error));
                self.record.fill(|f| f.error = Some(problem.code));
                return Err(problem);
            }
            Part::Text { .. } | Part::Reasoning { .. } | Part::Call { .. } => self.record.first_token(),
            _ => {}
        }
        Ok((choice, part))
    }

    /// The end of a choice, for the record: of several choices the sums, and the last one's end.
    fn told(&self, end: &End) {
        let timing = end.timing;
        self.record.fill(|f| {
            f.prefill = Some(f.prefill.unwrap_or_default() + timing.prefill);
            f.decode = Some(f.decode.unwrap_or_default() + timing.decode);
            f.finish = Some(end.finish.word());
        });
    }

    /// Tokens so far.
    pub fn usage(&self) -> Usage {
        let sum = |of: fn(&Count) -> usize| self.counts.iter().map(of).sum();
        Usage { completion: sum(|c| c.tokens), reasoning: sum(|c| c.reasoning), ..self.usage }
    }

    /// All choices; of those that were made for one prompt, the likeliest.
    ///
    /// # Errors
    /// The first that failed.
    pub async fn gather(&mut self) -> Result<Vec<Whole>, Problem> {
        let mut all = vec![Whole::default(); self.plan.choices()];
        while let Some(next) = std::future::poll_fn(|task| self.poll(task)).await {
            let (choice, part) = next?;
            all[choice].add(part);
        }
        let (made, given) = (self.plan.wanted.best_of, self.plan.wanted.choices);
        if made == given {
            return Ok(all);
        }
        let mean = |w: &Whole| w.end.as_ref().map_or(f64::NEG_INFINITY, |end| end.mean);
        let mut best = Vec::new();
        for group in all.chunks_mut(made) {
            group.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
            best.extend(group[..given].iter().cloned());
        }
        Ok(best)
    }
}

impl Drop for Running {
    /// However the request ended, this is what it had. One that was never queued had nothing.
    fn drop(&mut self) {
        if self.tickets.is_empty() {
            return;
        }
        let usage = self.usage();
        self.record.fill(|f| {
            f.completion_tokens = Some(usage.completion);
            f.cached_tokens = Some(usage.cached);
        });
    }
}
