//! `farthing keys`: API keys in the ledger

use std::collections::HashMap;

use ::ledger::{Account, Column, EntryKind, Key, Ledger, LedgerError, Left, Limits, Money, NewKey, Secret};
use clap::{Args, Subcommand};

use super::limits::{Limit, LimitArguments, expires_at, validity, words};
use super::table::{facts, table};
use super::{CurrencyArgument, LedgerArguments, accounts, amount, duration, name, time, time_or_never};
use crate::{Failure, Outcome};

/// Create API keys, limit, rotate and revoke them
///
/// A key is a secret that is printed once; the ledger keeps its hash. KEY is the id of a key, or its name where no other key has it. Requests of a key
/// are paid by its account.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  farthing keys create laptop                             the secret is printed once
  farthing keys create anna --top-up 10 --money-per-day 1 --expires 90d
  farthing keys create ci --account anna --model qwen --requests-per-minute 60 --quiet > ci.key
  farthing keys limit ci --requests-per-minute none --tokens-per-day 100000
  farthing keys rotate ci --grace 1d                      the old secret is accepted for a day
  farthing keys revoke ci

Durations are a number with s, m, h or d; amounts have at most six decimals. docs/LEDGER.md says how requests are
counted and charged.")]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    pub ledger: LedgerArguments,
}

#[derive(Subcommand)]
enum What {
    Create(Box<Create>),
    /// List all keys: account, state, what they used
    List,
    /// Show a key with its limits and what is left of them
    Show(One),
    Limit(Box<Change>),
    Rotate(Rotate),
    /// Revoke a key: no further request is served with it
    Revoke(One),
}

#[derive(Args)]
struct One {
    /// Id or name
    key: String,
}

/// Create a key, and its account where it does not exist
///
/// The secret is printed alone on stdout. It cannot be shown again.
#[derive(Args)]
#[command(allow_negative_numbers = true)]
struct Create {
    /// Name of the key, for people
    #[arg(value_parser = name)]
    name: String,
    /// Account that pays, by id or name; a new one if it does not exist [default: NAME]
    #[arg(long, value_name = "ACCOUNT", value_parser = name)]
    account: Option<String>,
    /// Administer the server with this key, which uses no model
    #[arg(long, conflicts_with = "LimitArguments")]
    admin: bool,
    /// How long the key is valid, such as 30d [default: until it is revoked]
    #[arg(long, value_name = "DURATION", value_parser = validity)]
    expires: Option<Limit<u64>>,
    #[command(flatten)]
    limits: LimitArguments,
    /// Money that was paid in: the account pays its requests from its balance
    #[arg(long, value_name = "AMOUNT", value_parser = amount)]
    top_up: Option<Money>,
    /// Money that is granted; it is spent first
    #[arg(long, value_name = "AMOUNT", value_parser = amount)]
    grant: Option<Money>,
    #[command(flatten)]
    currency: CurrencyArgument,
}

/// Change limits of a key: those that are given; `none` removes one
#[derive(Args)]
#[command(allow_negative_numbers = true)]
struct Change {
    /// Id or name
    key: String,
    /// How long the key is valid from now on, or none: until it is revoked
    #[arg(long, value_name = "DURATION", value_parser = validity)]
    expires: Option<Limit<u64>>,
    #[command(flatten)]
    limits: LimitArguments,
}

/// Give a key a new secret
#[derive(Args)]
struct Rotate {
    /// Id or name
    key: String,
    /// How long the old secret is still accepted, such as 1d [default: not at all]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    grace: Option<u64>,
}

pub fn run(a: Arguments) -> Outcome {
    let arguments = &a.ledger;
    match &a.what {
        What::Create(new) => {
            let limits = new.limits.over(Limits::default())?;
            arguments
                .open_or_create(&new.currency, async |ledger: &Ledger| create(ledger, new, limits, arguments).await)
        }
        What::List => arguments.open(async |ledger: &Ledger| list(ledger, arguments).await),
        What::Show(one) => arguments.open(async |ledger: &Ledger| {
            let key = ledger.key(&one.key).await?;
            let account = ledger.account(&key.account).await?;
            let left = ledger.left(&key.id).await?;
            let object = ledger.key_with_left(&key, &account, &left);
            arguments.print(&object, || described(ledger, &key, &account, Some(&left)))
        }),
        What::Limit(change) => arguments.open(async |ledger: &Ledger| limit(ledger, change, arguments).await),
        What::Rotate(rotate) => arguments.open(async |ledger: &Ledger| {
            // Nothing may fail between the new secret and its output.
            let key = ledger.key(&rotate.key).await?;
            let account = ledger.account(&key.account).await?;
            let (key, secret) = ledger.rotate_key(&key.id, rotate.grace.unwrap_or(0)).await?;
            print_key(ledger, arguments, &key, &account, &secret)
        }),
        What::Revoke(one) => arguments.open(async |ledger: &Ledger| {
            let key = ledger.revoke_key(&one.key).await?;
            let account = ledger.account(&key.account).await?;
            let said = format!("revoked key {} ({})", key.name, key.id);
            arguments.report(&ledger.key_object(&key, &account), &said)
        }),
    }
}

