//! Limits of keys on the command line, and in words

use std::fmt::Display;

use ::ledger::{Budget, Left, Limits, Money, Rate};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::duration;
use crate::Failure;
use crate::terminal::whole;

/// The word that removes a limit.
const NONE: &str = "none";

/// A limit as it is given: a value, or `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit<T>(Option<T>);

/// Limits of a key; what is not given stays as it is.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitArguments {
    /// Model that the key is for, by its id in the API, or none for all; repeatable [default: all]
    #[arg(long, value_name = "MODEL", value_parser = NonEmptyStringValueParser::new())]
    model: Vec<String>,
    /// Path of the API that the key is for, such as /v1/chat/completions, or none for all; repeatable [default: all]
    #[arg(long, value_name = "PATH", value_parser = endpoint)]
    endpoint: Vec<String>,
    /// Requests a minute, or none
    #[arg(long, value_name = "N", value_parser = count)]
    requests_per_minute: Option<Limit<u64>>,
    /// Tokens a minute, of prompts and answers, or none
    #[arg(long, value_name = "N", value_parser = count)]
    tokens_per_minute: Option<Limit<u64>>,
    /// Concurrent requests, or none
    #[arg(long, value_name = "N", value_parser = count)]
    concurrency: Option<Limit<u64>>,
    /// Tokens in a day (UTC), or none
    #[arg(long, value_name = "N", value_parser = count)]
    tokens_per_day: Option<Limit<u64>>,
    /// Tokens in a month (UTC), or none
    #[arg(long, value_name = "N", value_parser = count)]
    tokens_per_month: Option<Limit<u64>>,
    /// Tokens in all, or none
    #[arg(long, value_name = "N", value_parser = count)]
    tokens_total: Option<Limit<u64>>,
    /// Money in a day (UTC), or none
    #[arg(long, value_name = "AMOUNT", value_parser = money)]
    money_per_day: Option<Limit<Money>>,
    /// Money in a month (UTC), or none
    #[arg(long, value_name = "AMOUNT", value_parser = money)]
    money_per_month: Option<Limit<Money>>,
    /// Money in all, or none
    #[arg(long, value_name = "AMOUNT", value_parser = money)]
    money_total: Option<Limit<Money>>,
}

impl LimitArguments {
    /// Whether none is given.
    pub fn is_empty(&self) -> bool {
        *self == LimitArguments::default()
    }

    /// What is given, over the limits of before.
    pub fn over(&self, old: Limits) -> Result<Limits, Failure> {
        Ok(Limits {
            models: names("--model", &self.model, old.models)?,
            endpoints: names("--endpoint", &self.endpoint, old.endpoints)?,
            requests_per_minute: over(self.requests_per_minute, old.requests_per_minute),
            tokens_per_minute: over(self.tokens_per_minute, old.tokens_per_minute),
            concurrency: over(self.concurrency, old.concurrency),
            tokens: Budget {
                day: over(self.tokens_per_day, old.tokens.day),
                month: over(self.tokens_per_month, old.tokens.month),
                total: over(self.tokens_total, old.tokens.total),
            },
            money: Budget {
                day: over(self.money_per_day, old.money.day),
                month: over(self.money_per_month, old.money.month),
                total: over(self.money_total, old.money.total),
            },
        })
    }
}

fn over<T>(given: Option<Limit<T>>, old: Option<T>) -> Option<T> {
    given.map_or(old, |limit| limit.0)
}

/// Models or endpoints: those that are given, each once.
fn names(option: &str, given: &[String], old: Vec<String>) -> Result<Vec<String>, Failure> {
    let none = given.iter().any(|name| name == NONE);
    match given {
        [] => Ok(old),
        [_] if none => Ok(Vec::new()),
        _ if none => Err(Failure::usage(format!("{option} none is given beside others; give it alone"))),
        _ => {
            let is_first = |(place, name): &(usize, &String)| !given[..*place].contains(name);
            Ok(given.iter().enumerate().filter(is_first).map(|(_, name)| name.clone()).collect())
        }
    }
}

/// When something expires, in milliseconds since 1970, of which 0 is never; `None` where nothing is given.
pub fn expires_at(given: Option<Limit<u64>>, now: i64) -> Option<i64> {
    given.map(|Limit(ms)| ms.map_or(0, |ms| now.saturating_add_unsigned(ms)))
}

fn limit<T>(text: &str, value: Result<T, impl Display>) -> Result<Limit<T>, String> {
    if text == NONE { Ok(Limit(None)) } else { value.map(Some).map(Limit).map_err(|e| format!("{e}, or none")) }
}

fn count(text: &str) -> Result<Limit<u64>, String> {
    let number = whole::<u64>(text).ok().filter(|n| (1..=i64::MAX.unsigned_abs()).contains(n));
    limit(text, number.ok_or("give a whole number from 1 on"))
}

