//! API keys: secrets that are shown once, and what each may do.

use std::fmt;

use rand::distr::{Alphanumeric, SampleString};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};
use subtle::ConstantTimeEq;

use crate::account::{self, Account, EntryKind, fresh_id};
use crate::database::{count, stored};
use crate::error::{LedgerError, Refusal};
use crate::ledger::Ledger;
use crate::money::{AMOUNT_MAX, Money};

/// Random characters of a secret: 238 bits.
const SECRET_CHARACTERS: usize = 40;
/// What secrets of keys begin with.
const KEY_PREFIX: &str = "sk-ft-";
/// Characters of a name at most.
pub(crate) const NAME_CHARACTERS_MAX: usize = 100;
/// Models or endpoints of a key at most, and bytes of the name of one.
const SCOPES_MAX: usize = 100;
const SCOPE_BYTES_MAX: usize = 500;

/// A secret, which is shown once and kept as a hash.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A new secret of a key.
    pub(crate) fn fresh(prefix: &str) -> Secret {
        Secret(format!("{prefix}{}", Alphanumeric.sample_string(&mut rand::rng(), SECRET_CHARACTERS)))
    }

    /// The secret itself, for the one it is made for.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What tells secrets apart in a list: the last four characters.
    pub(crate) fn hint(&self) -> String {
        self.0[self.0.len() - 4..].to_string()
    }
}

/// Never the secret, wherever it is printed by mistake.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(...)")
    }
}

/// The hash that stands for a secret. Secrets have 238 random bits, so one round of SHA-256 is enough.
pub(crate) fn hash(secret: &[u8]) -> String {
    let digest = Sha256::new().chain_update("farthing ledger\0").chain_update(secret).finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Budgets of tokens or money; `None` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budget<T> {
    /// In a day of UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day: Option<T>,
    /// In a month of UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub month: Option<T>,
    /// In all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<T>,
}

impl<T> Default for Budget<T> {
    fn default() -> Budget<T> {
        Budget { day: None, month: None, total: None }
    }
}

/// What a key may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Models that it is for; none: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// Paths of the API that it is for, such as `/v1/chat/completions`; none: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
    /// Requests a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,
    /// Tokens a minute, of prompts and answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,
    /// Requests in flight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u64>,
    /// Budgets of tokens.
    pub tokens: Budget<u64>,
    /// Budgets of money.
    pub money: Budget<Money>,
}

impl Limits {
    /// Refuses a model or a path of the API that the key is not for.
    ///
    /// # Errors
    /// The key is for others.
    pub fn check_scopes(&self, model: &str, endpoint: &str) -> Result<(), Refusal> {
        let other = |allowed: &[String], asked: &str| !allowed.is_empty() && !allowed.iter().any(|one| one == asked);
        if other(&self.models, model) {
            return Err(Refusal::Model { model: model.to_string(), allowed: self.models.join(", ") });
        }
        if other(&self.endpoints, endpoint) {
            return Err(Refusal::Endpoint { endpoint: endpoint.to_string(), allowed: self.endpoints.join(", ") });
        }
        Ok(())
    }

    /// These limits with those changed that `patch` names, as JSON Merge Patch has it (RFC 7396): null removes one.
    ///
    /// # Errors
    /// What in it is no limit.
    pub fn patched(&self, patch: Map<String, Value>) -> Result<Limits, LedgerError> {
        let mut limits = json!(self);
        merge(&mut limits, Value::Object(patch));
        serde_json::from_value(limits).map_err(|e| LedgerError::Invalid(format!("limits: {e}")))
    }

