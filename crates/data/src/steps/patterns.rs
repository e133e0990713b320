//! Regular expressions of the recipe's own: documents that one of them drops, and text that is replaced

use regex::Regex;
use serde::Deserialize;

use super::{Made, Settings, Surroundings};
use crate::document::TEXT_BYTES_MAX;
use crate::{Document, Step, Verdict};

/// Settings, in the syntax of the crate `regex`: every search takes time in proportion to the text that is left.
///
/// `replace` searches again behind each match. A pattern whose search runs to the end of the text and then matches near its beginning, such as
/// `.*[0-9]|[a-z]` in a text without digits and line feeds, takes time in proportion to the square of the text.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Patterns {
    /// A document in which one of these is found is dropped.
    drop: Vec<String>,
    /// Text that is replaced in the documents that remain, one after the other.
    replace: Vec<Replacement>,
}

/// Text that is replaced by other text.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Replacement {
    pattern: String,
    /// What stands in its place: `$1` or `${name}` is a group of the pattern, `$$` a dollar sign.
    with: String,
}

struct Compiled {
    drop: Vec<Regex>,
    replace: Vec<(Regex, String)>,
}

impl Settings for Patterns {
    fn make(self, _: Surroundings) -> Result<Made, String> {
        if self.drop.is_empty() && self.replace.is_empty() {
            return Err("it has neither `drop` nor `replace`".into());
        }
        let drop = self.drop.iter().map(|pattern| compile(pattern)).collect::<Result<_, _>>()?;
        let replace =
            self.replace.into_iter().map(|replacement| Ok((compile(&replacement.pattern)?, replacement.with)));
        Ok(Made::Alone(Box::new(Compiled { drop, replace: replace.collect::<Result<_, String>>()? })))
    }
}

fn compile(pattern: &str) -> Result<Regex, String> {
    // The last line says what is wrong, those before it point at the place.
    let words = |e: regex::Error| e.to_string().lines().last().unwrap_or_default().trim().to_string();
    Regex::new(pattern).map_err(|e| format!("pattern {pattern:?}: {}", words(e)))
}

impl Step for Compiled {
    fn apply(&self, document: &mut Document) -> Verdict {
        for pattern in &self.drop {
            if let Some(found) = pattern.find(document.text()) {
                let shown: String = found.as_str().chars().take(60).collect();
                return Verdict::drop("patterns.drop", format!("{shown:?} at byte {}", found.start()));
            }
        }
        for (pattern, with) in &self.replace {
            match replaced(document.text(), pattern, with, TEXT_BYTES_MAX) {
                Ok(None) => {}
                Ok(Some(text)) => document.set_text(text),
                Err(bytes) => return Verdict::drop("patterns.length", format!("{bytes} bytes after `{pattern}`")),
            }
        }
        if document.text().trim().is_empty() {
            Verdict::drop("patterns.empty", "no text is left")
        } else {
            Verdict::Keep
        }
    }
}

/// The text with all matches replaced, or nothing if there are none.
///
/// # Errors
/// The bytes of a text that grows over the limit.
fn replaced(text: &str, pattern: &Regex, with: &str, bytes_max: usize) -> Result<Option<String>, usize> {
    let (mut made, mut end) = (String::new(), 0);
    for groups in pattern.captures_iter(text) {
        let found = groups.get_match();
        made.push_str(&text[end..found.start()]);
        groups.expand(with, &mut made);
        end = found.end();
        if made.len() > bytes_max {
            return Err(made.len());
        }
    }
    if end == 0 && made.is_empty() {
        return Ok(None);
    }
    made.push_str(&text[end..]);
    if made.len() > bytes_max { Err(made.len()) } else { Ok(Some(made)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::tests::refused;

    fn apply(settings: &str, text: &str) -> (Verdict, Document) {
        let around = Surroundings { directory: std::path::Path::new("."), seed: 0 };
        let Ok(Made::Alone(step)) = crate::steps::make::<Patterns>(settings.parse().unwrap(), around) else {
            panic!("{settings}")
        };
        let mut document = Document::new("a#0", text);
        (step.apply(&mut document), document)
    }

    const STORIES: &str = r#"
        drop = ['License: \[CC-BY-NC']
        replace = [
            { pattern = '(?m)^##\n', with = "" },
            { pattern = '(?s)\n\* License:.*', with = "\n" },
            { pattern = '(\d+) USD', with = '$$$1' },
        ]"#;

    #[test]
    fn documents_are_dropped_and_text_is_replaced_in_order() {
        let (verdict, document) = apply(STORIES, "# Hat\n\n##\nIt is 3 USD.\n\n##\n* License: [CC-BY]\n* Text: Ann\n");
        assert_eq!((verdict, document.text()), (Verdict::Keep, "# Hat\n\nIt is $3.\n\n"));
        let (verdict, document) = apply(STORIES, "# Hat\n* License: [CC-BY-NC]\n");
        assert_eq!(verdict, Verdict::drop("patterns.drop", "\"License: [CC-BY-NC\" at byte 8"));
        assert_eq!(document.text(), "# Hat\n* License: [CC-BY-NC]\n");
        let (verdict, _) = apply(STORIES, "##\n");
        assert_eq!(verdict, Verdict::drop("patterns.empty", "no text is left"));
    }

    #[test]
    fn a_text_without_a_match_is_not_set_again() {
        let (_, document) = apply(STORIES, "Nothing of it.");
        assert_eq!(document.edits(), Document::new("a#0", "").edits());
        let (_, document) = apply("replace = [{ pattern = '^', with = '> ' }]", "Empty matches count.");
        assert_eq!(document.text(), "> Empty matches count.");
    }

    #[test]
    fn a_text_does_not_grow_over_the_limit() {
        let grow = |pattern: &str, bytes_max| replaced("aaaa", &Regex::new(pattern).unwrap(), "$0$0", bytes_max);
        assert_eq!(grow("a", 8), Ok(Some("a".repeat(8))));
        assert_eq!(grow("a", 7), Err(8));
        assert_eq!(grow("^a", 4), Err(5));
        assert_eq!(grow("b", 0), Ok(None));
    }

    #[test]
    fn settings_make_sense() {
        assert_eq!(refused::<Patterns>(""), "it has neither `drop` nor `replace`");
        assert_eq!(refused::<Patterns>("drop = ['(a']"), "pattern \"(a\": error: unclosed group");
        assert!(refused::<Patterns>("drop = ['a{1000}{1000}']").contains("exceeds size limit"));
        assert!(refused::<Patterns>("replace = [{ pattern = 'a' }]").contains("with"));
    }
}