fn money(text: &str) -> Result<Limit<Money>, String> {
    limit(text, super::amount(text))
}

/// How long something is valid, or `none`.
pub fn validity(text: &str) -> Result<Limit<u64>, String> {
    let ms = duration(text).and_then(|ms| if ms > 0 { Ok(ms) } else { Err("give more than 0".to_string()) });
    limit(text, ms)
}

fn endpoint(text: &str) -> Result<String, String> {
    let valid = text == NONE || text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic());
    if !valid {
        return Err("give a path such as /v1/chat/completions, or none".to_string());
    }
    if text != NONE {
        serve::check_metered(text)?;
    }
    Ok(text.to_string())
}

/// The limits that are set, in words, with what is left of each where that is known.
pub fn words(limits: &Limits, left: Option<&Left>, currency: &str) -> Vec<(&'static str, String)> {
    let list = |names: &[String]| (!names.is_empty()).then(|| names.join(", "));
    let with = |limit: String, left: Option<String>| match left {
        Some(left) => format!("{limit}, {left} left"),
        None => limit,
    };
    let count = |limit: Option<u64>, left: Option<u64>| {
        limit.map(|limit| with(limit.to_string(), left.map(|left| left.to_string())))
    };
    let money = |limit: Option<Money>, left: Option<Money>| {
        limit.map(|limit| with(format!("{limit} {currency}"), left.map(|left| left.to_string())))
    };
    let remaining = |rate: Option<Rate>| rate.map(|rate| rate.remaining);
    let (tokens, cost) =
        (left.map(|left| left.tokens).unwrap_or_default(), left.map(|left| left.money).unwrap_or_default());
    let all = [
        ("models", list(&limits.models)),
        ("endpoints", list(&limits.endpoints)),
        (
            "requests a minute",
            count(limits.requests_per_minute, left.and_then(|left| remaining(left.requests_per_minute))),
        ),
        ("tokens a minute", count(limits.tokens_per_minute, left.and_then(|left| remaining(left.tokens_per_minute)))),
        ("concurrent requests", count(limits.concurrency, left.and_then(|left| left.concurrency))),
        ("tokens a day", count(limits.tokens.day, tokens.day)),
        ("tokens a month", count(limits.tokens.month, tokens.month)),
        ("tokens in all", count(limits.tokens.total, tokens.total)),
        ("money a day", money(limits.money.day, cost.day)),
        ("money a month", money(limits.money.month, cost.month)),
        ("money in all", money(limits.money.total, cost.total)),
    ];
    all.into_iter().filter_map(|(what, limit)| Some((what, limit?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_stays() {
        let old = Limits {
            models: vec!["a".into()],
            concurrency: Some(3),
            tokens: Budget { day: Some(5), month: Some(6), total: None },
            ..Limits::default()
        };
        let given = LimitArguments {
            tokens_per_day: Some(Limit(None)),
            money_total: Some(Limit(Some(Money(7)))),
            ..LimitArguments::default()
        };
        let new = given.over(old.clone()).unwrap();
        assert_eq!((new.tokens.day, new.tokens.month, new.money.total), (None, Some(6), Some(Money(7))));
        assert_eq!((&new.models, new.concurrency), (&old.models, Some(3)));
        assert!(LimitArguments::default().is_empty() && !given.is_empty());
    }

    #[test]
    fn names_replace_names() {
        let names = |given: &[&str]| {
            names("--model", &given.iter().map(|s| s.to_string()).collect::<Vec<_>>(), vec!["old".into()])
        };
        assert_eq!(names(&[]).unwrap(), ["old"]);
        assert_eq!(names(&["a", "b", "a"]).unwrap(), ["a", "b"]);
        assert!(names(&["none"]).unwrap().is_empty() && names(&["none", "a"]).is_err());
    }

    #[test]
    fn values_are_numbers_or_none() {
        assert_eq!((count("none"), count("7")), (Ok(Limit(None)), Ok(Limit(Some(7)))));
        assert!(["0", "-1", "1.5", "9223372036854775808", "None", ""].iter().all(|wrong| count(wrong).is_err()));
        assert_eq!(money("2.5"), Ok(Limit(Some(Money(2_500_000)))));
        assert!(["1e3", "0", "0.00"].iter().all(|wrong| money(wrong).unwrap_err().ends_with("such as 2.50, or none")));
        assert_eq!(validity("1m"), Ok(Limit(Some(60_000))));
        assert!(validity("0d").is_err() && endpoint("v1").is_err() && endpoint("/v1/chat completions").is_err());
        assert_eq!(endpoint("/v1/chat/completions"), Ok("/v1/chat/completions".to_string()));
        let said = endpoint("/v1/chat/completion").unwrap_err();
        assert!(said.contains("no server uses a model at ") && said.contains("/v1/chat/completions"), "{said}");
        assert!(endpoint("/admin/keys").is_err() && endpoint("/health").is_err());
    }
}
