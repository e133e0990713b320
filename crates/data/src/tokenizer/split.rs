//! Words of a text by the rules of a `tokenizer.json`, as slices of the text: what the `tokenizers` library does, without its copies and offsets

use fancy_regex::Regex;
use serde_json::Value;

/// Cuts every piece of the level before into matches and what is between them.
enum Level {
    /// Matches of a regular expression.
    Regex(Box<Regex>),
    /// Digits, each alone.
    EachDigit,
    /// Runs of digits.
    Digits,
}

/// Rules as levels, one after the other. What a level makes of a piece depends on that piece alone.
pub struct Splitter {
    levels: Vec<Level>,
}

/// GPT-2's rule, which the library's `ByteLevel` applies unless it is told not to.
const GPT_2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

impl Splitter {
    /// The rules of a `pre_tokenizer` that ends in bytes (`ByteLevel`); none for rules that this type does not know.
    pub fn new(pre_tokenizer: &Value) -> Option<Splitter> {
        let one = std::slice::from_ref(pre_tokenizer);
        let steps = match pre_tokenizer["type"].as_str()? {
            "Sequence" => pre_tokenizer["pretokenizers"].as_array()?,
            _ => one,
        };
        let (last, before) = steps.split_last()?;
        if last["type"] != "ByteLevel" || last["add_prefix_space"] != false {
            return None;
        }
        let mut levels = before.iter().map(level).collect::<Option<Vec<_>>>()?;
        // A step without the key has the rule: the library's default.
        if last["use_regex"] != false {
            levels.push(Level::Regex(Box::new(Regex::new(GPT_2).ok()?)));
        }
        Some(Splitter { levels })
    }

    /// Levels, so that a piece of the last is a word.
    pub fn levels(&self) -> usize {
        self.levels.len()
    }

    /// The pieces that level number `level` cuts a piece of the level before into, in order; none is empty.
    pub fn pieces<'a>(&self, level: usize, piece: &'a str, mut each: impl FnMut(&'a str)) {
        let mut at = 0;
        let mut cut = |start: usize, end: usize| {
            for part in [&piece[at..start], &piece[start..end]] {
                if !part.is_empty() {
                    each(part);
                }
            }
            at = end;
        };
        match &self.levels[level] {
            // As in the library, an error (too much backtracking) ends the search.
            Level::Regex(regex) => {
                for found in regex.find_iter(piece).map_while(Result::ok) {
                    cut(found.start(), found.end());
                }
            }
            Level::EachDigit => {
                for (start, digit) in piece.char_indices().filter(|(_, c)| c.is_numeric()) {
                    cut(start, start + digit.len_utf8());
                }
            }
            Level::Digits => {
                let mut rest = 0;
                while let Some(start) = piece[rest..].find(char::is_numeric).map(|start| rest + start) {
                    let length = piece[start..].find(|c: char| !c.is_numeric()).unwrap_or(piece.len() - start);
                    rest = start + length;
                    cut(start, rest);
                }
            }
        }
        cut(piece.len(), piece.len());
    }

    /// The words of a text in order.
    pub fn words<'a>(&self, text: &'a str, each: &mut dyn FnMut(&'a str)) {
        self.words_from(0, text, each);
    }

    fn words_from<'a>(&self, level: usize, piece: &'a str, each: &mut dyn FnMut(&'a str)) {
        if level == self.levels.len() {
            each(piece);
        } else {
            self.pieces(level, piece, |part| self.words_from(level + 1, part, each));
        }
    }
}

fn level(step: &Value) -> Option<Level> {
    match step["type"].as_str()? {
        "Split" if step["behavior"] == "Isolated" && step["invert"] == false => {
            let pattern = match (step["pattern"]["Regex"].as_str(), step["pattern"]["String"].as_str()) {
                (Some(regex), None) => Regex::new(regex).ok()?,
                (None, Some(string)) if !string.is_empty() => Regex::new(&fancy_regex::escape(string)).ok()?,
                _ => return None,
            };
            Some(Level::Regex(Box::new(pattern)))
        }
        "Digits" => Some(if step["individual_digits"].as_bool()? { Level::EachDigit } else { Level::Digits }),
        _ => None,
    }
}
