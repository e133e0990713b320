//! What a block is called: a hash of everything that its bytes follow from.

use std::fmt;

/// The name of a block. Derive it with [`root`] and [`chain`].
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub [u8; 32]);

impl Key {
    /// From 64 lower-case hexadecimal digits, as `Display` writes them.
    pub(super) fn parse(text: &str) -> Option<Key> {
        let text = text.as_bytes();
        let digit = |byte: u8| char::from(byte).to_digit(16).filter(|_| !byte.is_ascii_uppercase()).map(|d| d as u8);
        let mut key = [0; 32];
        if text.len() != 64 {
            return None;
        }
        for (byte, pair) in key.iter_mut().zip(text.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Key(key))
    }

    /// What the block of this key is called on disk, where blocks of other models lie too, given the fingerprint of its model. In memory, where all
    /// blocks are of one model, keys do without it, so that nobody waits for the files to be hashed.
    pub(crate) fn on_disk(&self, fingerprint: &[u8; 32]) -> Key {
        let mut hasher = blake3::Hasher::new_derive_key("Farthing, context cache, version 1: unit on disk");
        hasher.update(fingerprint).update(&self.0);
        Key(hasher.finalize().into())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The key of the empty prefix. `fingerprint` stands for all that makes the bytes of a page besides the tokens: the weights, the format of the cache,
/// the layout of a page. `salt` keeps accounts apart: nobody can find out what another account has asked by looking at what is in the cache.
pub fn root(fingerprint: &[u8; 32], salt: &[u8]) -> Key {
    let mut hasher = blake3::Hasher::new_derive_key("Farthing, context cache, version 1: root");
    // The fingerprint has a fixed length, so no two pairs give the same bytes.
    hasher.update(fingerprint).update(salt);
    Key(hasher.finalize().into())
}

/// The key of the block that holds `tokens` and follows upon `parent`: the key of the block before it, or a [`root`]. `form` tells apart pages of the
/// same tokens that were computed in different ways, and so differ in bits.
pub fn chain(parent: &Key, form: u8, tokens: &[u32]) -> Key {
    let mut hasher = blake3::Hasher::new_derive_key("Farthing, context cache, version 1: unit");
    hasher.update(&parent.0).update(&[form]);
    for token in tokens {
        hasher.update(&token.to_le_bytes());
    }
    Key(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_follow_from_every_input() {
        let base = root(&[1; 32], b"alice");
        let tokens: Vec<u32> = (0..64).collect();
        let block = chain(&base, 0, &tokens);
        assert_eq!(base, root(&[1; 32], b"alice"));
        assert_eq!(block, chain(&base, 0, &tokens));

        let mut seen =
            vec![base, block, chain(&block, 0, &tokens), chain(&base, 1, &tokens), chain(&base, 0, &tokens[..63])];
        seen.extend([root(&[1; 32], b""), root(&[1; 32], b"alicf"), root(&[1; 32], b"alice\0"), chain(&base, 0, &[])]);
        for bit in 0..256 {
            let mut fingerprint = [1; 32];
            fingerprint[bit / 8] ^= 1 << (bit % 8);
            seen.push(root(&fingerprint, b"alice"));
            let mut parent = base;
            parent.0[bit / 8] ^= 1 << (bit % 8);
            seen.push(chain(&parent, 0, &tokens));
        }
        for at in 0..64 {
            for bit in 0..32 {
                let mut other = tokens.clone();
                other[at] ^= 1 << bit;
                seen.push(chain(&base, 0, &other));
            }
        }
        let count = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), count);
        // A root and a block of the same bytes are told apart by what they are.
        let mut bytes = vec![7; 33];
        bytes.extend(5u32.to_le_bytes());
        assert_ne!(chain(&Key([7; 32]), 7, &[5]), root(&[7; 32], &bytes[32..]));
    }

    /// Keys must never change unnoticed: every cache on every disk would be lost. This one was computed by the BLAKE3 of Python.
    #[test]
    fn keys_stay_what_they_are() {
        let block = chain(&root(&[3; 32], b"salt"), 2, &[0, 1, 0xffff_ffff]);
        assert_eq!(block.to_string(), "9ef420f45c8cbc009b50bbc81f72a17d2ded819103278874cf537730dc04fe48");
    }

    #[test]
    fn keys_are_read_as_they_are_written() {
        let key = root(&[9; 32], b"");
        let text = key.to_string();
        assert_eq!(Key::parse(&text), Some(key));
        for wrong in [
            &text[1..],
            &text.to_uppercase(),
            &format!("{text}0"),
            &text.replace(&text[..2], "g0"),
            "",
            &"é".repeat(32),
        ] {
            assert_eq!(Key::parse(wrong), None, "{wrong}");
        }
    }
}
