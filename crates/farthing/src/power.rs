//! Power: what the processor draws, by the counters of RAPL that Linux shows

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Where Linux shows them.
pub const POWERCAP: &str = "/sys/class/powercap";

/// Why no watts are told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPower {
    /// The machine has no counters, as most virtual ones.
    #[error("this machine tells no watts (there are no RAPL counters in {POWERCAP}); --watts gives them")]
    Absent,
    /// Only the administrator may read them.
    #[error(
        "the RAPL counter {0} may be read by the administrator only; --watts gives what a meter shows, or run this once as root"
    )]
    Denied(String),
    /// A counter that is no number.
    #[error("the RAPL counter {0} cannot be read: {1}; --watts gives what a meter shows")]
    Unreadable(String, String),
}

/// The counters of all processor packages. Memory, disks, fans and the power supply are not in them.
pub struct Power {
    packages: Vec<Package>,
}

struct Package {
    counter: PathBuf,
    /// Microjoules after which the counter starts over.
    range: u64,
}

/// Counters at a moment.
pub struct Reading {
    at: Instant,
    microjoules: Vec<u64>,
}

impl Power {
    /// The counters below a directory such as [`POWERCAP`].
    ///
    /// # Errors
    /// There are none, or they may not be read.
    pub fn open(powercap: &Path) -> Result<Power, NoPower> {
        let entries = std::fs::read_dir(powercap).map_err(|_| NoPower::Absent)?;
        let mut packages = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // A package is `intel-rapl:0`, also on AMD's; its parts have a second number.
            if name.starts_with("intel-rapl:") && name.matches(':').count() == 1 {
                let range = number(&entry.path().join("max_energy_range_uj"))?;
                packages.push(Package { counter: entry.path().join("energy_uj"), range });
            }
        }
        let power = Power { packages };
        if power.packages.is_empty() {
            return Err(NoPower::Absent);
        }
        power.read().map(|_| power)
    }

    /// Read all counters.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn read(&self) -> Result<Reading, NoPower> {
        let microjoules = self.packages.iter().map(|package| number(&package.counter)).collect::<Result<_, _>>()?;
        Ok(Reading { at: Instant::now(), microjoules })
    }

    /// Mean watts between two readings; a counter may have started over once.
    pub fn watts(&self, from: &Reading, to: &Reading) -> f64 {
        let each = self.packages.iter().zip(from.microjoules.iter().zip(&to.microjoules));
        let microjoules: u64 = each.map(|(p, (&from, &to))| spent(from, to, p.range)).sum();
        microjoules as f64 / 1e6 / to.at.duration_since(from.at).as_secs_f64()
    }
}

fn spent(from: u64, to: u64, range: u64) -> u64 {
    if to >= from { to - from } else { range.saturating_sub(from).saturating_add(to) }
}

fn number(path: &Path) -> Result<u64, NoPower> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|e| match e.kind() {
        ErrorKind::PermissionDenied => NoPower::Denied(name.clone()),
        _ => NoPower::Unreadable(name.clone(), e.to_string()),
    })?;
    text.trim().parse().map_err(|_| NoPower::Unreadable(name, format!("{:?} is no number", text.trim())))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn package(root: &Path, name: &str, energy: &str) {
        let at = root.join(name);
        std::fs::create_dir_all(&at).unwrap();
        std::fs::write(at.join("energy_uj"), format!("{energy}\n")).unwrap();
        std::fs::write(at.join("max_energy_range_uj"), "1000000000\n").unwrap();
    }

    #[test]
    fn packages_are_added_up_and_their_parts_are_not() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Power::open(root.path()).err(), Some(NoPower::Absent));
        assert_eq!(Power::open(&root.path().join("nowhere")).err(), Some(NoPower::Absent));
        package(root.path(), "intel-rapl:0", "5000000");
        package(root.path(), "intel-rapl:1", "999000000");
        package(root.path(), "intel-rapl:0:0", "7");
        let power = Power::open(root.path()).unwrap();
        let from = power.read().unwrap();
        package(root.path(), "intel-rapl:0", "9000000");
        package(root.path(), "intel-rapl:1", "1000000");
        let mut to = power.read().unwrap();
        to.at = from.at + Duration::from_secs(2);
        // Four joules, and two of a counter that started over, in two seconds.
        assert!((power.watts(&from, &to) - 3.0).abs() < 1e-9);
    }

    #[test]
    fn counters_that_are_no_numbers_are_named() {
        let root = tempfile::tempdir().unwrap();
        package(root.path(), "intel-rapl:0", "many");
        let error = Power::open(root.path()).err().unwrap().to_string();
        assert!(error.contains("energy_uj") && error.contains("many") && error.contains("--watts"), "{error}");
    }
}
