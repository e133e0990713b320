//! `/admin/invitations`: invitations are made, listed, revoked.

use ledger::{Limits, Money, NewInvitation, json};
use serde_json::Value;

use super::{AdminRequest, Answer, amount, end, expires_at, object, of_ledger, patch, required};
use crate::api::fields::wrong;
use crate::error::ApiError;

pub(super) async fn list(request: AdminRequest) -> Result<Answer, ApiError> {
    request.query.end()?;
    let ledger = request.ledger();
    object(ledger.invitations_object(&ledger.invitations().await.map_err(of_ledger)?))
}

pub(super) async fn create(mut request: AdminRequest) -> Result<Answer, ApiError> {
    const USES: &str = "how often the code can be used, from 1 to 1000000";
    let fields = &mut request.fields;
    let name = required(fields, "name", "the name of the invitation")?;
    let uses = fields.count("uses", 1, 1_000_000)?.ok_or_else(|| wrong("uses", &Value::Null, USES))?;
    let granted = amount(fields, "grant")?.unwrap_or(Money::ZERO);
    let expires_at = expires_at(fields)?.unwrap_or(0);
    let given = patch(fields)?.unwrap_or_default();
    end(fields)?;
    request.query.end()?;
    let limits = Limits::default().patched(given).map_err(of_ledger)?;
    let new = NewInvitation { name, expires_at, uses, granted, limits };
    let (invitation, code) = request.ledger().create_invitation(&new).await.map_err(of_ledger)?;
    request.log("invitation created", &invitation.id);
    object(json::with_secret(request.ledger().invitation_object(&invitation), &code))
}

pub(super) async fn revoke(request: AdminRequest) -> Result<Answer, ApiError> {
    end(&request.fields)?;
    request.query.end()?;
    let invitation = request.ledger().revoke_invitation(&request.name).await.map_err(of_ledger)?;
    request.log("invitation revoked", &invitation.id);
    object(request.ledger().invitation_object(&invitation))
}
