//! Shares of alternatives, as settings give them

use rand::RngExt;
use rand_pcg::Pcg64;

/// Checks that a setting is a share of a whole.
///
/// # Errors
/// In words.
pub fn chance(name: &str, share: f64) -> Result<(), String> {
    if (0.0..=1.0).contains(&share) { Ok(()) } else { Err(format!("{name} {share}: a share from 0 to 1")) }
}

/// Alternatives of which one is taken, each as often as its share of the sum of all.
#[derive(Clone, Debug)]
pub struct Shares<T> {
    alternatives: Vec<(T, f64)>,
    total: f64,
}

impl<T: Copy> Shares<T> {
    /// Alternatives by the names of their settings.
    ///
    /// # Errors
    /// In words: a share below 0, or none above it.
    pub fn new(alternatives: &[(&str, T, f64)]) -> Result<Shares<T>, String> {
        if let Some((name, _, share)) = alternatives.iter().find(|(_, _, share)| !(0.0..=1e9).contains(share)) {
            return Err(format!("{name} {share}: a share is not below 0"));
        }
        let total = alternatives.iter().map(|(_, _, share)| share).sum();
        if total <= 0.0 {
            let names: Vec<&str> = alternatives.iter().map(|(name, _, _)| *name).collect();
            return Err(format!("{} are all 0: one of them needs a share", names.join(", ")));
        }
        Ok(Shares { alternatives: alternatives.iter().map(|&(_, value, share)| (value, share)).collect(), total })
    }

    /// One of them.
    pub fn choose(&self, random: &mut Pcg64) -> T {
        let mut rest = random.random_range(0.0..self.total);
        for &(value, share) in &self.alternatives {
            if rest < share {
                return value;
            }
            rest -= share;
        }
        // Rounding: what is left is the last one that has a share.
        self.alternatives.iter().rfind(|(_, share)| *share > 0.0).unwrap_or(&self.alternatives[0]).0
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn alternatives_come_as_often_as_their_shares() {
        let shares = Shares::new(&[("a", 'a', 3.0), ("b", 'b', 0.0), ("c", 'c', 1.0)]).unwrap();
        let mut random = Pcg64::seed_from_u64(1);
        let taken: Vec<char> = (0..10_000).map(|_| shares.choose(&mut random)).collect();
        let count = |which| taken.iter().filter(|&&t| t == which).count();
        assert!((7_300..7_700).contains(&count('a')), "{}", count('a'));
        assert_eq!(count('b'), 0);
        assert!(Shares::new(&[("a", 1, f64::NAN)]).unwrap_err().contains("a NaN"));
        assert!(Shares::new(&[("a", 1, 0.0), ("b", 1, 0.0)]).unwrap_err().contains("a, b are all 0"));
        assert!(chance("a", 1.5).is_err() && chance("a", f64::NAN).is_err() && chance("a", 1.0).is_ok());
    }
}
