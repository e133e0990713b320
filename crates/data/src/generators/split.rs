//! Training and held-out sets of frames, names and numbers: a tenth is held out, by hash, the same in every generator

use rand::RngExt;
use rand_pcg::Pcg64;
use xxhash_rust::xxh3::xxh3_64;

/// One in this many is held out.
const HELD_OUT_ONE_IN: u64 = 10;

/// Lists shorter than this hold out more, so that held-out frames vary.
const SHORT: usize = 20;

/// Whether a frame, name or number is held out from training: it depends on the key alone, so that a name is held out everywhere or nowhere.
pub fn is_held_out(key: &str) -> bool {
    xxh3_64(key.as_bytes()).is_multiple_of(HELD_OUT_ONE_IN)
}

/// A list that is split into a training and a held-out set.
#[derive(Clone, Debug)]
pub struct Split<T> {
    training: Vec<T>,
    held_out: Vec<T>,
}

impl<T> Split<T> {
    /// Splits a list by [`is_held_out`] of its keys. At least a twentieth is held out, of a list shorter than 20 a
    /// fifth and at least one: those of the least hashes.
    ///
    /// # Panics
    /// If a set stays empty, as with fewer than two entries.
    pub fn new(items: impl IntoIterator<Item = T>, key: impl Fn(&T) -> String) -> Split<T> {
        let (mut held_out, mut training): (Vec<T>, Vec<T>) =
            items.into_iter().partition(|item| is_held_out(&key(item)));
        let length = held_out.len() + training.len();
        let least = if length < SHORT { (length / 5).max(1) } else { length / 20 };
        while held_out.len() < least {
            let least = (0..training.len()).min_by_key(|&i| xxh3_64(key(&training[i]).as_bytes()));
            held_out.extend(least.map(|i| training.remove(i)));
        }
        assert!(!training.is_empty() && !held_out.is_empty(), "nothing to split");
        Split { training, held_out }
    }

    /// One of the two sets.
    pub fn of(&self, held_out: bool) -> &[T] {
        if held_out { &self.held_out } else { &self.training }
    }

    /// One entry of a set, each as likely as the others.
    pub fn choose(&self, random: &mut Pcg64, held_out: bool) -> &T {
        choose(random, self.of(held_out))
    }
}

/// One entry of a list, each as likely as the others.
///
/// # Panics
/// If the list is empty.
pub fn choose<'a, T>(random: &mut Pcg64, items: &'a [T]) -> &'a T {
    &items[random.random_range(0..items.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_is_held_out_and_a_fifth_of_a_short_list() {
        let split = Split::new(0..10_000, i32::to_string);
        assert!((900..1100).contains(&split.of(true).len()), "{}", split.of(true).len());
        assert_eq!(split.of(true).len() + split.of(false).len(), 10_000);
        assert!(split.of(true).iter().all(|i| is_held_out(&i.to_string())));
        assert!(!split.of(false).iter().any(|i| is_held_out(&i.to_string())));
        for n in 2..20 {
            let split = Split::new(0..n, i32::to_string);
            assert!(split.of(true).len() >= (n as usize / 5).max(1) && !split.of(false).is_empty());
        }
    }
}
