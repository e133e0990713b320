//! `farthing keys`, `accounts`, `invitations`, `usage` and `ledger`: what they share, the ledger's address and what is said to whom

pub mod accounts;
pub mod books;
pub mod invitations;
pub mod keys;
mod limits;
mod table;
pub mod usage;

use ::ledger::{Clock, Ledger, LedgerError, Money, Secret, json};
use chrono::DateTime;
use clap::Args;
use serde_json::Value;

use crate::terminal::put;
use crate::{Failure, Outcome, terminal};

/// The ledger's file in the user's state directory.
const FILE: &str = "ledger.db";
/// Currency of a new ledger.
const CURRENCY: &str = "USD";
/// Letters of a currency's code at most.
const CURRENCY_LETTERS_MAX: usize = 8;
/// Characters of a name at most.
const NAME_CHARACTERS_MAX: usize = 100;
/// Milliseconds of a duration's units.
const UNITS: [(char, u64); 4] = [('s', 1000), ('m', 60_000), ('h', 3_600_000), ('d', 86_400_000)];
/// Longest duration, a hundred years.
const DURATION_MAX_MS: u64 = 36_500 * 86_400_000;

/// Where the ledger is, and the form of what is printed.
#[derive(Args, Clone, Debug)]
pub struct LedgerArguments {
    /// The ledger: a file, or postgres://USER@HOST/DATABASE [default: farthing/ledger.db in the user's state directory]
    #[arg(long, global = true, value_name = "ADDRESS", env = "FARTHING_LEDGER", hide_env_values = true)]
    ledger: Option<String>,
    /// A JSON object
    #[arg(long, global = true)]
    pub json: bool,
    /// No notes
    #[arg(long, short, global = true)]
    quiet: bool,
}

/// Currency of a ledger that the command creates.
#[derive(Args, Clone, Debug)]
pub struct CurrencyArgument {
    /// Currency of a new ledger, by its code [default: USD]
    #[arg(long, value_name = "CODE", value_parser = currency)]
    currency: Option<String>,
}

impl LedgerArguments {
    /// Runs `work` with a ledger that exists.
    fn open(&self, work: impl AsyncFnOnce(&Ledger) -> Outcome) -> Outcome {
        run(Ledger::open_existing(&self.address()?, CURRENCY, Clock::default()), work)
    }

    /// Runs `work` with a ledger, which is created if it does not exist.
    fn open_or_create(&self, currency: &CurrencyArgument, work: impl AsyncFnOnce(&Ledger) -> Outcome) -> Outcome {
        let address = self.address()?;
        let created = Ledger::absent(&address).map_err(unopened)?;
        let code = currency.currency.as_deref().unwrap_or(CURRENCY);
        run(Ledger::open(&address, code, Clock::default()), async |ledger: &Ledger| {
            if currency.currency.is_some() && ledger.currency() != code {
                return Err(Failure::usage(format!(
                    "--currency {code}: this ledger is in {}, and a ledger has one currency; leave it out",
                    ledger.currency()
                )));
            }
            if let Some(file) = created.filter(|_| !self.quiet) {
                terminal::note(&format!("new ledger: {} ({})", file.display(), ledger.currency()));
            }
            work(ledger).await
        })
    }

    /// The address that was given, or the default one.
    fn address(&self) -> Result<String, Failure> {
        if let Some(address) = &self.ledger {
            return Ok(address.clone());
        }
        default_address()
            .ok_or_else(|| Failure::usage("there is no home directory to keep the ledger in; give --ledger FILE"))
    }

    /// A line on stderr for people.
    fn note(&self, text: &str) {
        if !self.quiet && !self.json {
            terminal::note(text);
        }
    }

    /// Data on stdout: an object, or text.
    fn print(&self, object: &Value, text: impl FnOnce() -> String) -> Outcome {
        put(&if self.json { format!("{object}\n") } else { text() })
    }

    /// Reports a change: an object on stdout, or a note.
    fn report(&self, object: &Value, text: &str) -> Outcome {
        if self.json {
            return put(&format!("{object}\n"));
        }
        self.note(text);
        Ok(())
    }

