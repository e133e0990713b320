//! Sentences of a line, counted as spaCy's sentencizer does with its English tokenizer: a full stop after an abbreviation ends none

use crate::punctuation::is_terminal;

/// Sentences: one, and one more where a word follows a mark that ends a sentence.
pub fn count(line: &str) -> usize {
    let mut sentences = 1;
    let mut ended = false;
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        if is_terminal(c) {
            let after = line[at + c.len_utf8()..].chars().next().unwrap_or(' ');
            ended |= ends(&line[..at], before, c, after);
        } else if ended && is_word(c) {
            sentences += 1;
            ended = false;
        }
        before = c;
    }
    sentences
}

/// White space begins no sentence, neither do quotation marks and brackets; signs of money and arithmetic do.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '`' | '|' | '~')
}

/// Whether this mark is a token of its own that ends a sentence.
fn ends(text: &str, before: char, mark: char, after: char) -> bool {
    if mark != '.' {
        return !after.is_ascii_alphanumeric();
    }
    if before == '.' || after == '.' {
        return false;
    }
    if after.is_alphanumeric() {
        return before.is_lowercase() && after.is_uppercase();
    }
    let mut letters = text.chars().rev();
    let last = letters.next().unwrap_or(' ');
    if last.is_uppercase() {
        // An initial, as in J. Smith, or the end of U.S.
        return letters.next().is_some_and(char::is_uppercase);
    }
    !(last.is_lowercase() && is_abbreviation(text))
}

/// Bytes of the longest abbreviation.
const ABBREVIATION_BYTES_MAX: usize = 6;

fn is_abbreviation(text: &str) -> bool {
    let tail = text.as_bytes();
    let tail = &tail[tail.len().saturating_sub(ABBREVIATION_BYTES_MAX + 1)..];
    let start = tail.iter().rposition(|&byte| !(byte.is_ascii_alphabetic() || byte == b'.')).map_or(0, |at| at + 1);
    let word = &tail[start..];
    // The letter of a list, not that of a possessive.
    let apostrophe = start > 0 && matches!(tail[start - 1], b'\'' | 0x99);
    let single = word.len() == 1 && word[0].is_ascii_lowercase() && !apostrophe;
    single || std::str::from_utf8(word).is_ok_and(|word| ABBREVIATIONS.contains(&word))
}

/// The exceptions of spaCy 3.8's English tokenizer that end in a full stop, which is left out.
const ABBREVIATIONS: &[&str] = &[
    "Adm", "Ak", "Ala", "Apr", "Ariz", "Ark", "Aug", "Bros", "Calif", "Co", "Colo", "Conn", "Corp", "Dec", "Del", "Dr",
    "E.g", "Feb", "Fla", "Ga", "Gen", "Gov", "I.e", "Ia", "Id", "Ill", "Inc", "Ind", "Jan", "Jr", "Jul", "Jun", "Kan",
    "Kans", "Ky", "La", "Ltd", "Mar", "Mass", "Md", "Messrs", "Mich", "Minn", "Miss", "Mo", "Mont", "Mr", "Mrs", "Ms",
    "Mt", "Neb", "Nebr", "Nev", "Nov", "Oct", "Okla", "Ore", "Pa", "Prof", "Rep", "Rev", "Sen", "Sep", "Sept", "St",
    "Tenn", "Va", "Wash", "Wis", "a.m", "co", "e.g", "i.e", "p.m", "v.s", "vs",
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of spaCy 3.8.18 (`spacy.blank("en")` with `sentencizer`).
    #[test]
    fn sentences_as_spacy_counts_them() {
        for (line, sentences) in [
            ("No end", 1),
            ("One. Two! Three? Four", 4),
            ("Mr. J. Smith of the U.S. went home. He slept.", 2),
            ("\u{201c}Yes!\u{201d} he said.", 2),
            ("Well... he went. (So did I.)", 2),
            ("Pi is 3.14, e.g. here. At 5 p.m. we left.", 2),
            ("It was the king's. But not the boys\u{2019}s. See a. and b.", 3),
            ("See www.example.com. It helps.", 2),
            ("Yes.No.Maybe", 3),
            ("Is it?! It is. $5 each.", 3),
        ] {
            assert_eq!(count(line), sentences, "{line}");
        }
    }
}
