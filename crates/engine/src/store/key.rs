//! What a block is called: a hash of everything that its bytes follow from.

use std::fmt;

/// Whose blocks they are, so that all of one owner can be removed; zeros: nobody's. It is no part of what blocks are found by: salts keep owners apart.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Owner(pub [u8; 16]);

impl Owner {
    /// Blocks that are nobody's.
    pub const NOBODY: Owner = Owner([0; 16]);
}

/// The name of a block. Derive it with [`root`] and [`chain`].
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Of all that the block's bytes follow from.
    pub hash: [u8; 32],
    /// Whose it is.
    pub owner: Owner,
}

/// Bytes in lower-case hexadecimal digits.
fn parsed<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16).filter(|_| !byte.is_ascii_uppercase()).map(|d| d as u8);
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

impl Key {
    /// A key that is nobody's.
    pub fn new(hash: [u8; 32]) -> Key {
        Key { hash, owner: Owner::NOBODY }
    }

    /// The same block, as an owner's. Blocks that are chained to it are the owner's, too.
    #[must_use]
    pub fn owned_by(self, owner: Owner) -> Key {
        Key { owner, ..self }
    }

    /// From hexadecimal digits, as `Display` writes them.
    pub(super) fn parse(text: &str) -> Option<Key> {
        let Some((hash, owner)) = text.split_once('-') else { return parsed(text).map(Key::new) };
        let owner = parsed(owner).map(Owner).filter(|owner| *owner != Owner::NOBODY)?;
        Some(Key { hash: parsed(hash)?, owner })
    }

    /// What the block of this key is called on disk, where blocks of other models lie too, given the fingerprint of its model. In memory, where all
    /// blocks are of one model, keys do without it, so that nobody waits for the files to be hashed.
    pub(crate) fn on_disk(&self, fingerprint: &[u8; 32]) -> Key {
        let mut hasher = blake3::Hasher::new_derive_key("Farthing, context cache, version 1: unit on disk");
        hasher.update(fingerprint).update(&self.hash);
        Key { hash: hasher.finalize().into(), ..*self }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        if self.owner == Owner::NOBODY {
            return Ok(());
        }
        f.write_str("-")?;
        self.owner.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
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
    Key::new(hasher.finalize().into())
}

/// The key of the block that holds `tokens` and follows upon `parent`: the key of the block before it, or a [`root`]. `form` tells apart pages of the
/// same tokens that were computed in different ways, and so differ in bits.
pub fn chain(parent: &Key, form: u8, tokens: &[u32]) -> Key {
    let mut hasher = blake3::Hasher::new_derive_key("Farthing, context cache, version 1: unit");
    hasher.update(&parent.hash).update(&[form]);
    for token in tokens {
        hasher.update(&token.to_le_bytes());
    }
    Key { hash: hasher.finalize().into(), owner: parent.owner }
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
            parent.hash[bit / 8] ^= 1 << (bit % 8);
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
        assert_ne!(chain(&Key::new([7; 32]), 7, &[5]), root(&[7; 32], &bytes[32..]));
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
        let owned = key.owned_by(Owner([0xa5; 16]));
        assert_eq!(
            (owned.to_string(), Key::parse(&owned.to_string())),
            (format!("{text}-{}", "a5".repeat(16)), Some(owned))
        );
        let block = chain(&owned, 0, &[1]);
        assert_eq!((block.owner, block.hash), (owned.owner, chain(&key, 0, &[1]).hash));
        assert_eq!(block.on_disk(&[1; 32]).owner, owned.owner);
        for wrong in [
            &text[1..],
            &text.to_uppercase(),
            &format!("{text}0"),
            &text.replace(&text[..2], "g0"),
            "",
            &"é".repeat(32),
            &format!("{text}-"),
            &format!("{text}-{}", "0".repeat(32)),
            &format!("{text}-{}", "a".repeat(31)),
            &format!("{text}-{}-", "a".repeat(32)),
        ] {
            assert_eq!(Key::parse(wrong), None, "{wrong}");
        }
    }
}
