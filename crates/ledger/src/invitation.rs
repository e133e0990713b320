//! Invitations: a code that a person turns into an account with a grant and a key.

use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use crate::account::{self, Account, EntryKind, fresh_id};
use crate::database::{count, stored};
use crate::error::LedgerError;
use crate::key::{self, Key, Limits, NewKey, Secret, check_name, hash};
use crate::ledger::Ledger;
use crate::money::{AMOUNT_MAX, Money};

/// What codes begin with.
const CODE_PREFIX: &str = "inv-";
/// Uses of a code at most.
const USES_MAX: u64 = 1_000_000;

/// An invitation without its code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Invitation {
    /// Identifies it; no secret.
    pub id: String,
    /// Its name, for people.
    pub name: String,
    /// Last characters of the code.
    pub hint: String,
    /// When it was made, in milliseconds since 1970.
    pub created_at: i64,
    /// When it expires; 0 is never.
    pub expires_at: i64,
    /// When it was revoked; 0 is not.
    pub revoked_at: i64,
    /// How often it can be used.
    pub uses: u64,
    /// How often it was.
    pub used: u64,
    /// What each account is granted.
    pub granted: Money,
    /// What each key may do.
    pub limits: Limits,
}

/// An invitation to be made.
#[derive(Clone, Debug, Default)]
pub struct NewInvitation {
    /// Its name, for people.
    pub name: String,
    /// When it expires, in milliseconds since 1970; 0 is never.
    pub expires_at: i64,
    /// How often it can be used.
    pub uses: u64,
    /// What each account is granted; nothing: accounts are metered only.
    pub granted: Money,
    /// What each key may do.
    pub limits: Limits,
}

impl Invitation {
    fn read(row: &AnyRow) -> Result<Invitation, LedgerError> {
        Ok(Invitation {
            id: row.try_get("id")?,
            name: row.try_get("name")?,
            hint: row.try_get("hint")?,
            created_at: row.try_get("created_at")?,
            expires_at: row.try_get("expires_at")?,
            revoked_at: row.try_get("revoked_at")?,
            uses: count(row, "uses")?,
            used: count(row, "used")?,
            granted: Money(row.try_get("granted")?),
            limits: Limits::parse(row.try_get("limits")?)?,
        })
    }

    /// `valid`, `revoked`, `used up` or `expired` at a time.
    pub fn state(&self, now: i64) -> &'static str {
        match self {
            Invitation { revoked_at: 1.., .. } => "revoked",
            Invitation { uses, used, .. } if used >= uses => "used up",
            Invitation { expires_at: at @ 1.., .. } if *at <= now => "expired",
            _ => "valid",
        }
    }
}

macro_rules! invitation_columns {
    () => {
        "id, name, hint, created_at, expires_at, revoked_at, uses, used, granted, limits"
    };
}

/// The invitation of an id, or the only one of a name.
async fn by_name(connection: &mut AnyConnection, name: &str) -> Result<Invitation, LedgerError> {
    let rows = sqlx::query(concat!(
        "SELECT ",
        invitation_columns!(),
        " FROM invitation WHERE id = $1 OR name = $1 AND revoked_at = 0 ORDER BY id LIMIT 2"
    ))
    .bind(name)
    .fetch_all(&mut *connection)
    .await?;
    match &rows[..] {
        [one] => Invitation::read(one),
        [] => Err(key::absent(connection, "invitation", name).await?),
        _ => Err(LedgerError::Invalid(format!(
            "several invitations are named {name:?}; give the id of one (`farthing invitations list`)"
        ))),
    }
}