    /// What the database keeps.
    pub(crate) fn json(&self) -> Result<String, LedgerError> {
        if self.models.len().max(self.endpoints.len()) > SCOPES_MAX {
            return Err(LedgerError::Invalid(format!("a key is for at most {SCOPES_MAX} models and endpoints")));
        }
        let scopes = || self.models.iter().chain(&self.endpoints);
        if let Some(wrong) = scopes().find(|scope| !(1..=SCOPE_BYTES_MAX).contains(&scope.len())) {
            return Err(LedgerError::Invalid(format!(
                "a model or an endpoint of {} bytes; give 1 to {SCOPE_BYTES_MAX}",
                wrong.len()
            )));
        }
        let Budget { day, month, total } = self.money;
        if let Some(wrong) =
            [day, month, total].into_iter().flatten().find(|money| !(Money::ZERO..=AMOUNT_MAX).contains(money))
        {
            return Err(LedgerError::Invalid(format!(
                "a budget of {wrong}; give more than 0 and at most {AMOUNT_MAX}"
            )));
        }
        let zero =
            |what: &str| Err(LedgerError::Invalid(format!("{what} of 0 would allow nothing; revoke the key instead")));
        match self {
            Limits { requests_per_minute: Some(0), .. } => return zero("requests a minute"),
            Limits { tokens_per_minute: Some(0), .. } => return zero("tokens a minute"),
            Limits { concurrency: Some(0), .. } => return zero("a concurrency"),
            Limits { tokens, .. } if [tokens.day, tokens.month, tokens.total].contains(&Some(0)) => {
                return zero("a budget of tokens");
            }
            _ if [day, month, total].contains(&Some(Money::ZERO)) => return zero("a budget of money"),
            _ => {}
        }
        serde_json::to_string(self).map_err(|e| LedgerError::Invalid(e.to_string()))
    }

    pub(crate) fn parse(json: &str) -> Result<Limits, LedgerError> {
        serde_json::from_str(json).map_err(|e| LedgerError::Unavailable(format!("limits of a key: {e}")))
    }
}

/// Merges a patch into a value (RFC 7396).
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        match (value, target.as_object_mut()) {
            (Value::Null, Some(object)) => drop(object.remove(&key)),
            (value, _) => merge(&mut target[key], value),
        }
    }
}

/// A key without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Key {
    /// Identifies it; no secret.
    pub id: String,
    /// Account that pays.
    pub account: String,
    /// Its name, for people.
    pub name: String,
    /// Last characters of the secret.
    pub hint: String,
    /// Administers the server; such a key uses no model.
    pub admin: bool,
    /// When it was made, in milliseconds since 1970.
    pub created_at: i64,
    /// When it expires; 0 is never.
    pub expires_at: i64,
    /// When it was revoked; 0 is not.
    pub revoked_at: i64,
    /// What it may do.
    pub limits: Limits,
    /// Tokens used in all.
    pub total_tokens: u64,
    /// Money spent in all.
    pub total_cost: Money,
}

impl Key {
    pub(crate) fn read(row: &AnyRow) -> Result<Key, LedgerError> {
        Ok(Key {
            id: row.try_get("id")?,
            account: row.try_get("account")?,
            name: row.try_get("name")?,
            hint: row.try_get("hint")?,
            admin: row.try_get::<i64, _>("admin")? != 0,
            created_at: row.try_get("created_at")?,
            expires_at: row.try_get("expires_at")?,
            revoked_at: row.try_get("revoked_at")?,
            limits: Limits::parse(row.try_get("limits")?)?,
            total_tokens: count(row, "total_tokens")?,
            total_cost: Money(row.try_get("total_cost")?),
        })
    }

    /// Whether it is accepted at a time.
    pub fn valid(&self, now: i64) -> bool {
        self.revoked_at == 0 && (self.expires_at == 0 || now < self.expires_at)
    }

    /// `valid`, `admin`, `revoked` or `expired` at a time.
    pub fn state(&self, now: i64) -> &'static str {
        match self {
            Key { revoked_at: 1.., .. } => "revoked",
            key if !key.valid(now) => "expired",
            Key { admin: true, .. } => "admin",
            _ => "valid",
        }
    }
}

/// A key to be made.
#[derive(Clone, Debug, Default)]
pub struct NewKey {
    /// Its name, for people.
    pub name: String,
    /// The account that pays: its id or its name.
    pub account: String,
    /// Nobody has named the account, which has the key's name: one that is there already may be somebody else's, and is an error.
    pub own_account: bool,
    /// Administers the server.
    pub admin: bool,
    /// When it expires, in milliseconds since 1970; 0 is never.
    pub expires_at: i64,
    /// What it may do.
    pub limits: Limits,
}

