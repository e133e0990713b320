//! Regular expressions: limits, and ECMA's dialect (JSON Schema's) rewritten so that Rust's means the same.

use super::{GrammarError, REGEX_BYTES_MAX, REGEX_REPEATS_MAX};

/// Why a regular expression is not taken.
#[derive(Debug, PartialEq)]
pub(super) enum RegexError {
    /// A limit, by what is counted.
    Large { what: &'static str, found: u64, max: u64 },
    /// Syntax that is not known here.
    Syntax(String),
}

pub(super) fn refusal(what: &str, refused: RegexError) -> GrammarError {
    match refused {
        RegexError::Large { what: count, found, max } => {
            GrammarError::TooLarge { what: format!("{what}: {count}"), found, max }
        }
        RegexError::Syntax(reason) => GrammarError::invalid(what, reason),
    }
}

/// Limits on a regular expression of Rust's syntax.
pub(super) fn check(regex: &str) -> Result<(), RegexError> {
    if regex.len() > REGEX_BYTES_MAX {
        return Err(RegexError::Large { what: "bytes", found: regex.len() as u64, max: REGEX_BYTES_MAX as u64 });
    }
    check_repeats(regex)
}

/// Counted repetitions, nested ones multiplied: `(a{1,1000}){1,1000}` is a million.
pub(super) fn check_repeats(text: &str) -> Result<(), RegexError> {
    let bytes = text.as_bytes();
    // Of each open group: the largest product inside. `last` is that of the piece that ended just now.
    let (mut open, mut inside, mut last, mut class) = (Vec::new(), 1u64, 1u64, false);
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => {
                at += 1;
                last = 1;
            }
            b'[' if !class => (class, last) = (true, 1),
            b']' if class => class = false,
            _ if class => {}
            b'(' => {
                open.push(inside);
                (inside, last) = (1, 1);
            }
            b')' => {
                last = inside;
                inside = open.pop().unwrap_or(1).max(inside);
            }
            b'{' => {
                if let Some(count) = counted(&bytes[at + 1..]) {
                    last = last.saturating_mul(count.max(1));
                    inside = inside.max(last);
                    if last > REGEX_REPEATS_MAX {
                        return Err(RegexError::Large {
                            what: "nested repetitions",
                            found: last,
                            max: REGEX_REPEATS_MAX,
                        });
                    }
                }
            }
            b'*' | b'+' | b'?' | b'}' | b',' | b'0'..=b'9' => {}
            _ => last = 1,
        }
        at += 1;
    }
    Ok(())
}

/// The larger bound of `n}`, `n,}` or `n,m}`.
fn counted(rest: &[u8]) -> Option<u64> {
    let end = rest.iter().take(24).position(|&b| b == b'}')?;
    let text = std::str::from_utf8(&rest[..end]).ok()?;
    let mut largest = None;
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        largest = largest.max(Some(part.parse::<u64>().ok()?));
    }
    largest
}

/// ECMA's white space.
const SPACE: &str = r"\t\n\x0B\x0C\r \u{A0}\u{FEFF}\u{1680}\u{2000}-\u{200A}\u{2028}\u{2029}\u{202F}\u{205F}\u{3000}";
/// What ECMA's dot does not match.
const LINE_ENDS: &str = r"\n\r\u{2028}\u{2029}";

/// ECMA's regular expression in Rust's words.
pub(super) fn from_ecma(pattern: &str) -> Result<String, RegexError> {
    check(pattern)?;
    let mut out = String::with_capacity(pattern.len() * 2);
    let mut chars = pattern.chars().peekable();
    let (mut class, mut first) = (false, false);
    while let Some(c) = chars.next() {
        let was_first = std::mem::take(&mut first);
        match c {
            '\\' => escape(&mut chars, class, &mut out)?,
            '[' if class => out.push_str("\\["),
            '[' => {
                (class, first) = (true, true);
                out.push('[');
                if chars.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
            }
            // ECMA's `[]` matches nothing and `[^]` everything; Rust takes the bracket for a member.
            ']' if class && was_first => return Err(RegexError::Syntax("an empty character class".to_string())),
            ']' if class => {
                class = false;
                out.push(']');
            }
            '&' | '~' if class => out.extend(['\\', c]),
            '-' if class && chars.peek() == Some(&'-') => {
                return Err(RegexError::Syntax("`--` in a character class".to_string()));
            }
            '.' if !class => out.push_str(&format!("[^{LINE_ENDS}]")),
            '(' if !class => {
                out.push('(');
                group(&mut chars, &mut out)?;
            }
            _ => out.push(c),
        }
    }
    Ok(out)
}

