//! The first or the last tokens of a long text, without encoding all of it.
//!
//! What lies far from where a text is cut has the tokens that it has in the whole text: a pre-tokenizer looks a few characters
//! around a word, and merges stay within words. So a part is taken that has `MARGIN` tokens more than are wanted; those, next to
//! the cut, may be other tokens than in the whole text. (Only a run of more than `MARGIN` tokens that no pre-tokenizer parts,
//! such as thousands of equal letters, or that it parts by counting from its start, such as digits in threes, can differ beyond them.)

/// Tokens next to a cut that may be other ones than in the whole text.
const MARGIN: usize = 512;
/// Bytes of a token that are tried at first; where tokens are longer, the part is doubled.
const BYTES: usize = 6;

/// The first tokens of a text: all where it has at most `wanted`, else more than that, of which the first `wanted` are those of
/// the whole text. `encode` gives the tokens of a part.
///
/// # Errors
/// Those of `encode`.
pub fn first_tokens<E>(text: &str, wanted: usize, encode: impl Fn(&str) -> Result<Vec<u32>, E>) -> Result<Vec<u32>, E> {
    part(text, wanted, |bytes| &text[..text.floor_char_boundary(bytes)], encode)
}

/// As `first_tokens`, from the end of the text. A cut is moved to a line's beginning, where there is one.
///
/// # Errors
/// Those of `encode`.
pub fn last_tokens<E>(text: &str, wanted: usize, encode: impl Fn(&str) -> Result<Vec<u32>, E>) -> Result<Vec<u32>, E> {
    let ending = |bytes: usize| {
        let rest = &text[text.ceil_char_boundary(text.len() - bytes)..];
        let line =
            rest.as_bytes().windows(2).take(MARGIN).position(|pair| pair[0] == b'\n' && pair[1].is_ascii_graphic());
        line.map_or(rest, |at| &rest[at + 1..])
    };
    part(text, wanted, ending, encode)
}

/// The tokens of a part that has enough of them; `of` gives a part of so many bytes, fewer than the text has.
fn part<'a, E>(
    text: &'a str,
    wanted: usize,
    of: impl Fn(usize) -> &'a str,
    encode: impl Fn(&str) -> Result<Vec<u32>, E>,
) -> Result<Vec<u32>, E> {
    let enough = wanted.saturating_add(MARGIN);
    let mut bytes = enough.saturating_mul(BYTES);
    while bytes < text.len() {
        let ids = encode(of(bytes))?;
        if ids.len() > enough {
            return Ok(ids);
        }
        bytes = bytes.saturating_mul(2);
    }
    encode(text)
}
