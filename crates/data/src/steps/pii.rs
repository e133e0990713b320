//! Personal data: e-mail addresses, public IP addresses and telephone numbers are replaced by ones that belong to nobody

use std::net::Ipv4Addr;
use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde::Deserialize;

use super::{Made, Settings, Surroundings};
use crate::{Document, Step, Verdict};

/// Replaced as datatrove's `PIIFormatter` does, which made FineWeb (arXiv:2406.17557, appendix); its replacements are taken in turn, here from the first in each document.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mask {
    /// E-mail addresses (`remove_emails`).
    pub emails: bool,
    /// IPv4 addresses (`remove_ips`) that are public (`only_remove_public_ips`).
    pub ips: bool,
    /// North American telephone numbers, by the expression of Dolma (arXiv:2402.00159): it takes other numbers of ten digits for them.
    pub phones: bool,
}

impl Default for Mask {
    fn default() -> Mask {
        Mask { emails: true, ips: true, phones: false }
    }
}

impl Settings for Mask {
    fn make(self, _: Surroundings) -> Result<Made, String> {
        Ok(Made::Alone(Box::new(self)))
    }
}

const EMAILS: [&str; 2] = ["email@example.com", "firstname.lastname@example.org"];

/// Addresses that nobody answered at when datatrove's list was made.
const IPS: [&str; 6] =
    ["22.214.171.124", "126.96.36.199", "188.8.131.52", "184.108.40.206", "220.127.116.11", "18.104.22.168"];

/// A number that is kept free for fiction.
const PHONE: &str = "555-0100";

/// datatrove's expression but for the word border, which is that of ASCII: after a letter with an accent it begins too.
static EMAIL: LazyLock<Regex> = LazyLock::new(|| {
    let local = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*";
    let label = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?";
    let literal = r"\[(?:(?:25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)\.){3}(?:25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?|[A-Za-z0-9-]*[A-Za-z0-9]:)\]";
    expression(&format!(r"(?-u:\b){local}@(?:(?:{label}\.)+{label}|{literal})"))
});

static IP: LazyLock<Regex> = LazyLock::new(|| {
    let byte = "(?:25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)";
    expression(&format!(r"(?:{byte}\.){{3}}{byte}"))
});

static PHONE_NUMBER: LazyLock<Regex> = LazyLock::new(|| expression(r"(\s)\(?[0-9]{3}\)?[-. ]*[0-9]{3}[-. ]?[0-9]{4}"));

fn expression(text: &str) -> Regex {
    Regex::new(text).expect("an expression of this file")
}

/// Whether an address may be somebody's: what Python's `ipaddress` calls global. One with leading zeros is none.
fn is_public(address: &str) -> bool {
    let Ok(address) = address.parse::<Ipv4Addr>() else { return false };
    let own = address.is_private() || address.is_loopback() || address.is_link_local() || address.is_documentation();
    !own && !matches!(address.octets(), [0 | 240.., ..] | [100, 64..=127, ..] | [192, 0, 0, _] | [198, 18 | 19, ..])
}

/// The text with the matches that are `wanted` replaced, by each replacement in turn; nothing where there are none.
fn replaced(text: &str, expression: &Regex, wanted: fn(&str) -> bool, replacements: &[&str]) -> Option<String> {
    let mut turns = replacements.iter().cycle();
    let mut any = false;
    let replaced = expression.replace_all(text, |found: &Captures| {
        if !wanted(&found[0]) {
            return found[0].to_owned();
        }
        any = true;
        // The white space before a telephone number stays.
        let kept = found.get(1).map_or("", |group| group.as_str());
        format!("{kept}{}", turns.next().expect("a cycle without end"))
    });
    let replaced = replaced.into_owned();
    any.then_some(replaced)
}