/// Whether a character means more than itself somewhere in Rust's syntax, or between the slashes of Lark.
pub(super) fn has_meaning(c: char) -> bool {
    r"\.+*?()|[]{}^$#&-~/".contains(c)
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// What follows `(`.
fn group(chars: &mut Chars, out: &mut String) -> Result<(), RegexError> {
    if chars.next_if_eq(&'?').is_none() {
        return Ok(());
    }
    match (chars.next(), chars.peek()) {
        (Some(':'), _) => out.push_str("?:"),
        (Some('='), _) | (Some('!'), _) => return Err(RegexError::Syntax("look-ahead is not supported".to_string())),
        (Some('<'), Some('=' | '!')) => return Err(RegexError::Syntax("look-behind is not supported".to_string())),
        (Some('<'), _) => out.push_str("?P<"),
        _ => return Err(RegexError::Syntax("`(?` with flags is no syntax of JSON Schema".to_string())),
    }
    Ok(())
}

/// What follows a backslash.
fn escape(chars: &mut Chars, class: bool, out: &mut String) -> Result<(), RegexError> {
    let c = chars.next().ok_or_else(|| RegexError::Syntax("a backslash at the end".to_string()))?;
    // A class of its own inside a class too, so that a `-` after it is a minus, as in ECMA.
    let set = |members: &str, negated: bool| format!("[{}{members}]", if negated { "^" } else { "" });
    match c {
        'd' | 'D' => out.push_str(&set("0-9", c == 'D')),
        'w' | 'W' => out.push_str(&set("0-9A-Za-z_", c == 'W')),
        's' | 'S' => out.push_str(&set(SPACE, c == 'S')),
        'n' | 'r' | 't' | 'f' | 'v' => out.extend(['\\', c]),
        '0' if !chars.peek().is_some_and(char::is_ascii_digit) => out.push_str("\\x00"),
        'x' | 'u' if chars.peek() != Some(&'{') => {
            let digits: String = chars.by_ref().take(if c == 'x' { 2 } else { 4 }).collect();
            let code = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32);
            let code = code.ok_or_else(|| RegexError::Syntax(format!("`\\{c}{digits}` is no character")))?;
            out.push_str(&format!("\\u{{{:X}}}", code as u32));
        }
        'p' | 'P' | 'u' => out.extend(['\\', c]),
        'b' if class => out.push_str("\\x08"),
        'b' | 'B' => return Err(RegexError::Syntax("word boundaries are not supported".to_string())),
        '1'..='9' | 'k' => return Err(RegexError::Syntax("references to groups are not supported".to_string())),
        c if c.is_ascii_alphanumeric() => return Err(RegexError::Syntax(format!("`\\{c}` is not known"))),
        // Any other character stands for itself. To Rust `\<` would be the begin of a word.
        c if has_meaning(c) => out.extend(['\\', c]),
        c => out.push(c),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_multiply() {
        assert!(check(r"^[a-z]{1,100}(-[a-z]{2,4}){0,8}$").is_ok());
        assert!(check(r"\(a{1000}\)b{1000}").is_ok());
        let large = |found| Err(RegexError::Large { what: "nested repetitions", found, max: REGEX_REPEATS_MAX });
        assert_eq!(check("(a{1,1000}){1,1000}"), large(1_000_000));
        assert_eq!(check("((a{200}){10}b){3,11}"), large(22_000));
        assert_eq!(check("a{4000000000}"), large(4_000_000_000));
    }

    #[test]
    fn ecma_in_rusts_words() {
        let is = |ecma: &str, rust: &str| assert_eq!(from_ecma(ecma).unwrap(), rust, "{ecma}");
        is(r"^\d+\/[\w.-]$", r"^[0-9]+\/[[0-9A-Za-z_].-]$");
        is(r"[[a&&b]", r"[\[a\&\&b]");
        is("a.b", r"a[^\n\r\u{2028}\u{2029}]b");
        is(r"\<b\>\'", "<b>'");
        is(r"\u0041\x42(?<n>c)(?:d)", r"\u{41}\u{42}(?P<n>c)(?:d)");
        for bad in [r"(?=a)", r"(?<!a)b", r"(a)\1", r"\ba", "(?i)a", r"\z", "[]", "a\\"] {
            assert!(matches!(from_ecma(bad), Err(RegexError::Syntax(_))), "{bad}");
        }
    }
}
