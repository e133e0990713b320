//! `/admin/usage` and `/admin/prices`: what keys and accounts used, and what tokens cost.

use ledger::{GroupBy, ReportQuery};
use serde_json::json;

use super::{AdminRequest, Answer, object, of_ledger};
use crate::api::answer::{as_csv, days, sums, told};
use crate::api::fields::wrong;
use crate::error::ApiError;

/// Days of a report at most, ten years.
const DAYS_MAX: u64 = 3660;
/// Single requests of a report: at most, and where the query does not say.
const REQUESTS_MAX: u32 = 10_000;
const REQUESTS: u32 = 100;

pub(super) async fn report(mut request: AdminRequest) -> Result<Answer, ApiError> {
    let now = request.ledger().now();
    let query = &mut request.query;
    let groups = [GroupBy::Day, GroupBy::Hour, GroupBy::Model, GroupBy::Key, GroupBy::Account];
    let by = query.word("by", &groups.map(|by| (by.name(), by)))?;
    let singly = query.word("requests", &[("false", false), ("true", true)])?;
    let most = match query.take("most") {
        Some(text) => {
            let most = text.parse::<u32>().ok().filter(|most| singly && (1..=REQUESTS_MAX).contains(most));
            let allowed = format!("a whole number from 1 to {REQUESTS_MAX}, beside requests=true");
            most.ok_or_else(|| wrong("most", &json!(text), &allowed))?
        }
        None => REQUESTS,
    };
    let as_csv = as_csv(query)?;
    let report = ReportQuery {
        requests: singly.then_some(most),
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
