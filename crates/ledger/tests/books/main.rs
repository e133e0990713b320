//! The ledger over both databases: keys and accounts, requests and what they are charged, kills, failures, and the books as a whole.

mod audit;
mod failures;
mod fixture;
mod keys;
mod random;
mod requests;
mod servers;
