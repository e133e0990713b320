//! Which blocks are on disk, how large, and which was used longest ago.

use std::collections::{BTreeMap, BTreeSet};

use super::{Key, Owner};

/// What is known of a file.
#[derive(Clone, Copy)]
struct IndexEntry {
    /// Nanoseconds since 1970.
    used: u64,
    /// What the file takes on disk.
    bytes: u64,
}

/// Blocks in order of key and in order of use. In memory only: the directory is the truth, this is what was last seen of it.
#[derive(Default)]
pub(super) struct StoreIndex {
    blocks: BTreeMap<Key, IndexEntry>,
    order: BTreeSet<(u64, Key)>,
    // Sizes come from the disk: sums of any of them must fit.
    bytes: u128,
}

impl StoreIndex {
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Bytes that they take.
    pub fn bytes(&self) -> u64 {
        self.bytes.try_into().unwrap_or(u64::MAX)
    }

    pub fn contains(&self, key: &Key) -> bool {
        self.blocks.contains_key(key)
    }

    /// Put a block there, or know better about it.
    pub fn insert(&mut self, key: Key, bytes: u64, used: u64) {
        self.remove(&key);
        self.blocks.insert(key, IndexEntry { used, bytes });
        self.order.insert((used, key));
        self.bytes += u128::from(bytes);
    }

    /// Forget a block; whether it was known.
    pub fn remove(&mut self, key: &Key) -> bool {
        let Some(entry) = self.blocks.remove(key) else { return false };
        self.order.remove(&(entry.used, *key));
        self.bytes -= u128::from(entry.bytes);
        true
    }

    /// The block was used at a time; times before the last use change nothing. Whether the block is known.
    pub fn touch(&mut self, key: &Key, used: u64) -> bool {
        let Some(entry) = self.blocks.get_mut(key) else { return false };
        if used > entry.used {
            self.order.remove(&(entry.used, *key));
            self.order.insert((used, *key));
            entry.used = used;
        }
        true
    }

    /// The block whose last use is longest ago, and when that was.
    pub fn oldest(&self) -> Option<(Key, u64)> {
        self.order.first().map(|&(used, key)| (key, used))
    }

    /// Blocks whose key begins with a byte.
    pub fn beginning_with(&self, byte: u8) -> BTreeSet<Key> {
        let mut first = Key::default();
        let mut last = Key { hash: [255; 32], owner: Owner([255; 16]) };
        (first.hash[0], last.hash[0]) = (byte, byte);
        self.blocks.range(first..=last).map(|(key, _)| *key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Beside a plain list, whatever happens.
        #[test]
        fn the_oldest_comes_first(steps in proptest::collection::vec((0u8..4, 0u8..12, 0u64..50, 0u64..9), 1..300)) {
            let mut index = StoreIndex::default();
            let mut plain: Vec<(Key, u64, u64)> = Vec::new();
            for (what, name, used, bytes) in steps {
                let mut key = Key::new([name; 32]);
                key.hash[0] = name % 3;
                let at = plain.iter().position(|block| block.0 == key);
                match what {
                    0 | 1 => {
                        index.insert(key, bytes, used);
                        at.map(|at| plain.remove(at));
                        plain.push((key, used, bytes));
                    }
                    2 => {
                        prop_assert_eq!(index.remove(&key), at.is_some());
                        at.map(|at| plain.remove(at));
                    }
                    _ => {
                        prop_assert_eq!(index.touch(&key, used), at.is_some());
                        at.into_iter().for_each(|at| plain[at].1 = plain[at].1.max(used));
                    }
                }
                prop_assert_eq!(index.len(), plain.len());
                prop_assert_eq!(index.order.len(), plain.len());
                prop_assert_eq!(index.bytes(), plain.iter().map(|block| block.2).sum::<u64>());
                prop_assert_eq!(index.oldest(), plain.iter().map(|block| (block.1, block.0)).min().map(|(used, key)| (key, used)));
                for byte in 0..3 {
                    let expected: BTreeSet<Key> = plain.iter().map(|block| block.0).filter(|key| key.hash[0] == byte).collect();
                    prop_assert_eq!(index.beginning_with(byte), expected);
                }
            }
        }
    }

    #[test]
    fn sizes_that_no_disk_has_do_no_harm() {
        let mut index = StoreIndex::default();
        index.insert(Key::new([1; 32]), u64::MAX, 1);
        index.insert(Key::new([2; 32]), 5, 2);
        assert_eq!(index.bytes(), u64::MAX);
        index.remove(&Key::new([1; 32]));
        assert_eq!(index.bytes(), 5);
    }
}
