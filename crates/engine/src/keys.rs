//! Names of units: a unit is a page of 64 tokens, and its key says everything that its numbers follow from.
//!
//! A chain of hashes (BLAKE3): the root stands for the model, the arithmetic, the cache's format and whoever may share; each link adds the
//! unit's tokens and the form in which attention computed them. Equal keys, equal bits.

/// A unit's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub [u8; 32]);

/// Where chains begin: `fingerprint` of model, arithmetic and format; `salt` of those who share.
pub fn root(fingerprint: &[u8; 32], salt: &[u8]) -> Key {
    let mut hasher = blake3::Hasher::new_derive_key("farthing context cache, root");
    hasher.update(fingerprint);
    hasher.update(salt);
    Key(*hasher.finalize().as_bytes())
}

/// The next link: these tokens, computed in this form, after all that `before` stands for.
pub fn chain(before: &Key, form: u8, tokens: &[u32]) -> Key {
    let mut hasher = blake3::Hasher::new_derive_key("farthing context cache, unit");
    hasher.update(&before.0);
    hasher.update(&[form]);
    tokens.iter().for_each(|token| {
        hasher.update(&token.to_le_bytes());
    });
    Key(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_name_matters() {
        let base = root(&[1; 32], b"a");
        let unit = chain(&base, 0, &[1, 2, 3]);
        let others = [
            root(&[2; 32], b"a"),
            root(&[1; 32], b"b"),
            root(&[1; 32], b""),
            base,
            chain(&root(&[1; 32], b"b"), 0, &[1, 2, 3]),
            chain(&base, 1, &[1, 2, 3]),
            chain(&base, 0, &[1, 2, 4]),
            chain(&base, 0, &[1, 2]),
            chain(&unit, 0, &[1, 2, 3]),
        ];
        for (i, key) in others.iter().enumerate() {
            assert_ne!(*key, unit, "{i}");
        }
        assert_eq!(chain(&root(&[1; 32], b"a"), 0, &[1, 2, 3]), unit);
    }
}