/// A key that was made, and the account that pays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewlyMade {
    /// The account, with the money that was added.
    pub account: Account,
    /// It was made with the key.
    pub account_is_new: bool,
    /// The key.
    pub key: Key,
    /// Its secret, which is shown now and never again.
    pub secret: Secret,
}

/// A key that was found by its secret, with what belongs to its account.
#[derive(Clone, PartialEq, Eq)]
pub struct Authenticated {
    /// The key.
    pub key: Key,
    /// Goes into the hashes of the account's cached prompts.
    pub salt: [u8; 32],
}

/// Never the salt.
impl fmt::Debug for Authenticated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticated").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Checks a name from outside.
/// Whoever reads names should tell one from the other, and a name from an id.
pub(crate) fn check_name(name: &str) -> Result<(), LedgerError> {
    let spaces = name.starts_with(' ') || name.ends_with(' ') || name.contains("  ");
    let seen = !name.chars().any(|c| c.is_control() || is_invisible(c) || c.is_whitespace() && c != ' ');
    let id = ["key_", "acc_", "inv_"].iter().any(|start| name.starts_with(start));
    if !name.is_empty() && name.chars().count() <= NAME_CHARACTERS_MAX && !spaces && seen && !id {
        return Ok(());
    }
    Err(LedgerError::Invalid(format!(
        "{name:?} is no name: give 1 to {NAME_CHARACTERS_MAX} visible characters, single spaces between them, and no key_, acc_ or inv_ before them"
    )))
}

/// Characters of Unicode's category Cf, which show nothing or turn the direction of others.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Columns of a key without its secrets.
macro_rules! key_columns {
    () => {
        "id, account, name, hint, admin, created_at, expires_at, revoked_at, limits, total_tokens, total_cost"
    };
}

/// Inserts a key.
pub(crate) async fn insert(
    connection: &mut AnyConnection,
    new: &NewKey,
    account: &str,
    now: i64,
) -> Result<(Key, Secret), LedgerError> {
    check_name(&new.name)?;
    let (secret, id) = (Secret::fresh(KEY_PREFIX), fresh_id("key"));
    sqlx::query(
        "INSERT INTO api_key (id, account, name, hash, hint, old_hash, old_until, admin, created_at, expires_at, revoked_at, limits, requests_whole_at, tokens_whole_at, \
         total_tokens, total_cost) VALUES ($1, $2, $3, $4, $5, '', 0, $6, $7, $8, 0, $9, 0, 0, 0, 0)",
    )
    .bind(&id)
    .bind(account)
    .bind(&new.name)
    .bind(hash(secret.0.as_bytes()))
    .bind(secret.hint())
    .bind(i64::from(new.admin))
    .bind(now)
    .bind(new.expires_at)
    .bind(new.limits.json()?)
    .execute(&mut *connection)
    .await?;
    Ok((by_id(connection, &id).await?, secret))
}

/// Why there is no key or invitation of a name: none ever was, or all were revoked.
pub(crate) async fn absent(
    connection: &mut AnyConnection,
    kind: &'static str,
    name: &str,
) -> Result<LedgerError, LedgerError> {
    let statement = match kind {
        "key" => "SELECT id FROM api_key WHERE name = $1 ORDER BY revoked_at DESC, id LIMIT 1",
        _ => "SELECT id FROM invitation WHERE name = $1 ORDER BY revoked_at DESC, id LIMIT 1",
    };
    let name = name.to_string();
    Ok(match sqlx::query(statement).bind(&name).fetch_optional(connection).await? {
        Some(row) => LedgerError::Revoked { kind, name, id: row.try_get("id")? },
        None => LedgerError::Unknown { kind, name },
    })
}

/// The key of an id, or the only one of a name.
async fn by_id(connection: &mut AnyConnection, name: &str) -> Result<Key, LedgerError> {
    let rows = sqlx::query(concat!(
        "SELECT ",
        key_columns!(),
        " FROM api_key WHERE id = $1 OR name = $1 AND revoked_at = 0 ORDER BY CASE WHEN id = $1 THEN 0 ELSE 1 END, id LIMIT 2"
    ))
    .bind(name)
    .fetch_all(&mut *connection)
    .await?;
    match &rows[..] {
        [one] => Key::read(one),
        // An id is nobody's name.
        [first, ..] if first.try_get::<String, _>("id")? == name => Key::read(first),
        [] => Err(absent(connection, "key", name).await?),
        _ => Err(LedgerError::Invalid(format!(
            "several keys are named {name:?}; give the id of one (`farthing keys list`)"
        ))),
    }
}

