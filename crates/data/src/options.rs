//! Settings of a step, source or generator: a table of the recipe, read into a type that has no unknown keys

use serde::de::DeserializeOwned;

/// What a table holds.
///
/// # Errors
/// In words, without the line: a key that is not known, missing, of the wrong type or out of range.
pub fn read<T: DeserializeOwned>(table: toml::Table) -> Result<T, String> {
    table.try_into().map_err(|e: toml::de::Error| {
        // The key stands on a line of its own, as in `words_min`.
        e.to_string().trim().replace('\n', ", ")
    })
}
