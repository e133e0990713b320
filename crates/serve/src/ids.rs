//! Random ids of requests, responses and tool calls.

/// `prefix` followed by 128 random bits in hexadecimal.
pub fn fresh_id(prefix: &str) -> String {
    use std::hash::{BuildHasher, RandomState};
    let (a, b) = (RandomState::new().hash_one(1), RandomState::new().hash_one(2));
    format!("{prefix}{a:016x}{b:016x}")
}