impl Ledger {
    /// Makes a key with money on its account, which is made where there is none of this id or name: all of it, or nothing. An account that is made with
    /// money is prepaid from the first moment.
    ///
    /// # Errors
    /// A name, limits or an amount that cannot be, or the books cannot be written.
    pub async fn create_key_and_account(
        &self,
        new: &NewKey,
        credits: &[(EntryKind, Money)],
    ) -> Result<NewlyMade, LedgerError> {
        let now = self.now();
        let mut transaction = self.database.write().await?;
        let (account, account_is_new) = match account::by_name(&mut transaction, &new.account).await {
            Err(LedgerError::Unknown { .. }) => {
                (account::insert(&mut transaction, &new.account, !credits.is_empty(), now).await?, true)
            }
            Ok(found) if new.own_account => {
                let name = found.name;
                return Err(LedgerError::Invalid(format!(
                    "there is an account {name:?} already, which may be somebody else's; name the account that the key is of, or give the key another name"
                )));
            }
            found => (found?, false),
        };
        for (kind, amount) in credits {
            account::add(&mut transaction, &account.id, *kind, *amount, "", now).await?;
        }
        let (key, secret) = insert(&mut transaction, new, &account.id, now).await?;
        let account = account::by_name(&mut transaction, &account.id).await?;
        transaction.commit().await?;
        Ok(NewlyMade { account, account_is_new, key, secret })
    }

    /// Makes a key. The secret is shown now and never again.
    ///
    /// # Errors
    /// No such account, a name or limits that cannot be, or the books cannot be written.
    pub async fn create_key(&self, new: &NewKey) -> Result<(Key, Secret), LedgerError> {
        let mut transaction = self.database.write().await?;
        let account = account::by_name(&mut transaction, &new.account).await?;
        let made = insert(&mut transaction, new, &account.id, self.now()).await?;
        transaction.commit().await?;
        Ok(made)
    }

    /// All keys, oldest first.
    ///
    /// # Errors
    /// The books cannot be read.
    pub async fn keys(&self) -> Result<Vec<Key>, LedgerError> {
        let mut connection = self.database.pool.acquire().await?;
        let rows = sqlx::query(concat!("SELECT ", key_columns!(), " FROM api_key ORDER BY created_at, id"));
        rows.fetch_all(&mut *connection).await?.iter().map(Key::read).collect()
    }

    /// The key of an id or name.
    ///
    /// # Errors
    /// There is none, several have the name, or the books cannot be read.
    pub async fn key(&self, name: &str) -> Result<Key, LedgerError> {
        let mut connection = self.database.pool.acquire().await?;
        by_id(&mut connection, name).await
    }

    /// Changes a key's limits, in one transaction with what `change` is given, and its time of expiry where there is one.
    ///
    /// # Errors
    /// There is none, several have the name, the limits cannot be, or the books cannot be written.
    pub async fn limit_key(
        &self,
        name: &str,
        change: impl FnOnce(Limits) -> Result<Limits, LedgerError>,
        expires_at: Option<i64>,
    ) -> Result<Key, LedgerError> {
        let mut transaction = self.database.write().await?;
        let key = by_id(&mut transaction, name).await?;
        let (limits, expires_at) = (change(key.limits)?, expires_at.unwrap_or(key.expires_at));
        sqlx::query("UPDATE api_key SET limits = $2, expires_at = $3 WHERE id = $1")
            .bind(&key.id)
            .bind(limits.json()?)
            .bind(expires_at)
            .execute(&mut *transaction)
            .await?;
        let key = by_id(&mut transaction, &key.id).await?;
        transaction.commit().await?;
        Ok(key)
    }