impl Ledger {
    /// Makes an invitation. The code is shown now and never again.
    ///
    /// # Errors
    /// A name, a number of uses, a grant or limits that cannot be, or the books cannot be written.
    pub async fn create_invitation(&self, new: &NewInvitation) -> Result<(Invitation, Secret), LedgerError> {
        check_name(&new.name)?;
        if !(1..=USES_MAX).contains(&new.uses) {
            return Err(LedgerError::Invalid(format!("{} uses; an invitation has 1 to {USES_MAX}", new.uses)));
        }
        if new.granted < Money::ZERO || new.granted > AMOUNT_MAX {
            return Err(LedgerError::Invalid(format!("a grant of {}; give 0 to {AMOUNT_MAX}", new.granted)));
        }
        let (code, id) = (Secret::fresh(CODE_PREFIX), fresh_id("inv"));
        let mut transaction = self.database.write().await?;
        sqlx::query(
            "INSERT INTO invitation (id, name, hash, hint, created_at, expires_at, revoked_at, uses, used, granted, limits) \
             VALUES ($1, $2, $3, $4, $5, $6, 0, $7, 0, $8, $9)",
        )
        .bind(&id)
        .bind(&new.name)
        .bind(hash(code.reveal().as_bytes()))
        .bind(code.hint())
        .bind(self.now())
        .bind(new.expires_at)
        .bind(stored(new.uses))
        .bind(new.granted.0)
        .bind(new.limits.json()?)
        .execute(&mut *transaction)
        .await?;
        let made = by_name(&mut transaction, &id).await?;
        transaction.commit().await?;
        Ok((made, code))
    }

    /// All invitations, oldest first.
    ///
    /// # Errors
    /// The books cannot be read.
    pub async fn invitations(&self) -> Result<Vec<Invitation>, LedgerError> {
        let query = sqlx::query(concat!("SELECT ", invitation_columns!(), " FROM invitation ORDER BY created_at, id"));
        query.fetch_all(&self.database.pool).await?.iter().map(Invitation::read).collect()
    }

    /// Revokes an invitation. Keys that were made with it stay.
    ///
    /// # Errors
    /// There is none, several have the name, or the books cannot be written.
    pub async fn revoke_invitation(&self, name: &str) -> Result<Invitation, LedgerError> {
        let mut transaction = self.database.write().await?;
        let found = by_name(&mut transaction, name).await?;
        sqlx::query("UPDATE invitation SET revoked_at = $2 WHERE id = $1 AND revoked_at = 0")
            .bind(&found.id)
            .bind(self.now())
            .execute(&mut *transaction)
            .await?;
        let found = by_name(&mut transaction, &found.id).await?;
        transaction.commit().await?;
        Ok(found)
    }

    /// Whether a code would be accepted now. Nothing is locked for it.
    ///
    /// # Errors
    /// The books cannot be read.
    pub async fn is_code(&self, code: &str) -> Result<bool, LedgerError> {
        let query = sqlx::query(concat!("SELECT ", invitation_columns!(), " FROM invitation WHERE hash = $1"));
        let row = query.bind(hash(code.as_bytes())).fetch_optional(&self.database.pool).await?;
        Ok(row.map(|row| Invitation::read(&row)).transpose()?.is_some_and(|found| found.state(self.now()) == "valid"))
    }

    /// Turns a code into an account with its grant and a key, under this name (and some letters more where it is taken); `None` for a code that is not accepted (unknown, used up, revoked,
    /// expired: which of these is not told).
    ///
    /// # Errors
    /// The name cannot be one, or the books cannot be written.
    pub async fn redeem(&self, code: &str, name: &str) -> Result<Option<(Account, Key, Secret)>, LedgerError> {
        check_name(name)?;
        let now = self.now();
        let mut transaction = self.database.write().await?;
        let row = sqlx::query(concat!(
            "UPDATE invitation SET used = used + 1 WHERE hash = $1 AND revoked_at = 0 AND used < uses AND (expires_at = 0 OR expires_at > $2) RETURNING ",
            invitation_columns!()
        ))
        .bind(hash(code.as_bytes()))
        .bind(now)
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let invitation = Invitation::read(&row)?;
        let name = account::free_name(&mut transaction, name).await?;
        let account = account::insert(&mut transaction, &name, invitation.granted > Money::ZERO, now).await?;
        if invitation.granted > Money::ZERO {
            let note = format!("invitation {}", invitation.id);
            account::credit(&mut transaction, &account.id, EntryKind::Grant, invitation.granted, &note, now).await?;
        }
        let new = NewKey { name, limits: invitation.limits, ..NewKey::default() };
        let (key, secret) = key::insert(&mut transaction, &new, &account.id, now).await?;
        let account = account::by_name(&mut transaction, &account.id).await?;
        transaction.commit().await?;
        Ok(Some((account, key, secret)))
    }
}
