//! `/admin/keys`: keys are made, shown, limited, given a new secret, revoked.

use ledger::{EntryKind, Limits, Money, NewKey, json};

use super::{AdminRequest, Answer, GRACE_MS_MAX, amount, end, expires_at, object, of_ledger, patch, required};
use crate::api::fields::wrong;
use crate::error::ApiError;

pub(super) async fn list(request: AdminRequest) -> Result<Answer, ApiError> {
    request.query.end()?;
    let ledger = request.ledger();
    let names = ledger.account_names().await.map_err(of_ledger)?;
    object(ledger.keys_object(&ledger.keys().await.map_err(of_ledger)?, &names))
}

pub(super) async fn show(request: AdminRequest) -> Result<Answer, ApiError> {
    request.query.end()?;
    let ledger = request.ledger();
    let key = ledger.key(&request.name).await.map_err(of_ledger)?;
    let account = ledger.account(&key.account).await.map_err(of_ledger)?;
    let left = ledger.left(&key.id).await.map_err(of_ledger)?;
    object(ledger.key_with_left(&key, &account, &left))
}

pub(super) async fn create(mut request: AdminRequest) -> Result<Answer, ApiError> {
    let fields = &mut request.fields;
    let name = required(fields, "name", "the name of the key")?;
    let account = fields.text("account")?;
    let (own_account, account) = (account.is_none(), account.unwrap_or_else(|| name.clone()));
    let admin = fields.flag("admin")?.unwrap_or(false);
    let expires_at = expires_at(fields)?.unwrap_or(0);
    let given = patch(fields)?;
    if let Some(given) = given.as_ref().filter(|given| admin && !given.is_empty()) {
        let given = given.clone().into();
        return Err(wrong("limits", &given, "absent for an administrator's key, which uses no model"));
    }
    let credits: Vec<(EntryKind, Money)> =
        [(EntryKind::TopUp, amount(fields, "top_up")?), (EntryKind::Grant, amount(fields, "grant")?)]
            .into_iter()
            .filter_map(|(kind, amount)| Some((kind, amount?)))
            .collect();
    end(fields)?;
    request.query.end()?;
    let limits = Limits::default().patched(given.unwrap_or_default()).map_err(of_ledger)?;
    let new = NewKey { name, account, own_account, admin, expires_at, limits };
    let made = request.ledger().create_key_and_account(&new, &credits).await.map_err(of_ledger)?;
    if made.account_is_new {
        request.log("account created", &made.account.id);
    }
    request.log(if admin { "administrator's key created" } else { "key created" }, &made.key.id);
    for (kind, amount) in credits {
        request.log(&format!("{amount} credited ({})", kind.word()), &made.account.id);
    }
    let made_object = request.ledger().key_object(&made.key, &made.account);
    object(json::with_secret(made_object, &made.secret))
}

pub(super) async fn limit(mut request: AdminRequest) -> Result<Answer, ApiError> {
    let fields = &mut request.fields;
    let (given, expires_at) = (patch(fields)?, expires_at(fields)?);
    end(fields)?;
    request.query.end()?;
    if given.is_none() && expires_at.is_none() {
        return Err(
            ApiError::bad("invalid_value", "nothing is given to change; give limits or expires_at").of("limits")
        );
    }
    let ledger = request.ledger();
    let change = |old: Limits| old.patched(given.unwrap_or_default());
    let key = ledger.limit_key(&request.name, change, expires_at).await.map_err(of_ledger)?;
    request.log("limits of a key changed", &key.id);
    let account = ledger.account(&key.account).await.map_err(of_ledger)?;
    object(ledger.key_object(&key, &account))
}

pub(super) async fn rotate(mut request: AdminRequest) -> Result<Answer, ApiError> {
    let grace_ms = request.fields.count("grace_ms", 0, GRACE_MS_MAX)?.unwrap_or(0);
    end(&request.fields)?;
    request.query.end()?;
    let ledger = request.ledger();
    // Nothing may fail between the new secret and its answer.
    let key = ledger.key(&request.name).await.map_err(of_ledger)?;
    let account = ledger.account(&key.account).await.map_err(of_ledger)?;
    let (key, secret) = ledger.rotate_key(&key.id, grace_ms).await.map_err(of_ledger)?;
    request.log("key given a new secret", &key.id);
    object(json::with_secret(ledger.key_object(&key, &account), &secret))
}

pub(super) async fn revoke(request: AdminRequest) -> Result<Answer, ApiError> {
    end(&request.fields)?;
    request.query.end()?;
    let ledger = request.ledger();
    let key = ledger.revoke_key(&request.name).await.map_err(of_ledger)?;
    request.log("key revoked", &key.id);
    let account = ledger.account(&key.account).await.map_err(of_ledger)?;
    object(ledger.key_object(&key, &account))
}
