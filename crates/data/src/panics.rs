//! Panics of libraries on hostile input: they are caught and told as what is wrong with the input

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread would be caught here. For a program's panic hook, which need not print such a panic.
pub fn is_caught() -> bool {
    CAUGHT.get()
}

/// Runs code of a library that panics on some input: the message of the panic is an error.
///
/// # Errors
/// What the code gives, and the first line of a panic.
pub fn caught<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let before = CAUGHT.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    CAUGHT.set(before);
    outcome.unwrap_or_else(|payload| Err(message(payload.as_ref())))
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
    text.and_then(|text| text.lines().next()).unwrap_or("it contradicts itself").chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_become_errors_and_are_known_to_the_hook() {
        assert_eq!(caught(|| Ok(is_caught())), Ok(true));
        assert!(!is_caught());
        // Behind a nested one it is still caught.
        let nested = caught(|| {
            let inner: Result<(), String> = caught(|| panic!("inner {}\nmore", 3));
            assert!(is_caught());
            inner
        });
        assert_eq!(nested, Err("inner 3".to_string()));
        assert_eq!(caught::<()>(|| panic!("plain")), Err("plain".to_string()));
        assert_eq!(caught::<()>(|| Err("refused".into())), Err("refused".to_string()));
        assert!(!is_caught());
    }
}
