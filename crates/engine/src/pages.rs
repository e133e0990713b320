//! Who owns which page of the cache. A page belongs to one sequence; dropping its list gives it back.

use std::sync::{Arc, Mutex, PoisonError};

/// Pages that nobody owns.
#[derive(Clone)]
pub struct Free(Arc<Mutex<Vec<u32>>>);

impl Free {
    /// All of `count` pages.
    pub fn new(count: usize) -> Free {
        Free(Arc::new(Mutex::new((0..count as u32).rev().collect())))
    }

    /// How many are free.
    pub fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// An empty list of owned pages.
    pub fn list(&self) -> Pages {
        Pages { free: self.clone(), ids: Vec::new() }
    }
}

/// Pages of one sequence, in order of position.
pub struct Pages {
    free: Free,
    ids: Vec<u32>,
}

impl Pages {
    /// The pages.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Own exactly `count` pages: takes what is missing, gives back what is too many. False, and nothing taken, when too few are free.
    pub fn resize(&mut self, count: usize) -> bool {
        let mut free = self.free.0.lock().unwrap_or_else(PoisonError::into_inner);
        if count > self.ids.len() + free.len() {
            return false;
        }
        while self.ids.len() > count {
            free.extend(self.ids.pop());
        }
        while self.ids.len() < count {
            self.ids.extend(free.pop());
        }
        true
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.resize(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Law 8: whatever sequences do, no page is owned twice and none is lost.
        #[test]
        fn no_page_leaks(steps in proptest::collection::vec((0usize..6, 0usize..12), 1..200)) {
            let free = Free::new(20);
            let mut lists: Vec<Option<Pages>> = (0..6).map(|_| None).collect();
            for (who, size) in steps {
                match &mut lists[who] {
                    slot if size == 0 => *slot = None,
                    slot => {
                        let list = slot.get_or_insert_with(|| free.list());
                        let before = list.ids().len();
                        let taken = list.resize(size);
                        prop_assert_eq!(list.ids().len(), if taken { size } else { before });
                    }
                }
                let mut owned: Vec<u32> = lists.iter().flatten().flat_map(|l| l.ids().to_vec()).collect();
                prop_assert_eq!(owned.len() + free.len(), 20);
                owned.sort_unstable();
                owned.dedup();
                prop_assert_eq!(owned.len() + free.len(), 20);
            }
            drop(lists);
            prop_assert_eq!(free.len(), 20);
        }
    }
}
