//! The ledger: who may use a server, what they used, and what it cost them.
//!
//! [`Ledger`] is the books as people ask of them and change them: accounts, keys, invitations, usage, balances. [`Meter`] is what a server writes while it
//! serves: every request reserves the most that it may take, notes what it delivers, and is settled at its end. So no budget is overrun by requests that
//! come at once, what was delivered is charged exactly while the process lives, and a process that is killed leaves at most what it had not noted yet.
//! [`PriceSheet`] says what tokens cost; [`cost`] what they cost the owner of a machine, and [`PriceList`] what others asked for them.
//!
//! Books are a file of SQLite's or a PostgreSQL database that several servers share. Money is whole micro-units of one currency; times are milliseconds
//! since 1970, UTC. Nothing here knows HTTP or a model: requests, endpoints and models are names.

#[macro_use]
mod key;
#[macro_use]
mod usage;
mod account;
mod audit;
mod clock;
pub mod cost;
mod database;
mod error;
mod invitation;
pub mod json;
mod ledger;
mod left;
mod meter;
mod money;
mod price_list;
mod price_sheet;
mod report;
mod reservation;

pub use account::{Account, Entry, EntryKind};
pub use clock::{Clock, DAY_MS};
pub use error::{LedgerError, Period, Refusal};
pub use invitation::{Invitation, NewInvitation};
pub use key::{Authenticated, Budget, Key, Limits, NewKey, NewlyMade, Secret};
pub use ledger::Ledger;
pub use left::Left;
pub use meter::{Meter, Metered, Noted};
pub use money::{AMOUNT_MAX, Money, Price, Tokens};
pub use price_list::{ListedPrice, PriceList, day_of};
pub use price_sheet::{PriceSheet, SheetDraft, SheetError};
pub use report::{Column, Days, Report, ReportQuery, csv, date};
pub use reservation::{Allowance, Demand, Rate, Reservation};
pub use usage::{GroupBy, RequestUsage, Sum, UsageFilter};
