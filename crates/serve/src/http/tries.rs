//! Tries of secrets, bounded by client address and in all: codes of invitations, and keys that are wrong.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

const MINUTE: Duration = Duration::from_secs(60);

/// Tries of an address, and of all together: at once at most, and in a minute.
#[derive(Clone, Copy, Debug)]
struct Limits {
    address: u32,
    all: u32,
}

impl Limits {
    /// Addresses that are remembered before those are forgotten whose tries are whole again. Of the others there are never more than this: all together have
    /// `all` in a minute, and an address is whole a minute after its last one.
    fn addresses(self) -> usize {
        4 * self.all as usize
    }
}

/// An allowance as the time at which it is whole again (the generic cell rate algorithm).
#[derive(Clone, Copy, Debug)]
struct Allowance {
    whole_at: Instant,
}

impl Allowance {
    /// How long until a try is there, of `limit` in a minute.
    fn wait(self, limit: u32, now: Instant) -> Duration {
        let spare = MINUTE / limit * (limit - 1);
        self.whole_at.saturating_duration_since(now).saturating_sub(spare)
    }

    fn take(&mut self, limit: u32, now: Instant) {
        self.whole_at = self.whole_at.max(now) + MINUTE / limit;
    }
}

#[derive(Default)]
struct State {
    all: Option<Allowance>,
    by_address: HashMap<IpAddr, Allowance>,
}

/// Tries of all clients, in memory.
pub(crate) struct Tries {
    limits: Limits,
    state: Mutex<State>,
}

impl Tries {
    /// Of invitations' codes that are wrong: ten a minute, a hundred of all.
    pub fn of_codes() -> Tries {
        Tries { limits: Limits { address: 10, all: 100 }, state: Mutex::default() }
    }

    /// Of keys that are wrong: sixty a minute, a thousand of all.
    pub fn of_keys() -> Tries {
        Tries { limits: Limits { address: 60, all: 1000 }, state: Mutex::default() }
    }

    /// Takes a try of an address.
    ///
    /// # Errors
    /// How long until there is one.
    pub fn take(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let mut state = self.state.lock();
        let whole = Allowance { whole_at: now };
        let State { all, by_address } = &mut *state;
        let all = all.get_or_insert(whole);
        let own = by_address.get(&address).copied().unwrap_or(whole);
        let wait = own.wait(self.limits.address, now).max(all.wait(self.limits.all, now));
        if wait > Duration::ZERO {
            return Err(wait);
        }
        if by_address.len() >= self.limits.addresses() {
            by_address.retain(|_, allowance| allowance.whole_at > now);
        }
        all.take(self.limits.all, now);
        by_address.entry(address).or_insert(whole).take(self.limits.address, now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> IpAddr {
        IpAddr::from((0x0a00_0000 + n).to_be_bytes())
    }

    #[test]
    fn an_address_has_ten_tries_a_minute_and_gets_one_every_six_seconds() {
        let (tries, start) = (Tries::of_codes(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert!((0..10).all(|_| tries.take(address(1), at(0)).is_ok()));
        assert_eq!(tries.take(address(1), at(0)), Err(Duration::from_secs(6)));
        assert!(tries.take(address(2), at(0)).is_ok(), "another has its own");
        assert!(tries.take(address(1), at(5_999)).is_err() && tries.take(address(1), at(6_000)).is_ok());
        assert!(tries.take(address(1), at(6_000)).is_err());
        assert!((0..10).all(|_| tries.take(address(1), at(100_000)).is_ok()), "whole again, and no more than whole");
        assert!(tries.take(address(1), at(100_000)).is_err());
    }

    #[test]
    fn all_have_a_hundred_and_those_who_are_refused_take_none() {
        let (tries, now) = (Tries::of_codes(), Instant::now());
        assert!((0..10).all(|_| tries.take(address(0), now).is_ok()));
        (0..50).for_each(|_| assert!(tries.take(address(0), now).is_err()));
        assert!((1..=90).all(|n| tries.take(address(n), now).is_ok()));
        assert!(tries.take(address(91), now).is_err());
        assert!(tries.take(address(91), now + Duration::from_millis(600)).is_ok());
    }

    #[test]
    fn the_table_is_bounded() {
        let (tries, start) = (Tries::of_codes(), Instant::now());
        for n in 0..100_000 {
            let _ = tries.take(address(n), start + Duration::from_millis(u64::from(n) * 100));
        }
        let state = tries.state.lock();
        assert!(
            state.by_address.len() <= tries.limits.addresses() + 1 && state.by_address.len() > 10,
            "{}",
            state.by_address.len()
        );
    }
}
