//! The books for programs: the objects that commands print with `--json` and that the admin API answers with.
//!
//! Amounts are micro-units and times milliseconds since 1970; 0 in `expires_at` and `revoked_at` is never.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::account::{Account, Entry};
use crate::error::LedgerError;
use crate::invitation::Invitation;
use crate::key::{Key, Secret};
use crate::ledger::Ledger;
use crate::left::Left;

fn account_row(account: &Account) -> Value {
    let mut row = json!(account);
    row["balance"] = json!(account.balance());
    row
}

fn key_row(key: &Key, account: &str, now: i64) -> Value {
    let mut row = json!(key);
    row["account_name"] = account.into();
    row["state"] = key.state(now).into();
    row
}

fn invitation_row(invitation: &Invitation, now: i64) -> Value {
    let mut row = json!(invitation);
    row["state"] = invitation.state(now).into();
    row
}

/// An object with a secret in it, for the one it was made for.
pub fn with_secret(mut object: Value, secret: &Secret) -> Value {
    object["secret"] = secret.reveal().into();
    object
}

impl Ledger {
    /// `{"currency", "account"}`.
    pub fn account_object(&self, account: &Account) -> Value {
        json!({"currency": self.currency(), "account": account_row(account)})
    }

    /// `{"currency", "account", "keys"}`, of an account and its keys.
    pub fn account_with_keys(&self, account: &Account, keys: &[Key]) -> Value {
        let mut object = self.account_object(account);
        object["keys"] = keys.iter().map(|key| key_row(key, &account.name, self.now())).collect();
        object
    }

    /// `{"currency", "account", "entries"}`, of an account and its entries.
    pub fn account_with_entries(&self, account: &Account, entries: &[Entry]) -> Value {
        let mut object = self.account_object(account);
        object["entries"] = json!(entries);
        object
    }

    /// `{"currency", "accounts"}`.
    pub fn accounts_object(&self, accounts: &[Account]) -> Value {
        let rows: Vec<Value> = accounts.iter().map(account_row).collect();
        json!({"currency": self.currency(), "accounts": rows})
    }

    /// `{"currency", "key", "account"}`, of a key and the account that pays.
    pub fn key_object(&self, key: &Key, account: &Account) -> Value {
        let row = key_row(key, &account.name, self.now());
        json!({"currency": self.currency(), "key": row, "account": account_row(account)})
    }

    /// `{"currency", "key", "account", "left"}`, of a key, the account that pays, and what is left of the key's limits.
    pub fn key_with_left(&self, key: &Key, account: &Account, left: &Left) -> Value {
        let mut object = self.key_object(key, account);
        object["left"] = json!(left);
        object
    }

    /// `{"currency", "keys"}`; `names` are those of accounts by their ids.
    pub fn keys_object(&self, keys: &[Key], names: &HashMap<String, String>) -> Value {
        let name = |key: &Key| names.get(&key.account).unwrap_or(&key.account).clone();
        let rows: Vec<Value> = keys.iter().map(|key| key_row(key, &name(key), self.now())).collect();
        json!({"currency": self.currency(), "keys": rows})
    }

    /// `{"currency", "invitation"}`.
    pub fn invitation_object(&self, invitation: &Invitation) -> Value {
        json!({"currency": self.currency(), "invitation": invitation_row(invitation, self.now())})
    }

    /// `{"currency", "invitations"}`.
    pub fn invitations_object(&self, invitations: &[Invitation]) -> Value {
        let rows: Vec<Value> = invitations.iter().map(|one| invitation_row(one, self.now())).collect();
        json!({"currency": self.currency(), "invitations": rows})
    }

    /// Names of accounts by their ids.
    ///
    /// # Errors
    /// The books cannot be read.
    pub async fn account_names(&self) -> Result<HashMap<String, String>, LedgerError> {
        Ok(self.accounts().await?.into_iter().map(|account| (account.id, account.name)).collect())
    }

    /// Keys of an account, by its id, oldest first.
    ///
    /// # Errors
    /// The books cannot be read.
    pub async fn keys_of(&self, account: &str) -> Result<Vec<Key>, LedgerError> {
        let mut keys = self.keys().await?;
        keys.retain(|key| key.account == account);
        Ok(keys)
    }
}
