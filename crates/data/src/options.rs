//! Settings of a step, source or generator: a table of the recipe, read into a type that has no unknown keys

use serde::de::DeserializeOwned;

/// What a table holds.
///
/// # Errors
/// In words, without the line: a key that is not known, missing, of the wrong type or out of range.
pub fn read<T: DeserializeOwned>(table: toml::Table) -> Result<T, String> {
    // The key stands on a line of its own, as in `words_min`.
    table.try_into().map_err(|e: toml::de::Error| with_nearest(e.to_string().trim()).replace('\n', ", "))
}

/// Least similarity (Jaro-Winkler) of two names of which one may be meant by the other.
const NEAR: f64 = 0.75;

/// Bytes of a name that are compared.
const NAME_BYTES_MAX: usize = 100;

/// A question whether the most similar of these names is meant; nothing if none is like it.
pub fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let name = &name[..name.floor_char_boundary(NAME_BYTES_MAX)];
    let likeness = |known: &str| strsim::jaro_winkler(name, known);
    let near = known.into_iter().map(|known| (likeness(known), known)).filter(|(likeness, _)| *likeness >= NEAR);
    let near = near.reduce(|best, next| if next.0 > best.0 { next } else { best });
    near.map_or(String::new(), |(_, known)| format!("; did you mean `{known}`?"))
}

/// What serde says of a name that is not known, with the one that may be meant.
pub fn with_nearest(problem: &str) -> String {
    let (first, rest) = problem.split_once('\n').map_or((problem, ""), |(first, _)| (first, &problem[first.len()..]));
    let mut names = first.split('`').skip(1).step_by(2);
    let Some(name) = names.next().filter(|_| first.starts_with("unknown ")) else { return problem.to_string() };
    format!("{first}{}{rest}", did_you_mean(name, names))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_not_known_get_the_nearest() {
        let known = ["words_min", "words_max", "symbols_max"];
        assert_eq!(did_you_mean("word_min", known), "; did you mean `words_min`?");
        assert_eq!(did_you_mean("epochs", known), "");
        assert_eq!(did_you_mean(&"\u{e9}".repeat(1000), known), "");
        let told = with_nearest("unknown field `sead`, expected one of `name`, `seed`\nin `x`");
        assert_eq!(told, "unknown field `sead`, expected one of `name`, `seed`; did you mean `seed`?\nin `x`");
        assert_eq!(with_nearest("missing field `name`"), "missing field `name`");
    }
}