impl Mask {
    /// The text without personal data; nothing where there is none.
    pub fn masked(&self, text: &str) -> Option<String> {
        let mut masked: Option<String> = None;
        let has_address = memchr::memchr(b'@', text.as_bytes()).is_some();
        let steps: [(bool, &LazyLock<Regex>, fn(&str) -> bool, &[&str]); 3] = [
            (self.emails && has_address, &EMAIL, |_| true, &EMAILS),
            (self.ips && may_have_ip(text), &IP, is_public, &IPS),
            (self.phones, &PHONE_NUMBER, |_| true, &[PHONE]),
        ];
        for (_, expression, wanted, replacements) in steps.into_iter().filter(|(used, ..)| *used) {
            if let Some(next) = replaced(masked.as_deref().unwrap_or(text), expression, wanted, replacements) {
                masked = Some(next);
            }
        }
        masked
    }
}

/// Whether a full stop stands between digits: cheaper than the expression, and rare in prose.
fn may_have_ip(text: &str) -> bool {
    let bytes = text.as_bytes();
    memchr::memchr_iter(b'.', bytes)
        .any(|at| at > 0 && bytes[at - 1].is_ascii_digit() && bytes.get(at + 1).is_some_and(u8::is_ascii_digit))
}

impl Step for Mask {
    fn apply(&self, document: &mut Document) -> Verdict {
        if let Some(text) = self.masked(document.text()) {
            if text.len() > crate::document::TEXT_BYTES_MAX {
                return Verdict::drop("pii.too_long", format!("{} bytes once masked", text.len()));
            }
            document.set_text(text);
        }
        Verdict::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(text: &str) -> String {
        Mask { phones: true, ..Mask::default() }.masked(text).unwrap_or(text.to_owned())
    }

    /// `PIIFormatter` of datatrove 0.10.1 gives the same.
    #[test]
    fn texts_as_datatrove_masks_them() {
        for (text, expected) in [
            (
                "Write to a.b+c@mail.example.net, or x@y.io.",
                "Write to email@example.com, or firstname.lastname@example.org.",
            ),
            ("one@a.de two@b.de three@c.de", "email@example.com firstname.lastname@example.org email@example.com"),
            ("not@ an address, neither @b nor a@b", "not@ an address, neither @b nor a@b"),
            ("user@[8.8.8.8] and <me@localhost.localdomain>", "email@example.com and <firstname.lastname@example.org>"),
            ("8.8.8.8 and 1.1.1.1:80", "22.214.171.124 and 126.96.36.199:80"),
            (
                "10.0.0.1 192.168.1.1 127.0.0.1 172.16.3.4 169.254.1.1",
                "10.0.0.1 192.168.1.1 127.0.0.1 172.16.3.4 169.254.1.1",
            ),
            ("100.64.0.1 192.0.2.7 198.18.0.1 240.0.0.1 0.1.2.3", "100.64.0.1 192.0.2.7 198.18.0.1 240.0.0.1 0.1.2.3"),
            ("8.8.8.08 is none, 999.8.8.8 has one", "8.8.8.08 is none, 922.214.171.124 has one"),
        ] {
            assert_eq!(Mask::default().masked(text).unwrap_or(text.to_owned()), expected);
        }
    }

    #[test]
    fn telephone_numbers_only_if_wanted() {
        assert_eq!(masked("call (212) 555 7788 or\n212-555-7788."), "call 555-0100 or\n555-0100.");
        assert_eq!(Mask::default().masked("call (212) 555 7788"), None);
    }

    #[test]
    fn long_words_take_no_time() {
        let long = "a".repeat(1 << 20) + "@" + &"b-".repeat(1 << 19) + &"1.".repeat(1 << 18);
        assert_eq!(masked(&long), "email@example.com.");
        assert_eq!(masked(&long.replace('1', " ")), long.replace('1', " "));
        // A hyphen is part of a domain: every second address begins in the one before.
        assert_eq!(masked(&"a@b.c-".repeat(1 << 16)).matches("example").count(), 1 << 15);
    }
}