    /// Prints a secret, the only time: alone on its line, or as `secret` of the object. `recover` says what to do if it cannot be written.
    fn print_secret(&self, object: Value, secret: &Secret, recover: &str) -> Outcome {
        let object = json::with_secret(object, secret);
        let text = if self.json { format!("{object}\n") } else { format!("{}\n", secret.reveal()) };
        put(&text).map_err(|_| Failure::failed(format!("the secret could not be written and is lost: {recover}")))
    }
}

/// The ledger in the user's state directory, whether it exists or not.
pub fn default_address() -> Option<String> {
    farthing::xdg("XDG_STATE_HOME", ".local/state")?.join(FILE).to_str().map(str::to_string)
}

/// Opens a ledger, runs `work` and closes it.
fn run(open: impl Future<Output = Result<Ledger, LedgerError>>, work: impl AsyncFnOnce(&Ledger) -> Outcome) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let ledger = open.await.map_err(unopened)?;
        let outcome = work(&ledger).await;
        ledger.close().await;
        outcome
    })
}

/// An address that cannot be opened.
fn unopened(error: LedgerError) -> Failure {
    match error {
        LedgerError::Address(_) => Failure::usage(format!("--ledger {error}")),
        error => Failure::failed(format!("{error}; --ledger names another ledger")),
    }
}

/// An error of the ledger, with the next step.
pub fn failure(error: &LedgerError) -> Failure {
    match error {
        LedgerError::Unknown { kind, .. } => {
            Failure::failed(format!("{error}; `farthing {kind}s list` lists all, with their ids"))
        }
        _ => Failure::failed(error.to_string()),
    }
}

fn currency(code: &str) -> Result<String, String> {
    let valid = (1..=CURRENCY_LETTERS_MAX).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_uppercase());
    valid.then(|| code.to_string()).ok_or_else(|| "give its code, such as USD, EUR or CNY".to_string())
}

/// A name for people.
fn name(text: &str) -> Result<String, String> {
    let valid =
        !text.trim().is_empty() && text.chars().count() <= NAME_CHARACTERS_MAX && !text.chars().any(char::is_control);
    valid.then(|| text.to_string()).ok_or_else(|| format!("give 1 to {NAME_CHARACTERS_MAX} printable characters"))
}

/// An amount that is added to a balance.
fn amount(text: &str) -> Result<Money, String> {
    text.parse::<Money>().and_then(|amount| {
        if amount > Money::ZERO { Ok(amount) } else { Err("give more than 0, such as 2.50".to_string()) }
    })
}

/// Milliseconds of a duration such as `30d`.
fn duration(text: &str) -> Result<u64, String> {
    const WANTED: &str = "give a number with s, m, h or d, such as 30d";
    let unit = UNITS.iter().find_map(|(unit, ms)| Some((text.strip_suffix(*unit)?, ms)));
    let (digits, ms) = unit.filter(|(digits, _)| digits.bytes().all(|b| b.is_ascii_digit())).ok_or(WANTED)?;
    if digits.is_empty() {
        return Err(WANTED.to_string());
    }
    let product = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(*ms));
    product.filter(|ms| *ms <= DURATION_MAX_MS).ok_or_else(|| "give at most 36500d".to_string())
}

/// A time for people, to the minute.
fn time(ms: i64) -> String {
    let time = DateTime::from_timestamp_millis(ms);
    time.map_or_else(|| ms.to_string(), |time| time.format("%Y-%m-%d %H:%M UTC").to_string())
}

/// A time for people, of which 0 is never.
fn time_or_never(ms: i64) -> String {
    if ms == 0 { "never".to_string() } else { time(ms) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        for (text, ms) in [("30d", 2_592_000_000), ("1h", 3_600_000), ("90s", 90_000), ("5m", 300_000), ("0s", 0)] {
            assert_eq!(duration(text), Ok(ms), "{text}");
        }
        for wrong in ["", "d", "30", "1.5h", "-1d", "+1d", " 1d", "1w", "36501d", "99999999999999999999d", "1\u{434}"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_are_in_utc() {
        assert_eq!(
            (time(1_795_953_600_000), time_or_never(0)),
            ("2026-11-29 12:00 UTC".to_string(), "never".to_string())
        );
    }
}
