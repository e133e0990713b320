//! Pages that several requests read: who uses which, which hold a block that can be found by its key, and which go first when room is
//! needed. Plain data: it knows numbers of pages, not their contents.

use std::collections::{BTreeMap, HashMap};

use crate::store::Key;

/// One page.
#[derive(Clone, Debug, Default)]
struct PageSlot {
    /// Requests that read it.
    users: u32,
    /// The block it holds, and the tokens' key before it.
    block: Option<(Key, Key)>,
    /// When it was given back, while nobody uses it.
    since: u64,
}

/// All pages of a cache.
#[derive(Clone, Debug, Default)]
pub struct PrefixCache {
    slots: Vec<PageSlot>,
    /// Nobody uses these, and they hold nothing.
    empty: Vec<u32>,
    /// Nobody uses these, but they hold blocks: the longest unused first.
    idle: BTreeMap<u64, u32>,
    blocks: HashMap<Key, u32>,
    /// The block that last followed a key, to say where a prompt began to differ.
    followers: HashMap<Key, (Key, Box<[u32]>)>,
    clock: u64,
    evicted: u64,
}

impl PrefixCache {
    /// So many empty pages.
    pub fn new(count: usize) -> PrefixCache {
        PrefixCache {
            slots: vec![PageSlot::default(); count],
            empty: (0..count as u32).rev().collect(),
            ..PrefixCache::default()
        }
    }

    /// All pages.
    pub fn count(&self) -> usize {
        self.slots.len()
    }

    /// Pages that can be taken: empty ones, and blocks that nobody uses.
    pub fn available(&self) -> usize {
        self.empty.len() + self.idle.len()
    }

    /// Blocks that can be found.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// All blocks that can be found, with their pages, in no order.
    pub fn each_block(&self) -> impl Iterator<Item = (Key, u32)> {
        self.blocks.iter().map(|(&key, &page)| (key, page))
    }

    /// Blocks that were given up for room.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// A page to write to, for one user. The block that was longest unused goes if it must.
    pub fn take(&mut self) -> Option<u32> {
        let page = match self.empty.pop() {
            Some(page) => page,
            None => {
                let (_, page) = self.idle.pop_first()?;
                self.forget(page);
                self.evicted += 1;
                page
            }
        };
        self.slots[page as usize].users = 1;
        Some(page)
    }

    /// Whether a block is there, and whether nobody uses it now.
    pub fn find(&self, key: &Key) -> Option<bool> {
        self.blocks.get(key).map(|&page| self.slots[page as usize].users == 0)
    }

    /// One more user of a block.
    pub fn share(&mut self, key: &Key) -> Option<u32> {
        let page = *self.blocks.get(key)?;
        let slot = &mut self.slots[page as usize];
        if slot.users == 0 {
            self.idle.remove(&slot.since);
        }
        slot.users += 1;
        Some(page)
    }

    /// A page now holds this block, whole, after `before`. A block that is there already stays where it is.
    pub fn publish(&mut self, page: u32, key: Key, before: Key, tokens: &[u32]) -> bool {
        self.followers.insert(before, (key, tokens.into()));
        if self.blocks.contains_key(&key) {
            return false;
        }
        let slot = &mut self.slots[page as usize];
        assert!(slot.users > 0 && slot.block.is_none(), "one who wrote a page says what it holds, once");
        slot.block = Some((key, before));
        self.blocks.insert(key, page);
        true
    }

    /// How many of `tokens` follow `before` in the block that was last published there.
    pub fn common(&self, before: &Key, tokens: &[u32]) -> Option<usize> {
        let (_, seen) = self.followers.get(before)?;
        Some(seen.iter().zip(tokens).take_while(|(a, b)| a == b).count())
    }

    /// One user less.
    pub fn release(&mut self, page: u32) {
        let slot = &mut self.slots[page as usize];
        slot.users = slot.users.checked_sub(1).expect("a page is given back by those who use it");
        if slot.users > 0 {
            return;
        }
        if slot.block.is_some() {
            self.clock += 1;
            slot.since = self.clock;
            self.idle.insert(self.clock, page);
        } else {
            self.empty.push(page);
        }
    }

    /// A page no longer holds a block that can be found.
    fn forget(&mut self, page: u32) {
        let Some((key, before)) = self.slots[page as usize].block.take() else { return };
        self.blocks.remove(&key);
        if self.followers.get(&before).is_some_and(|(last, _)| *last == key) {
            self.followers.remove(&before);
        }
    }

    /// What must always hold, given how many users each page has.
    ///
    /// # Panics
    /// When it does not.
    pub fn check(&self, users: &HashMap<u32, u32>) {
        let used = users.len();
        assert_eq!(used + self.empty.len() + self.idle.len(), self.slots.len(), "every page is used, idle or empty");
        for (page, slot) in self.slots.iter().enumerate() {
            assert_eq!(slot.users, users.get(&(page as u32)).copied().unwrap_or(0), "users of page {page}");
            if let Some((key, _)) = slot.block {
                assert_eq!(self.blocks.get(&key), Some(&(page as u32)), "a block is found where it is");
            }
        }
        assert_eq!(
            self.blocks.len(),
            self.slots.iter().filter(|s| s.block.is_some()).count(),
            "no block without a page"
        );
        assert!(self.idle.values().all(|&p| self.slots[p as usize].block.is_some()), "idle pages hold blocks");
        assert!(self.empty.iter().all(|&p| self.slots[p as usize].block.is_none()), "empty pages hold none");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{chain, root};

    #[test]
    fn the_longest_unused_unit_goes_first() {
        let mut pages = PrefixCache::new(3);
        let base = root(&[0; 32], b"");
        let keys: Vec<Key> = (0..4).map(|i| chain(&base, 0, &[i])).collect();
        for i in 0..3 {
            let page = pages.take().unwrap();
            assert!(pages.publish(page, keys[i], base, &[i as u32]));
            pages.release(page);
        }
        // The first is used again: the second is now the oldest.
        let first = pages.share(&keys[0]).unwrap();
        pages.release(first);
        let page = pages.take().unwrap();
        assert_eq!((pages.find(&keys[0]), pages.find(&keys[1]), pages.find(&keys[2])), (Some(true), None, Some(true)));
        assert!(pages.publish(page, keys[3], base, &[3]));
        assert_eq!((pages.available(), pages.blocks(), pages.evicted()), (2, 3, 1));
        // Shared by two: it is free when both have gone.
        let again = pages.share(&keys[3]).unwrap();
        pages.release(page);
        assert_eq!((again, pages.find(&keys[3])), (page, Some(false)));
        pages.release(again);
        assert_eq!(pages.find(&keys[3]), Some(true));
        pages.check(&HashMap::new());
    }

    #[test]
    fn a_prompt_is_told_where_it_differs() {
        let mut pages = PrefixCache::new(2);
        let base = root(&[0; 32], b"");
        assert_eq!(pages.common(&base, &[1, 2, 3]), None);
        let page = pages.take().unwrap();
        pages.publish(page, chain(&base, 0, &[1, 2, 3]), base, &[1, 2, 3]);
        assert_eq!(pages.common(&base, &[1, 2, 4]), Some(2));
        pages.release(page);
        assert!(pages.take().is_some() && pages.take().is_some() && pages.take().is_none());
        assert_eq!(pages.common(&base, &[1, 2, 4]), None);
    }
}
