//! `farthing accounts`: who pays, and their balances

use std::collections::HashMap;
use std::io::{IsTerminal, Write};

use ::ledger::{Account, Column, Entry, EntryKind, Key, Ledger, Money};
use clap::{Args, Subcommand};

use super::table::{facts, table};
use super::{CurrencyArgument, LedgerArguments, amount, keys, name, time};
use crate::terminal::several;
use crate::{Failure, Outcome};

/// Create accounts, top up, correct and show their balances, delete them
///
/// An account pays the requests of its keys from a balance of granted and topped-up money, or is only metered. ACCOUNT is its id or its name.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  farthing accounts list
  farthing accounts top-up anna 25 --note 'invoice 17'
  farthing accounts grant anna 5 --note welcome           granted money is spent first
  farthing accounts deduct anna 20 --note 'invoice 17 was 5'
  farthing accounts show anna                             its balance and keys
  farthing accounts entries anna                          what was added to its balance and taken back
  farthing accounts delete anna                           its usage stays as numbers that belong to nobody")]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    pub ledger: LedgerArguments,
}

#[derive(Subcommand)]
enum What {
    Create(Create),
    /// List all accounts with their balances
    List,
    /// Show an account with its balance and keys
    Show(One),
    /// Add money that was paid in
    TopUp(Credit),
    /// Add money that is granted; it is spent first
    Grant(Credit),
    Deduct(Deduct),
    Entries(Entries),
    Delete(Delete),
}

#[derive(Args)]
struct One {
    /// Id or name
    account: String,
}

/// Create an account without keys; `farthing keys create` creates one with its first key
#[derive(Args)]
struct Create {
    /// Name of the account, which no other has
    #[arg(value_parser = name)]
    name: String,
    /// Requests are paid from the balance, which is empty at first [default: they are only metered until money is added]
    #[arg(long)]
    prepaid: bool,
    #[command(flatten)]
    currency: CurrencyArgument,
}

#[derive(Args)]
#[command(allow_negative_numbers = true)]
struct Credit {
    /// Id or name
    account: String,
    /// Units of the ledger's currency, with at most six decimals
    #[arg(value_parser = amount)]
    amount: Money,
    /// What it is for, in the ledger's entries
    #[arg(long, value_name = "TEXT", default_value = "")]
    note: String,
}

/// Take back money that was added by mistake
///
/// Topped-up money goes first, then granted money; at most what is neither spent nor reserved by requests in flight. It is an entry of its own: entries are
/// not deleted.
#[derive(Args)]
#[command(allow_negative_numbers = true)]
struct Deduct {
    /// Id or name
    account: String,
    /// Units of the ledger's currency, with at most six decimals
    #[arg(value_parser = amount)]
    amount: Money,
    /// Why, in the ledger's entries
    #[arg(long, value_name = "TEXT")]
    note: String,
}

/// List what was added to a balance and taken back, newest first
#[derive(Args)]
struct Entries {
    /// Id or name
    account: String,
    /// Entries at most
    #[arg(long, value_name = "N", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    most: u32,
}

