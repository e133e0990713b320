//! `farthing invitations`: codes that people turn into an account and a key

use ::ledger::{Column, Invitation, Ledger, Limits, Money, NewInvitation};
use clap::{Args, Subcommand};

use super::limits::{Limit, LimitArguments, expires_at, validity, words};
use super::table::{facts, table};
use super::{CurrencyArgument, LedgerArguments, amount, keys, name, time_or_never};
use crate::{Failure, Outcome};

/// Create invitations: codes that people turn into an account with a key
///
/// Each use of a code creates one account with its own key. INVITATION is the id of one, or its name where no other has it.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  farthing invitations create class --uses 30 --grant 5 --expires 7d --requests-per-minute 20
  farthing invitations list
  farthing invitations redeem inv-CODE anna               the secret of anna's key is printed once
  farthing invitations revoke class                       keys that were made with it stay")]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    pub ledger: LedgerArguments,
}

#[derive(Subcommand)]
enum What {
    Create(Box<Create>),
    /// List all invitations: state, uses, grant
    List,
    Redeem(Redeem),
    /// Revoke an invitation; keys that were made with it stay
    Revoke(One),
}

#[derive(Args)]
struct One {
    /// Id or name
    invitation: String,
}

/// Create an invitation
///
/// The code is printed alone on stdout. It cannot be shown again.
#[derive(Args)]
#[command(allow_negative_numbers = true)]
struct Create {
    /// Name of the invitation, for people
    #[arg(value_parser = name)]
    name: String,
    /// How often it can be used
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    uses: u64,
    /// Money that each account is granted [default: none: accounts are only metered]
    #[arg(long, value_name = "AMOUNT", value_parser = amount)]
    grant: Option<Money>,
    /// How long the code is valid, such as 7d; keys that are made with it stay valid [default: until it is revoked]
    #[arg(long, value_name = "DURATION", value_parser = validity)]
    expires: Option<Limit<u64>>,
    #[command(flatten)]
    limits: LimitArguments,
    #[command(flatten)]
    currency: CurrencyArgument,
}

/// Turn a code into an account and a key
///
/// The secret of the key is printed alone on stdout. It cannot be shown again.
#[derive(Args)]
struct Redeem {
    /// The code
    code: String,
    /// Name of the account and the key; with letters added where an account has it already
    #[arg(value_parser = name)]
    name: String,
}

pub fn run(a: Arguments) -> Outcome {
    let arguments = &a.ledger;
    match &a.what {
        What::Create(new) => {
            let limits = new.limits.over(Limits::default())?;
            arguments.open_or_create(&new.currency, async |ledger: &Ledger| {
                let invitation = NewInvitation {
                    name: new.name.clone(),
                    expires_at: expires_at(new.expires, ledger.now()).unwrap_or(0),
                    uses: new.uses,
                    granted: new.grant.unwrap_or(Money::ZERO),
                    limits,
                };
                create(ledger, &invitation, arguments).await
            })
        }
        What::List => arguments.open(async |ledger: &Ledger| list(ledger, arguments).await),
        What::Redeem(redeem) => arguments.open(async |ledger: &Ledger| {
            let redeemed = ledger.redeem(&redeem.code, &redeem.name).await?;
            let refused = || {
                Failure::failed(
                    "the code is not accepted: it is unknown, used up, revoked or expired; `farthing invitations list` shows which",
                )
            };
            let (account, key, secret) = redeemed.ok_or_else(refused)?;
            keys::print_key(ledger, arguments, &key, &account, &secret)
        }),
        What::Revoke(one) => arguments.open(async |ledger: &Ledger| {
            let invitation = ledger.revoke_invitation(&one.invitation).await?;
            let said = format!("revoked invitation {} ({})", invitation.name, invitation.id);
            arguments.report(&ledger.invitation_object(&invitation), &said)
        }),
    }
}

async fn create(ledger: &Ledger, new: &NewInvitation, arguments: &LedgerArguments) -> Outcome {
    let (invitation, code) = ledger.create_invitation(new).await?;
    let mut lines = vec![
        ("invitation", format!("{} ({})", invitation.name, invitation.id)),
        ("uses", invitation.uses.to_string()),
        ("grant", format!("{} {}", invitation.granted, ledger.currency())),
        ("expires", time_or_never(invitation.expires_at)),
    ];
    lines.extend(words(&invitation.limits, None, ledger.currency()));
    arguments.note(facts(&lines).trim_end());
    arguments.note("the code, which is not shown again:");
    let recover = format!("`farthing invitations revoke {}` withdraws it; create another", invitation.id);
    arguments.print_secret(ledger.invitation_object(&invitation), &code, &recover)
}

async fn list(ledger: &Ledger, arguments: &LedgerArguments) -> Outcome {
    let invitations = ledger.invitations().await?;
    if invitations.is_empty() {
        arguments.note("there are no invitations; `farthing invitations create NAME --uses 1` creates one");
    }
    arguments.print(&ledger.invitations_object(&invitations), || lines(ledger, &invitations))
}

/// A table of invitations; nothing if there are none.
fn lines(ledger: &Ledger, invitations: &[Invitation]) -> String {
    if invitations.is_empty() {
        return String::new();
    }
    let columns = [
        Column::text("name"),
        Column::text("id"),
        Column::text("code"),
        Column::text("state"),
        Column::text("expires"),
        Column::number("used"),
        Column::number("of"),
        Column::number(&format!("grant {}", ledger.currency())),
    ];
    let row = |invitation: &Invitation| {
        vec![
            invitation.name.clone(),
            invitation.id.clone(),
            format!("...{}", invitation.hint),
            invitation.state(ledger.now()).to_string(),
            time_or_never(invitation.expires_at),
            invitation.used.to_string(),
            invitation.uses.to_string(),
            invitation.granted.to_string(),
        ]
    };
    table(&columns, &invitations.iter().map(row).collect::<Vec<_>>())
}
