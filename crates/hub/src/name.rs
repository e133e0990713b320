//! Names of models at the hub: `org/name`, with a revision, a GGUF file or a quantisation tag.

use std::fmt;

use crate::error::HubError;

const PART_MAX: usize = 96;
const NAME_MAX: usize = 1024;

/// A model at the hub.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// `org/name`.
    pub repository: String,
    /// Branch, tag or commit; `main` where there is none.
    pub revision: Option<String>,
    /// A GGUF file's path in the repository, or a quantisation tag such as `Q4_K_M`.
    pub file: Option<String>,
}

impl Name {
    /// Read `org/name`, then at most one `@revision` and one `:file.gguf` or `:TAG`, in any order.
    pub fn parse(text: &str) -> Result<Name, HubError> {
        let wrong = |why: String| HubError::Name { text: text.chars().take(200).collect(), why };
        if text.len() > NAME_MAX {
            return Err(wrong(format!("it has {} bytes and at most {NAME_MAX} are read", text.len())));
        }
        let end = text.find(['@', ':']).unwrap_or(text.len());
        let (repository, mut rest) = text.split_at(end);
        check_repository(repository).map_err(wrong)?;
        let mut name = Name { repository: repository.to_string(), revision: None, file: None };
        while let Some(mark) = rest.chars().next() {
            let body = &rest[1..];
            let end = body.find(['@', ':']).unwrap_or(body.len());
            let (value, after) = body.split_at(end);
            check_path(value).map_err(wrong)?;
            let (slot, what) = if mark == '@' {
                (&mut name.revision, "revision")
            } else {
                if !is_gguf(value) && (value.contains('/') || value.contains('.')) {
                    let why = format!("{value:?} is neither a .gguf file nor a tag such as Q4_K_M");
                    return Err(wrong(why));
                }
                (&mut name.file, "file or tag")
            };
            if slot.replace(value.to_string()).is_some() {
                return Err(wrong(format!("it has more than one {what}")));
            }
            rest = after;
        }
        Ok(name)
    }

    /// Whether `text` reads as a name, and not as the path of a weight file. Look for a path on disk first.
    pub fn looks_like(text: &str) -> bool {
        Name::parse(text).is_ok_and(|name| !is_gguf(&name.repository) && !name.repository.ends_with(".safetensors"))
    }

    /// The same checks over the fields, which a caller may have filled by hand.
    pub(crate) fn check(&self) -> Result<(), HubError> {
        match Name::parse(&self.to_string()) {
            Ok(parsed) if parsed == *self => Ok(()),
            Ok(_) => Err(HubError::Name { text: self.to_string(), why: "its parts hold '@' or ':'".to_string() }),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    pub(crate) fn directory(&self) -> String {
        format!("models--{}", self.repository.replace('/', "--"))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        if let Some(file) = &self.file {
            write!(f, ":{file}")?;
        }
        Ok(())
    }
}

pub(crate) fn is_gguf(path: &str) -> bool {
    path.len() > 5 && path.to_ascii_lowercase().ends_with(".gguf")
}

/// `org/name` by the hub's own rules.
pub(crate) fn check_repository(repository: &str) -> Result<(), String> {
    let parts: Vec<&str> = repository.split('/').collect();
    if parts.len() != 2 {
        return Err(format!("{repository:?} is not two parts with one slash between"));
    }
    for part in parts {
        check_part(part)?;
        // The cache writes the slash as "--", so it must not be part of a name. The hub does not allow it either.
        if part.contains("--") {
            return Err(format!("{part:?} holds \"--\""));
        }
        if part.starts_with(['-', '.']) || part.ends_with(['-', '.']) {
            return Err(format!("{part:?} starts or ends with '-' or '.'"));
        }
    }
    Ok(())
}

/// A revision or a file: parts with slashes between.
fn check_path(path: &str) -> Result<(), String> {
    path.split('/').try_for_each(check_part)
}

fn check_part(part: &str) -> Result<(), String> {
    if part.is_empty() {
        return Err("a part is empty".to_string());
    }
    if part.len() > PART_MAX {
        return Err(format!("a part has {} characters and at most {PART_MAX} are allowed", part.len()));
    }
    if part == "." || part.contains("..") {
        return Err(format!("{part:?} is not allowed as a part"));
    }
    if let Some(c) = part.chars().find(|c| !(c.is_ascii_alphanumeric() || "-_.+".contains(*c))) {
        return Err(format!("the character {c:?} is not allowed"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written_back() {
        for (text, revision, file) in [
            ("org/name", None, None),
            ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", None, None),
            ("org/name:model-Q8_0.gguf", None, Some("model-Q8_0.gguf")),
            ("org/name:Q4_K_M", None, Some("Q4_K_M")),
            ("org/name@v1.0", Some("v1.0"), None),
            (
                "org/name@refs/pr/3:UD-Q2_K_XL/a-00001-of-00002.gguf",
                Some("refs/pr/3"),
                Some("UD-Q2_K_XL/a-00001-of-00002.gguf"),
            ),
        ] {
            let name = Name::parse(text).unwrap();
            assert_eq!((name.revision.as_deref(), name.file.as_deref()), (revision, file), "{text}");
            assert_eq!(name.to_string(), text);
            assert!(Name::looks_like(text));
        }
        assert_eq!(Name::parse("a/b:Q8_0@dev").unwrap(), Name::parse("a/b@dev:Q8_0").unwrap());
    }

    #[test]
    fn what_is_no_name_is_refused_in_one_line() {
        let long = format!("org/{}", "a".repeat(97));
        let huge = "a/b".repeat(10_000);
        for text in [
            "",
            "/",
            "org",
            "org/",
            "/name",
            "/etc/passwd",
            "a/b/c",
            "../x",
            "a/..",
            "a/.",
            "a/b..c",
            "a/b--c",
            "a/-b",
            "a/b.",
            "./model",
            "~/model",
            "a/b:",
            "a/b@",
            "a/b@@c",
            "a/b@c@d",
            "a/b:Q4:Q5",
            "a/b:../x.gguf",
            "a/b:/x.gguf",
            "a/b:x/../y.gguf",
            "a/b:model.bin",
            "a/b\n",
            "a/b\0",
            "a/b c",
            "a/b:x\u{7}.gguf",
            "a\\b",
            "a/b@..",
            "a/é",
            "C:\\x",
            &long,
            &huge,
        ] {
            let error = Name::parse(text).unwrap_err().to_string();
            assert!(!error.contains('\n') && error.len() < 600, "{error}");
            assert!(!Name::looks_like(text), "{text}");
        }
        assert!(!Name::looks_like("models/x.gguf"));
        assert!(!Name::looks_like("models/model.safetensors"));
    }
}
