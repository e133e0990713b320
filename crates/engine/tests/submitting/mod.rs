//! Requests to a service for tests: what comes of them, as a channel or whole.
#![allow(dead_code)] // each test uses its part

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, channel};

use engine::service::{Event, Request, Service, Ticket};

pub fn submit(service: &Service, request: Request) -> (Ticket, Receiver<Event>) {
    let (sender, receiver) = channel();
    let ticket = service.submit(request, move |event| {
        let _ = sender.send(event);
        ControlFlow::Continue(())
    });
    (ticket.unwrap(), receiver)
}

pub fn ids(events: &[Event]) -> Vec<u32> {
    events.iter().filter_map(|e| if let Event::Token { id, .. } = e { Some(*id) } else { None }).collect()
}

pub fn all(service: &Service, request: Request) -> Vec<Event> {
    let (_ticket, events) = submit(service, request);
    events.iter().collect()
}
