//! Bodies of requests: what is taken is within its bounds, what is refused says so in a short line.
#![no_main]

use engine::Sampling;
use serve::validate::{self, Invalid, Wanted};

const VOCAB: usize = 1000;

fn sound(wanted: &Wanted) {
    wanted.sampling.validate(VOCAB).expect("checked");
    assert!(wanted.stop.len() <= 16 && wanted.stop.iter().all(|s| !s.is_empty()));
    assert!(wanted.log_probabilities.is_none_or(|n| n <= 20) && wanted.tokens_max.is_none_or(|n| n > 0));
}

fn short(refused: Invalid) {
    assert!(refused.message.len() < 4096 && !refused.message.contains('\n'), "{refused:?}");
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    match validate::chat(data, &Sampling::default(), VOCAB) {
        Ok(chat) => {
            sound(&chat.wanted);
            assert!(chat.messages.iter().all(|m| m["role"].is_string() && m["content"].is_string()));
        }
        Err(refused) => short(refused),
    }
    match validate::completion(data, &Sampling::default(), VOCAB) {
        Ok(completion) => {
            sound(&completion.wanted);
            if let validate::Prompt::Tokens(ids) = completion.prompt {
                assert!(ids.iter().all(|&id| (id as usize) < VOCAB));
            }
        }
        Err(refused) => short(refused),
    }
});
