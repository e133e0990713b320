//! Times: milliseconds since 1970, UTC, and the days and months of budgets.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Datelike, Months, NaiveDate};

/// Milliseconds of a day.
pub const DAY_MS: i64 = 86_400_000;
/// Milliseconds of an hour.
pub(crate) const HOUR_MS: i64 = 3_600_000;

/// Tells the time, in milliseconds since 1970. Clones share what it is corrected by.
#[derive(Clone)]
pub struct Clock {
    now: Arc<dyn Fn() -> i64 + Send + Sync>,
    /// What is added to it, where it may be corrected.
    correction: Option<Arc<AtomicI64>>,
}

impl Clock {
    /// A clock that is right whatever a database says, such as that of a test.
    pub fn new(now: impl Fn() -> i64 + Send + Sync + 'static) -> Clock {
        Clock { now: Arc::new(now), correction: None }
    }

    /// A clock of one machine among several, which may be off: a ledger in PostgreSQL corrects it by the database's.
    pub fn of_machine(now: impl Fn() -> i64 + Send + Sync + 'static) -> Clock {
        Clock { correction: Some(Arc::default()), ..Clock::new(now) }
    }

    /// Now.
    pub fn now(&self) -> i64 {
        let correction = self.correction.as_ref().map_or(0, |correction| correction.load(Ordering::Relaxed));
        (self.now)().saturating_add(correction)
    }

    /// Whether it may be corrected.
    pub(crate) fn is_of_machine(&self) -> bool {
        self.correction.is_some()
    }

    /// It is `time` now.
    pub(crate) fn correct(&self, time: i64) {
        if let Some(correction) = &self.correction {
            correction.store(time.saturating_sub((self.now)()), Ordering::Relaxed);
        }
    }
}

impl Default for Clock {
    /// This machine's time.
    fn default() -> Clock {
        Clock::of_machine(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64))
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}

/// The day of a time, in days since 1970.
pub(crate) fn day(now: i64) -> i64 {
    now.div_euclid(DAY_MS)
}

/// First days of the month of a day and of the month after it, in days since 1970.
pub(crate) fn month(day: i64) -> (i64, i64) {
    let first = date(day).and_then(|date| date.with_day(1));
    let next = first.and_then(|first| first.checked_add_months(Months::new(1)));
    let days = |date: Option<NaiveDate>| date.map_or(day, |date| i64::from(date.to_epoch_days()));
    (days(first), days(next))
}

/// The date of a day.
pub(crate) fn date(day: i64) -> Option<NaiveDate> {
    DateTime::from_timestamp_millis(day.checked_mul(DAY_MS)?).map(|time| time.date_naive())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_have_their_days() {
        let of = |year, month, day| i64::from(NaiveDate::from_ymd_opt(year, month, day).unwrap().to_epoch_days());
        assert_eq!(month(of(2026, 11, 29)), (of(2026, 11, 1), of(2026, 12, 1)));
        assert_eq!(month(of(2024, 2, 1)), (of(2024, 2, 1), of(2024, 3, 1)));
        assert_eq!(month(of(2026, 12, 31)), (of(2026, 12, 1), of(2027, 1, 1)));
        assert_eq!((day(-1), day(0), day(DAY_MS - 1), day(DAY_MS)), (-1, 0, 0, 1));
    }
}
