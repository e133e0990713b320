//! Bodies of requests in every dialect: what is taken is within its bounds, what is refused says so in a short line.
use engine::Sampling;
use serve::ask::{Ask, Input, Prompt};
use serve::validate::{self, Fields, Invalid, Model};

const VOCAB: usize = 1000;

fn sound(ask: &Ask) {
    let wanted = &ask.wanted;
    wanted.sampling.validate(VOCAB).expect("checked");
    assert!(wanted.stop.len() <= 16 && wanted.stop.iter().all(|s| !s.is_empty()));
    assert!(wanted.log_probabilities.is_none_or(|n| n <= 20));
    assert!((1..=16).contains(&wanted.choices) && wanted.best_of >= wanted.choices);
    match &ask.input {
        Input::Conversation { messages, .. } => {
            assert!(messages.iter().all(|m| m["role"].is_string() && m["content"].is_string()));
        }
        Input::Prompts { prompts, .. } => {
            let ids = prompts.iter().filter_map(|p| if let Prompt::Tokens(ids) = p { Some(ids) } else { None });
            assert!(!prompts.is_empty() && ids.flatten().all(|&id| (id as usize) < VOCAB));
        }
    }
}

fn short(refused: Invalid) {
    assert!(refused.message.len() < 4096 && !refused.message.contains('\n'), "{refused:?}");
}

/// Runs the target on one input.
pub fn run(data: &[u8]) {
    let defaults = Sampling::default();
    let model = Model { defaults: &defaults, vocab: VOCAB };
    for validate in [validate::chat, validate::completion, validate::responses, validate::messages] {
        match Fields::parse(data).and_then(|mut fields| validate(&mut fields, model)) {
            Ok(ask) => sound(&ask),
            Err(refused) => short(refused),
        }
    }
    if let Err(refused) = Fields::parse(data).and_then(|mut fields| validate::tokenize(&mut fields, model)) {
        short(refused);
    }
    if let Err(refused) = Fields::parse(data).and_then(|mut fields| validate::detokenize(&mut fields, model, VOCAB)) {
        short(refused);
    }
}