async fn create(ledger: &Ledger, new: &Create, limits: Limits, arguments: &LedgerArguments) -> Outcome {
    let credits: Vec<(EntryKind, Money)> = [(EntryKind::TopUp, new.top_up), (EntryKind::Grant, new.grant)]
        .into_iter()
        .filter_map(|(kind, amount)| Some((kind, amount?)))
        .collect();
    let key = NewKey {
        name: new.name.clone(),
        account: new.account.as_ref().unwrap_or(&new.name).clone(),
        own_account: new.account.is_none(),
        admin: new.admin,
        expires_at: expires_at(new.expires, ledger.now()).unwrap_or(0),
        limits,
    };
    let made = ledger.create_key_and_account(&key, &credits).await?;
    if made.account_is_new {
        arguments.note(&format!("new account: {} ({})", made.account.name, made.account.id));
    }
    print_key(ledger, arguments, &made.key, &made.account, &made.secret)
}

async fn list(ledger: &Ledger, arguments: &LedgerArguments) -> Outcome {
    let names = ledger.account_names().await?;
    let keys = ledger.keys().await?;
    if keys.is_empty() {
        arguments.note("there are no keys; `farthing keys create NAME` creates one");
    }
    arguments.print(&ledger.keys_object(&keys, &names), || lines(ledger, &keys, &names))
}

/// A table of keys; nothing if there are none.
pub fn lines(ledger: &Ledger, keys: &[Key], accounts: &HashMap<String, String>) -> String {
    if keys.is_empty() {
        return String::new();
    }
    let columns = [
        Column::text("name"),
        Column::text("id"),
        Column::text("account"),
        Column::text("secret"),
        Column::text("state"),
        Column::text("expires"),
        Column::number("tokens"),
        Column::number(&format!("cost {}", ledger.currency())),
    ];
    let row = |key: &Key| {
        vec![
            key.name.clone(),
            key.id.clone(),
            accounts.get(&key.account).unwrap_or(&key.account).clone(),
            format!("...{}", key.hint),
            key.state(ledger.now()).to_string(),
            time_or_never(key.expires_at),
            key.total_tokens.to_string(),
            key.total_cost.to_string(),
        ]
    };
    table(&columns, &keys.iter().map(row).collect::<Vec<_>>())
}

async fn limit(ledger: &Ledger, change: &Change, arguments: &LedgerArguments) -> Outcome {
    if change.limits.is_empty() && change.expires.is_none() {
        return Err(Failure::usage("no limit is given; give one, such as --requests-per-minute 60 or --expires 30d"));
    }
    // What cannot be meant is told before anything is opened for writing.
    change.limits.over(Limits::default())?;
    let over = |old: Limits| change.limits.over(old).map_err(|failure| LedgerError::Invalid(failure.to_string()));
    let key = ledger.limit_key(&change.key, over, expires_at(change.expires, ledger.now())).await?;
    let account = ledger.account(&key.account).await?;
    arguments.report(&ledger.key_object(&key, &account), described(ledger, &key, &account, None).trim_end())
}

/// Prints a key's secret, with notes on the key.
pub fn print_key(
    ledger: &Ledger,
    arguments: &LedgerArguments,
    key: &Key,
    account: &Account,
    secret: &Secret,
) -> Outcome {
    arguments.note(described(ledger, key, account, None).trim_end());
    arguments.note("the secret, which is not shown again:");
    let recover = format!("`farthing keys rotate {}` makes another", key.id);
    arguments.print_secret(ledger.key_object(key, account), secret, &recover)
}

/// A key for people, with what is left of its limits where that is known.
fn described(ledger: &Ledger, key: &Key, account: &Account, left: Option<&Left>) -> String {
    let currency = ledger.currency();
    let revoked = if key.revoked_at > 0 { format!(", {}", time(key.revoked_at)) } else { String::new() };
    let mut lines = vec![
        ("key", format!("{} ({})", key.name, key.id)),
        ("account", format!("{} ({}), {}", account.name, account.id, accounts::balance(account, currency))),
        ("secret", format!("...{}", key.hint)),
        ("state", format!("{}{revoked}", key.state(ledger.now()))),
        ("created", time(key.created_at)),
        ("expires", time_or_never(key.expires_at)),
        ("used", format!("{} tokens, {} {currency}", key.total_tokens, key.total_cost)),
    ];
    lines.extend(words(&key.limits, left, currency));
    facts(&lines)
}
