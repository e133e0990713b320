//! `/admin/usage` and `/admin/prices`: what keys and accounts used, and what tokens cost.

use ledger::{GroupBy, ReportQuery};
use serde_json::json;

use super::{AdminRequest, Answer, most, object, of_ledger};
use crate::api::answer::{as_csv, days, sums, told};
use crate::error::ApiError;

/// Days of a report at most, ten years.
const DAYS_MAX: u64 = 3660;

pub(super) async fn report(mut request: AdminRequest) -> Result<Answer, ApiError> {
    let now = request.ledger().now();
    let query = &mut request.query;
    let groups = [GroupBy::Day, GroupBy::Hour, GroupBy::Model, GroupBy::Key, GroupBy::Account];
    let by = query.word("by", &groups.map(|by| (by.name(), by)))?;
    let singly = query.word("requests", &[("false", false), ("true", true)])?;
    let most = if singly { Some(most(query, ", beside requests=true")?) } else { None };
    let as_csv = as_csv(query)?;
    let report = ReportQuery {
        requests: most,
        key: query.take("key"),
        account: query.take("account"),
        model: query.take("model"),
        ids: as_csv,
        ..sums(days(query, now, DAYS_MAX)?, by)
    };
    query.end()?;
    Ok(told(request.ledger().report(&report).await.map_err(of_ledger)?, as_csv))
}

/// The price sheet in force; without one, that nothing costs anything.
pub(super) async fn prices(request: AdminRequest) -> Result<Answer, ApiError> {
    request.query.end()?;
    let ledger = request.ledger();
    match request.metering.prices() {
        Some(sheet) => object(sheet.object(ledger.now())),
        None => object(json!({"currency": ledger.currency(), "models": [], "hours": [], "batch": 1.0, "factor": 1.0})),
    }
}
