//! A constraint on generation: an answer names no command and no flag that does not exist

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use engine::Constraint;
use text::Tokenizer;

use crate::commands::{Commands, Scanner};

/// What guides of one model share.
pub struct Guides {
    commands: Arc<Commands>,
    /// The bytes of each token; none of those that are no text.
    tokens: Vec<Option<Vec<u8>>>,
    /// What may follow, by state: few states differ, and all answers come through the same.
    masks: Mutex<HashMap<Scanner, Arc<Vec<u32>>>>,
}

impl Guides {
    /// For a model's tokens, of which there are `vocab`.
    pub fn new(commands: Arc<Commands>, tokenizer: &Tokenizer, vocab: usize) -> Guides {
        let bytes = |id| tokenizer.bytes(id).filter(|bytes| !tokenizer.is_special(id) && !bytes.is_empty());
        Guides { commands, tokens: (0..vocab as u32).map(bytes).collect(), masks: Mutex::default() }
    }

    /// A constraint for one answer.
    pub fn guide(self: &Arc<Guides>) -> Box<dyn Constraint> {
        Box::new(CommandGuide { shared: Arc::clone(self), scanner: Scanner::new(), mask: Arc::default() })
    }
}

struct CommandGuide {
    shared: Arc<Guides>,
    scanner: Scanner,
    mask: Arc<Vec<u32>>,
}

impl Guides {
    /// What may follow in a state.
    fn mask(&self, scanner: &Scanner) -> Vec<u32> {
        let mut mask = vec![0; self.tokens.len().div_ceil(32)];
        // Special tokens end a text, or its turn.
        let may_end = scanner.may_end(&self.commands);
        for (id, bytes) in self.tokens.iter().enumerate() {
            let may = bytes.as_ref().map_or(may_end, |bytes| scanner.after(&self.commands, bytes).is_some());
            mask[id / 32] |= u32::from(may) << (id % 32);
        }
        mask
    }
}

impl Constraint for CommandGuide {
    fn allowed(&mut self) -> Result<&[u32], String> {
        let mut masks = self.shared.masks.lock().unwrap_or_else(|e| e.into_inner());
        let mask = masks.entry(self.scanner.clone()).or_insert_with(|| Arc::new(self.shared.mask(&self.scanner)));
        self.mask = Arc::clone(mask);
        drop(masks);
        if self.mask.iter().all(|&word| word == 0) {
            return Err("no token of this model goes on with a command that exists".to_owned());
        }
        Ok(&self.mask)
    }

    fn accept(&mut self, id: u32) -> Result<(), String> {
        let Guides { commands, tokens, .. } = &*self.shared;
        let bytes = tokens.get(id as usize).and_then(Option::as_deref).unwrap_or(b"\n");
        let refused = || format!("token {id} begins a command or flag that does not exist");
        self.scanner = self.scanner.after(commands, bytes).ok_or_else(refused)?;
        Ok(())
    }

    fn is_done(&self) -> bool {
        false
    }

    fn stopper(&self) -> Box<dyn Fn() + Send> {
        // A mask takes milliseconds.
        Box::new(|| {})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::manual;

    #[test]
    fn only_what_exists_can_be_spelled() {
        let words = ["a", " ", "farthing", "--", "port", "po", "rt", "frob", "serve", "pull", "`"];
        let tokens = words.iter().map(|word| Some(word.as_bytes().to_vec())).chain([None]).collect();
        let shared = Arc::new(Guides { commands: Arc::new(Commands::new(&manual())), tokens, masks: Mutex::default() });
        let mut guide = shared.guide();
        let mut next = |token: &str| -> Vec<&str> {
            if let Some(id) = words.iter().position(|word| *word == token) {
                guide.accept(id as u32).unwrap();
            }
            let mask = guide.allowed().unwrap()[0];
            (0..=words.len())
                .filter(|id| mask >> id & 1 == 1)
                .map(|id| words.get(id).copied().unwrap_or("end"))
                .collect()
        };
        let everything = [&words[..], &["end"]].concat();
        assert_eq!(next(""), everything);
        assert_eq!(next("farthing"), everything);
        assert_eq!(next(" "), [" ", "--", "serve", "pull", "`", "end"]);
        assert_eq!(next("serve"), [" ", "`", "end"]);
        assert_eq!(next(" "), everything);
        // `--any-name` begins with an a.
        assert_eq!(next("--"), ["a", " ", "--", "port", "po", "`", "end"]);
        assert_eq!(next("po"), ["rt"]);
        assert_eq!(next("rt"), [" ", "`", "end"]);
        assert!(guide.accept(7).is_err() && !guide.is_done());
    }
}