    /// Gives a key a new secret; the old one is accepted for `grace_ms` more.
    ///
    /// # Errors
    /// There is none, several have the name, it was revoked, or the books cannot be written.
    pub async fn rotate_key(&self, name: &str, grace_ms: u64) -> Result<(Key, Secret), LedgerError> {
        let mut transaction = self.database.write().await?;
        let key = by_id(&mut transaction, name).await?;
        if key.revoked_at != 0 {
            return Err(LedgerError::Invalid(format!("key {} was revoked; make another", key.id)));
        }
        let secret = Secret::fresh(KEY_PREFIX);
        sqlx::query("UPDATE api_key SET old_hash = hash, old_until = $2, hash = $3, hint = $4 WHERE id = $1")
            .bind(&key.id)
            .bind(self.now().saturating_add(stored(grace_ms)))
            .bind(hash(secret.0.as_bytes()))
            .bind(secret.hint())
            .execute(&mut *transaction)
            .await?;
        let key = by_id(&mut transaction, &key.id).await?;
        transaction.commit().await?;
        Ok((key, secret))
    }

    /// Revokes a key: no further request is served with it.
    ///
    /// # Errors
    /// There is none, several have the name, or the books cannot be written.
    pub async fn revoke_key(&self, name: &str) -> Result<Key, LedgerError> {
        let mut transaction = self.database.write().await?;
        let key = by_id(&mut transaction, name).await?;
        sqlx::query(
            "UPDATE api_key SET revoked_at = $2, old_hash = '', old_until = 0 WHERE id = $1 AND revoked_at = 0",
        )
        .bind(&key.id)
        .bind(self.now())
        .execute(&mut *transaction)
        .await?;
        let key = by_id(&mut transaction, &key.id).await?;
        transaction.commit().await?;
        Ok(key)
    }

    /// The key of a secret, if it is accepted now.
    ///
    /// # Errors
    /// The books cannot be read.
    pub async fn authenticate(&self, secret: &[u8]) -> Result<Option<Authenticated>, LedgerError> {
        // What is no key of a ledger costs no query.
        if !secret.starts_with(KEY_PREFIX.as_bytes()) {
            return Ok(None);
        }
        let (hash, now) = (hash(secret), self.now());
        let row = sqlx::query(concat!(
            "SELECT ",
            key_columns!(),
            ", hash, old_hash, (SELECT salt FROM account WHERE account.id = api_key.account) AS salt \
             FROM api_key WHERE hash = $1 OR old_hash = $1 AND old_until > $2"
        ))
        .bind(&hash)
        .bind(now)
        .fetch_optional(&self.database.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        // The index found it by the hash, which tells nothing of other secrets; the last word is a comparison in constant time.
        let equal =
            |column: &str| Ok::<_, sqlx::Error>(row.try_get::<&str, _>(column)?.as_bytes().ct_eq(hash.as_bytes()));
        let found = bool::from(equal("hash")? | equal("old_hash")?);
        let key = Key::read(&row)?;
        let salt = account::salt(row.try_get("salt")?)?;
        Ok((found && key.valid(now)).then_some(Authenticated { key, salt }))
    }

    /// The key of this id, with its account's salt; `None` if it is gone, revoked or expired.
    ///
    /// # Errors
    /// The database.
    pub async fn valid_key(&self, id: &str) -> Result<Option<Authenticated>, LedgerError> {
        let row = sqlx::query(concat!(
            "SELECT ",
            key_columns!(),
            ", (SELECT salt FROM account WHERE account.id = api_key.account) AS salt FROM api_key WHERE id = $1"
        ))
        .bind(id)
        .fetch_optional(&self.database.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let key = Key::read(&row)?;
        if !key.valid(self.clock.now()) {
            return Ok(None);
        }
        Ok(Some(Authenticated { key, salt: crate::account::salt(row.try_get("salt")?)? }))
    }

    /// Whether there is any key, so that requests without one are refused.
    ///
    /// # Errors
    /// The books cannot be read.
    pub async fn has_keys(&self) -> Result<bool, LedgerError> {
        let row = sqlx::query("SELECT COUNT(*) AS keys FROM api_key").fetch_one(&self.database.pool).await?;
        Ok(count(&row, "keys")? > 0)
    }
}