/// Delete an account with its keys, balance and name
///
/// Its usage stays as numbers that belong to nobody. Its requests in flight are charged as they stand and end.
#[derive(Args)]
struct Delete {
    /// Id or name
    account: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

pub fn run(a: Arguments) -> Outcome {
    let arguments = &a.ledger;
    match &a.what {
        What::Create(new) => arguments.open_or_create(&new.currency, async |ledger: &Ledger| {
            let account = ledger.create_account(&new.name, new.prepaid).await?;
            let said = format!("new account: {} ({})", account.name, account.id);
            arguments.report(&ledger.account_object(&account), &said)
        }),
        What::List => arguments.open(async |ledger: &Ledger| list(ledger, arguments).await),
        What::Show(one) => arguments.open(async |ledger: &Ledger| show(ledger, &one.account, arguments).await),
        What::TopUp(credit) => {
            arguments.open(async |ledger: &Ledger| add(ledger, credit, EntryKind::TopUp, arguments).await)
        }
        What::Grant(credit) => {
            arguments.open(async |ledger: &Ledger| add(ledger, credit, EntryKind::Grant, arguments).await)
        }
        What::Deduct(back) => arguments.open(async |ledger: &Ledger| {
            let account = ledger.deduct(&back.account, back.amount, &back.note).await?;
            changed(ledger, &account, arguments)
        }),
        What::Entries(which) => arguments.open(async |ledger: &Ledger| entries(ledger, which, arguments).await),
        What::Delete(which) => arguments.open(async |ledger: &Ledger| delete(ledger, which, arguments).await),
    }
}

async fn list(ledger: &Ledger, arguments: &LedgerArguments) -> Outcome {
    let (accounts, keys) = (ledger.accounts().await?, ledger.keys().await?);
    if accounts.is_empty() {
        arguments.note("there are no accounts; `farthing keys create NAME` creates one with a key");
    }
    arguments.print(&ledger.accounts_object(&accounts), || lines(ledger, &accounts, &keys))
}

/// A table of accounts; nothing if there are none.
fn lines(ledger: &Ledger, accounts: &[Account], keys: &[Key]) -> String {
    if accounts.is_empty() {
        return String::new();
    }
    let columns = [
        Column::text("name"),
        Column::text("id"),
        Column::number("keys"),
        Column::number(&format!("balance {}", ledger.currency())),
        Column::number("of it granted"),
        Column::number("reserved"),
    ];
    let row = |account: &Account| {
        let keys = keys.iter().filter(|key| key.account == account.id && key.revoked_at == 0).count();
        let money = |amount: Money| if account.prepaid { amount.to_string() } else { "-".to_string() };
        vec![
            account.name.clone(),
            account.id.clone(),
            keys.to_string(),
            money(account.balance()),
            money(account.granted),
            money(account.reserved),
        ]
    };
    table(&columns, &accounts.iter().map(row).collect::<Vec<_>>())
}

async fn show(ledger: &Ledger, account: &str, arguments: &LedgerArguments) -> Outcome {
    let account = ledger.account(account).await?;
    let keys = ledger.keys_of(&account.id).await?;
    arguments.print(&ledger.account_with_keys(&account, &keys), || {
        let money = |amount: Money| format!("{amount} {}", ledger.currency());
        let mut lines = vec![
            ("account", format!("{} ({})", account.name, account.id)),
            ("created", time(account.created_at)),
            (
                "balance",
                if account.prepaid { money(account.balance()) } else { "none, requests are only metered".to_string() },
            ),
        ];
        if account.prepaid {
            lines.push(("left of what was granted", money(account.granted)));
            lines.push(("left of what was topped up", money(account.topped_up)));
            lines.push(("reserved", format!("{} by requests in flight", money(account.reserved))));
        }
        let names = HashMap::from([(account.id.clone(), account.name.clone())]);
        facts(&lines) + &keys::lines(ledger, &keys, &names)
    })
}

async fn add(ledger: &Ledger, credit: &Credit, kind: EntryKind, arguments: &LedgerArguments) -> Outcome {
    let account = ledger.credit(&credit.account, kind, credit.amount, &credit.note).await?;
    changed(ledger, &account, arguments)
}

/// Reports a balance that was changed.
fn changed(ledger: &Ledger, account: &Account, arguments: &LedgerArguments) -> Outcome {
    let said = format!("{} ({}): {}", account.name, account.id, balance(account, ledger.currency()));
    arguments.report(&ledger.account_object(account), &said)
}

async fn entries(ledger: &Ledger, which: &Entries, arguments: &LedgerArguments) -> Outcome {
    let account = ledger.account(&which.account).await?;
    let mut entries = ledger.entries(&account.id, which.most.saturating_add(1)).await?;
    if entries.len() > which.most as usize {
        entries.truncate(which.most as usize);
        arguments.note(&format!("only the newest {} are shown; --most shows more", which.most));
    }
    if entries.is_empty() {
        arguments.note(&format!("no money was added to {} ({})", account.name, account.id));
    }
    arguments.print(&ledger.account_with_entries(&account, &entries), || entry_lines(ledger, &entries))
}

/// A table of entries; nothing if there are none.
fn entry_lines(ledger: &Ledger, entries: &[Entry]) -> String {
    if entries.is_empty() {
        return String::new();
    }
    let columns = [
        Column::text("time"),
        Column::text("kind"),
        Column::number(&format!("amount {}", ledger.currency())),
        Column::text("note"),
    ];
    let row = |entry: &Entry| {
        vec![time(entry.time), entry.kind.replace('_', "-"), entry.amount.to_string(), entry.note.clone()]
    };
    table(&columns, &entries.iter().map(row).collect::<Vec<_>>())
}

async fn delete(ledger: &Ledger, which: &Delete, arguments: &LedgerArguments) -> Outcome {
    let account = ledger.account(&which.account).await?;
    if !which.yes {
        let keys = ledger.keys_of(&account.id).await?.len();
        let what = format!(
            "account {} ({}) with {} and {}",
            account.name,
            account.id,
            several(keys, "key"),
            balance(&account, ledger.currency())
        );
        if arguments.json || !std::io::stdin().is_terminal() {
            return Err(Failure::usage(format!("the {what} would be deleted for good; give --yes")));
        }
        if !agreed(&format!("delete the {what}? [y/N] "))? {
            return Err(Failure::stopped("nothing was deleted"));
        }
    }
    // By its id: what was shown is what is deleted.
    let account = ledger.delete_account(&account.id).await?;
    arguments.report(&ledger.account_object(&account), &format!("deleted account {} ({})", account.name, account.id))
}

/// Asks a person.
fn agreed(question: &str) -> Result<bool, Failure> {
    let mut answer = String::new();
    write!(std::io::stderr(), "{question}")?;
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// A balance in words.
pub fn balance(account: &Account, currency: &str) -> String {
    if account.prepaid { format!("balance {} {currency}", account.balance()) } else { "only metered".to_string() }
}
