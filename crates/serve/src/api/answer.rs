//! What the routes of the ledger share: their answers, queries in their paths, and errors of the books.

use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use ledger::{Days, GroupBy, LedgerError, Report, ReportQuery, csv, date};
use serde_json::{Value, json};

use crate::api::fields::wrong;
use crate::error::ApiError;
use crate::http::metering::unavailable;

/// Parameters of a query at most.
const PARAMETERS_MAX: usize = 32;

/// What such a route answers with. Nobody may keep it: it may hold a secret, and it changes.
pub(super) enum Answer {
    Object(Value),
    /// Comma-separated values.
    Csv(String),
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = match self {
            Answer::Object(object) => axum::Json(object).into_response(),
            Answer::Csv(text) => ([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], text).into_response(),
        };
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

/// The parameters behind `?`, each of which may be taken once.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Parses the parameters of an address.
    ///
    /// # Errors
    /// Too many, or one that is given twice, or has a NUL, which no database takes in a text.
    pub fn parse(uri: &Uri) -> Result<Query, ApiError> {
        let mut given: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
            if given.len() == PARAMETERS_MAX || given.iter().any(|(known, _)| *known == name) {
                let message = format!("{} is given more than once, or there are too many parameters", cut(&name));
                return Err(ApiError::bad("duplicate_field", message).of(cut(&name)));
            }
            if value.contains('\0') {
                let message = format!("{} has a NUL, and nothing that could be asked for has one", cut(&name));
                return Err(ApiError::bad("invalid_value", message).of(cut(&name)));
            }
            given.push((name.into_owned(), value.into_owned()));
        }
        Ok(Query(given))
    }

    /// Takes a parameter.
    pub fn take(&mut self, name: &str) -> Option<String> {
        let place = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.remove(place).1)
    }

    /// One of some words, the first without one.
    pub fn word<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Result<T, ApiError> {
        let (first, given) = (words[0].1, self.take(name));
        let Some(given) = given else { return Ok(first) };
        let known = words.iter().find(|(word, _)| *word == given).map(|(_, meaning)| *meaning);
        let allowed: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        known.ok_or_else(|| wrong(name, &json!(given), &allowed.join(", ")))
    }

    /// Refuses what was not taken.
    pub fn end(&self) -> Result<(), ApiError> {
        match self.0.first() {
            Some((name, _)) => {
                let name = cut(name);
                Err(ApiError::bad("unknown_field", format!("{name} is no parameter of this request")).of(name))
            }
            None => Ok(()),
        }
    }
}

fn cut(name: &str) -> String {
    name.chars().take(64).collect()
}

/// Whether a report is wanted as CSV.
pub(super) fn as_csv(query: &mut Query) -> Result<bool, ApiError> {
    query.word("format", &[("json", false), ("csv", true)])
}

/// Days from `from` to `until`, `days_max` at most.
pub(super) fn days(query: &mut Query, now: i64, days_max: u64) -> Result<Days, ApiError> {
    let mut day = |name: &str| match query.take(name) {
        Some(text) => date(&text).map(Some).map_err(|_| wrong(name, &json!(text), "a day as YYYY-MM-DD")),
        None => Ok(None),
    };
    let (from, until) = (day("from")?, day("until")?);
    let Some(days) = Days::new(from, until, now) else {
        let message = "from is after until; it must be the same day or one before";
        return Err(ApiError::bad("invalid_value", message).of("from"));
    };
    if days.count() > days_max {
        let message =
            format!("from {} to {} are {} days; at most {days_max} are told", days.first, days.last, days.count());
        return Err(ApiError::bad("invalid_value", message).of("from"));
    }
    Ok(days)
}

/// A report over some days without filters.
pub(super) fn sums(days: Days, by: GroupBy) -> ReportQuery {
    ReportQuery { days, by, requests: None, key: None, account: None, model: None, ids: false }
}

/// A report as an answer.
pub(super) fn told(report: Report, as_csv: bool) -> Answer {
    if as_csv { Answer::Csv(csv(&report.columns, &report.rows)) } else { Answer::Object(report.object) }
}

/// An error of the books: what is not there is a 404, what cannot be is a 400.
pub(super) fn of_ledger(error: LedgerError) -> ApiError {
    match error {
        LedgerError::Unknown { kind, .. } | LedgerError::Revoked { kind, .. } => {
            let code = match kind {
                "key" => "key_not_found",
                "account" => "account_not_found",
                _ => "invitation_not_found",
            };
            ApiError::new(StatusCode::NOT_FOUND, code, error.to_string())
        }
        LedgerError::Unused { .. } => {
            ApiError::new(StatusCode::NOT_FOUND, "model_not_found", error.to_string()).of("model")
        }
        LedgerError::Invalid(message) => ApiError::bad("invalid_value", message),
        error => unavailable(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Result<Query, ApiError> {
        Query::parse(&format!("/admin/usage?{text}").parse().unwrap())
    }

    #[test]
    fn parameters_are_taken_once_and_none_is_left() {
        let mut given = query("from=2026-11-01&key=a%20b+c").unwrap();
        assert_eq!(given.take("key").as_deref(), Some("a b c"));
        assert_eq!(given.end().unwrap_err().param.as_deref(), Some("from"));
        assert_eq!(query("by=day&by=key").err().unwrap().code, "duplicate_field");
        let nul = query("by=day&key=a%00b").err().unwrap();
        assert_eq!((nul.status, nul.param.as_deref()), (StatusCode::BAD_REQUEST, Some("key")));
        assert!(query(&(0..33).map(|n| format!("p{n}=1&")).collect::<String>()).is_err());
        let mut given = query("format=xml").unwrap();
        assert!(as_csv(&mut given).unwrap_err().message.contains("json, csv"));
    }

    #[test]
    fn days_have_a_bound() {
        let noon = 1_795_953_600_000;
        let of = |text: &str| days(&mut query(text).unwrap(), noon, 366).map(|days| days.count());
        assert_eq!((of(""), of("from=2025-11-29&until=2026-11-29")), (Ok(30), Ok(366)));
        assert!(of("from=2025-11-28").unwrap_err().message.contains("367 days"));
        for wrong in ["from=1.1.2026", "until=2026-02-30", "from=2026-12-01", "from=-200000-01-01"] {
            assert_eq!(of(wrong).unwrap_err().status, StatusCode::BAD_REQUEST, "{wrong}");
        }
    }
}
