//! Conversations in files: `{"messages": [{"role": ..., "content": ...}]}`, as APIs take them.

use std::io::{ErrorKind, Write};
use std::path::Path;

use farthing::{Message, Role};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Failure;

/// Bytes of a file.
const FILE_BYTES_MAX: u64 = 16 << 20;

#[derive(Deserialize)]
struct Saved {
    messages: Vec<SavedMessage>,
}

#[derive(Deserialize)]
struct SavedMessage {
    role: String,
    content: Option<String>,
}

/// Write a conversation; only its owner can read a file that is new. It is written beside the file and renamed, so that a full disk
/// costs nothing that is there.
pub fn write(file: &Path, messages: &[Message]) -> std::io::Result<()> {
    let messages: Value = messages.iter().map(|m| m.clone().into_json(false)).collect();
    let json = serde_json::to_string_pretty(&json!({ "messages": messages }))?;
    // A link stays, and what it names is replaced.
    let target = file.canonicalize().unwrap_or_else(|_| file.to_path_buf());
    let directory = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut temporary = tempfile::Builder::new().prefix(".farthing-chat-").tempfile_in(directory)?;
    temporary.write_all((json + "\n").as_bytes())?;
    temporary.as_file().sync_all()?;
    if let Ok(there) = target.metadata() {
        temporary.as_file().set_permissions(there.permissions())?;
    }
    temporary.persist(&target).map_err(|e| e.error)?;
    Ok(())
}

/// Write a conversation where a person said; a file that holds something else stays.
pub fn save(file: &Path, messages: &[Message]) -> Result<(), Failure> {
    let failed = |why: String| Failure::failed(format!("{}: {why}", file.display()));
    // What is typed is text: bytes that are none were replaced when the line was read.
    if file.to_string_lossy().contains(char::REPLACEMENT_CHARACTER) {
        return Err(failed("the name is not UTF-8; give another name".to_string()));
    }
    if file.exists() && read(file).is_err() {
        return Err(failed("it is there and holds no conversation; give another name".to_string()));
    }
    // The error itself would name the temporary file.
    write(file, messages).map_err(|e| failed(format!("{}; {}", e.kind(), hint(&e))))
}

/// What to do about a conversation that could not be written.
fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => "give a file in a directory that is there",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "make room, or give a file on another disk",
        _ => "give a file that can be written",
    }
}

/// Read what `write` wrote.
pub fn read(file: &Path) -> Result<Vec<Message>, Failure> {
    let named = |why: String| Failure::failed(format!("{}: {why}; give a file that /save wrote", file.display()));
    let bytes = model::tensors::read_bounded(file, FILE_BYTES_MAX)?;
    let saved: Saved = serde_json::from_slice(&bytes).map_err(|e| named(e.to_string()))?;
    let roles = [Role::System, Role::User, Role::Assistant, Role::Tool];
    let message = |SavedMessage { role, content }: SavedMessage| {
        let known = roles.into_iter().find(|known| known.word() == role);
        known
            .map(|known| Message::new(known, content.unwrap_or_default()))
            .ok_or_else(|| named(format!("role {role:?}")))
    };
    saved.messages.into_iter().map(message).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A file that is replaced is never half written, stays what it was to others, and nothing stays beside it.
    #[test]
    fn a_file_is_replaced_whole() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("chat.json"), directory.path().join("link.json"));
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        write(&file, &[Message::user("one")]).unwrap();
        assert_eq!(mode(&file), 0o600);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        // Who has the old file open still reads all of it.
        let mut old = std::fs::File::open(&file).unwrap();
        write(&link, &[Message::user("two")]).unwrap();
        let mut text = String::new();
        old.read_to_string(&mut text).unwrap();
        assert!(text.contains("one"), "{text}");
        assert_eq!(read(&file).unwrap(), [Message::user("two")]);
        assert!(link.is_symlink() && mode(&file) == 0o640);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_conversation_comes_back_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("chat.json");
        let messages = vec![Message::system("Be brief."), Message::user("two\nlines"), Message::assistant("\u{4f60}")];
        write(&file, &messages).unwrap();
        assert_eq!(read(&file).unwrap(), messages);
        save(&file, &messages).unwrap();
        let other = directory.path().join("precious.txt");
        std::fs::write(&other, "mine").unwrap();
        assert!(save(&other, &messages).unwrap_err().to_string().contains("holds no conversation"));
        assert_eq!(std::fs::read(&other).unwrap(), b"mine");
        let told = |file: &Path| save(file, &messages).unwrap_err().to_string();
        let nowhere = told(&directory.path().join("none/a.json"));
        assert!(nowhere.contains("a directory that is there") && !nowhere.contains(".farthing-chat"), "{nowhere}");
        assert!(told(&directory.path().join("a\u{fffd}.json")).contains("not UTF-8"));
        assert!(hint(&ErrorKind::StorageFull.into()).contains("make room"));
        for (text, why) in [
            ("[]", "invalid length"),
            ("{\"messages\": 7}", "invalid type"),
            ("{\"messages\": [{\"role\": \"wizard\", \"content\": \"x\"}]}", "role \"wizard\""),
        ] {
            std::fs::write(&file, text).unwrap();
            let said = read(&file).unwrap_err().to_string();
            assert!(said.contains(why) && said.contains("give a file that /save wrote"), "{said}");
        }
    }
}
