//! `/admin/accounts`: accounts are made, shown, credited, corrected, deleted.

use ledger::{EntryKind, Money};
use serde_json::Value;

use super::{AdminRequest, Answer, amount, end, most, object, of_ledger, required};
use crate::api::fields::{Fields, wrong};
use crate::error::ApiError;

pub(super) async fn list(request: AdminRequest) -> Result<Answer, ApiError> {
    request.query.end()?;
    let ledger = request.ledger();
    object(ledger.accounts_object(&ledger.accounts().await.map_err(of_ledger)?))
}

pub(super) async fn show(request: AdminRequest) -> Result<Answer, ApiError> {
    request.query.end()?;
    let ledger = request.ledger();
    let account = ledger.account(&request.name).await.map_err(of_ledger)?;
    let keys = ledger.keys_of(&account.id).await.map_err(of_ledger)?;
    object(ledger.account_with_keys(&account, &keys))
}

pub(super) async fn create(mut request: AdminRequest) -> Result<Answer, ApiError> {
    let name = required(&mut request.fields, "name", "the name of the account, which no other has")?;
    let prepaid = request.fields.flag("prepaid")?.unwrap_or(false);
    end(&request.fields)?;
    request.query.end()?;
    let account = request.ledger().create_account(&name, prepaid).await.map_err(of_ledger)?;
    request.log("account created", &account.id);
    object(request.ledger().account_object(&account))
}

pub(super) async fn credit(mut request: AdminRequest) -> Result<Answer, ApiError> {
    const KINDS: &str = "top_up or grant";
    let fields = &mut request.fields;
    let kind = required(fields, "kind", KINDS)?;
    let kinds = [EntryKind::TopUp, EntryKind::Grant];
    let kind =
        kinds.into_iter().find(|known| known.word() == kind).ok_or_else(|| wrong("kind", &kind.into(), KINDS))?;
    let amount = whole_amount(fields)?;
    let note = fields.text("note")?.unwrap_or_default();
    end(fields)?;
    request.query.end()?;
    let account = request.ledger().credit(&request.name, kind, amount, &note).await.map_err(of_ledger)?;
    request.log(&format!("{amount} credited ({})", kind.word()), &account.id);
    object(request.ledger().account_object(&account))
}

/// An amount that must be there.
fn whole_amount(fields: &mut Fields) -> Result<Money, ApiError> {
    let wanted =
        || wrong("amount", &Value::Null, "a whole number of micro-units, 1000000 for one unit of the currency");
    amount(fields, "amount")?.ok_or_else(wanted)
}

pub(super) async fn deduct(mut request: AdminRequest) -> Result<Answer, ApiError> {
    let amount = whole_amount(&mut request.fields)?;
    let note = required(&mut request.fields, "note", "a text that says what is corrected")?;
    end(&request.fields)?;
    request.query.end()?;
    let account = request.ledger().deduct(&request.name, amount, &note).await.map_err(of_ledger)?;
    request.log(&format!("{amount} taken back"), &account.id);
    object(request.ledger().account_object(&account))
}

pub(super) async fn entries(mut request: AdminRequest) -> Result<Answer, ApiError> {
    let most = most(&mut request.query, "")?;
    request.query.end()?;
    let ledger = request.ledger();
    let account = ledger.account(&request.name).await.map_err(of_ledger)?;
    let entries = ledger.entries(&account.id, most).await.map_err(of_ledger)?;
    object(ledger.account_with_entries(&account, &entries))
}

pub(super) async fn remove(request: AdminRequest) -> Result<Answer, ApiError> {
    request.query.end()?;
    let account = request.ledger().delete_account(&request.name).await.map_err(of_ledger)?;
    request.log("account deleted", &account.id);
    request.metering.account_deleted();
    object(request.ledger().account_object(&account))
}
