//! Requests to an engine for tests: what comes of them, as a channel or whole.
#![allow(dead_code)] // each test uses its part

use std::sync::mpsc::Receiver;

use farthing_engine::{Engine, Event, Finish, Positions, Request, RequestHandle, Runner, Sampler};

pub fn submit(engine: &Engine, request: Request) -> (RequestHandle, Receiver<Event>) {
    engine.generate(request).unwrap()
}

/// The text without any engine: the prompt read in one go, then token after token. Constraints are not obeyed.
pub fn alone(runner: &mut Runner, request: Request) -> (Vec<u32>, Finish) {
    let Request { prompt, sampling, stops, tokens_max, .. } = request;
    let context = runner.limits().context;
    let (mut sampler, mut at) = (Sampler::new(sampling), Positions::new(0, context));
    let mut logits = runner.read(&mut at, &prompt).unwrap().to_vec();
    let mut tokens = prompt.clone();
    for _ in 0..tokens_max {
        let token = sampler.sample(&logits, &tokens);
        if stops.contains(&token) {
            return (tokens.split_off(prompt.len()), Finish::Stop(token));
        }
        tokens.push(token);
        if at.len() == context {
            return (tokens.split_off(prompt.len()), Finish::Context);
        }
        logits.copy_from_slice(runner.decode(&mut [(&mut at, token)]).unwrap());
    }
    (tokens.split_off(prompt.len()), Finish::Length)
}

pub fn ids(events: &[Event]) -> Vec<u32> {
    events.iter().filter_map(|e| if let Event::Token { id, .. } = e { Some(*id) } else { None }).collect()
}

pub fn all(engine: &Engine, request: Request) -> Vec<Event> {
    let (_ticket, events) = submit(engine, request);
    events.iter().collect()
}
