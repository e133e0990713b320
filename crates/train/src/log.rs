//! The log of a training: a JSON object a line, every step once.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::error::Error;

/// Shows the lines of a log, each without its end. A line that is not finished is not shown.
///
/// # Errors
/// A line that is longer than any log's; where the system refuses.
pub fn each_line(path: &Path, mut show: impl FnMut(&[u8])) -> Result<(), Error> {
    let file = File::open(path).map_err(Error::io(path))?;
    read_lines(path, &file, |line| show(&line[..line.len() - 1]))
}

/// Shows whole lines with their ends.
fn read_lines(path: &Path, file: &File, mut show: impl FnMut(&[u8])) -> Result<(), Error> {
    let (mut reader, mut line, mut position) = (BufReader::new(file), Vec::new(), 0u64);
    loop {
        line.clear();
        let read = reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line).map_err(Error::io(path))?;
        if line.last() == Some(&b'\n') {
            position += read as u64;
            show(&line);
        } else if (read as u64) < LINE_BYTES_MAX {
            return Ok(());
        } else {
            let problem = format!(
                "a line from byte {position} on has {LINE_BYTES_MAX} bytes or more: it is no log of a training; move it away"
            );
            return Err(Error::file(path, problem));
        }
    }
}

/// Bytes of a line: far more than one of many layers has.
const LINE_BYTES_MAX: u64 = 4 << 20;

/// A log that lines are appended to.
pub struct Log {
    file: File,
    /// Bytes of whole lines.
    length: u64,
}

#[derive(Deserialize)]
struct Numbered {
    step: Option<u64>,
}

impl Log {
    /// Opens the log of a training that goes on behind `step`, and how many steps were cut from it: those after `step`, which are taken again,
    /// and a line that a kill left unfinished. The cut is one truncation: the lines before it are never written anew.
    ///
    /// # Errors
    /// A line that is longer than any log's; where the system refuses.
    pub fn open(path: &Path, step: u64) -> Result<(Log, u64), Error> {
        let file = OpenOptions::new().create(true).append(true).read(true).open(path).map_err(Error::io(path))?;
        let (mut length, mut cut) = (0u64, 0);
        read_lines(path, &file, |line| {
            let number = serde_json::from_slice::<Numbered>(line).ok().and_then(|line| line.step);
            cut += u64::from(number.is_some_and(|number| number > step));
            if cut == 0 {
                length += line.len() as u64;
            }
        })?;
        file.set_len(length).and_then(|()| file.sync_all()).map_err(Error::io(path))?;
        Ok((Log { file, length }, cut))
    }

    /// Appends a line.
    ///
    /// # Errors
    /// Where the system refuses, such as on a full disk: then no part of the line is in the log.
    pub fn write(&mut self, line: &Value) -> std::io::Result<()> {
        let text = format!("{line}\n");
        match self.file.write_all(text.as_bytes()) {
            Ok(()) => {
                self.length += text.len() as u64;
                Ok(())
            }
            Err(error) => {
                // What was refused first is what a person needs to know.
                let _ = self.file.set_len(self.length);
                Err(error)
            }
        }
    }

    /// Waits until all lines are on the disk.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn sync(&self) -> std::io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_log_that_goes_on_has_every_step_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let (mut log, cut) = Log::open(&path, 0).unwrap();
        assert_eq!(cut, 0);
        let evaluation = json!({"tokens": 20, "held_out_loss": 3.0});
        for step in 1..=4 {
            log.write(&json!({"step": step})).unwrap();
            if step == 2 {
                log.write(&evaluation).unwrap();
            }
        }
        // Killed within a line.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"step\": 5, \"lo").unwrap();
        let before = std::fs::read_to_string(&path).unwrap();
        let (mut log, cut) = Log::open(&path, 2).unwrap();
        assert_eq!(cut, 2);
        let kept = std::fs::read_to_string(&path).unwrap();
        assert!(before.starts_with(&kept));
        assert_eq!(kept, format!("{{\"step\":1}}\n{{\"step\":2}}\n{evaluation}\n"));
        log.write(&json!({"step": 3})).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{kept}{{\"step\":3}}\n"));
        // Nothing is cut where nothing is taken again.
        assert_eq!(Log::open(&path, 3).unwrap().1, 0);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{kept}{{\"step\":3}}\n"));
    }

    #[test]
    fn a_file_that_is_no_log_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        std::fs::write(&path, vec![b'x'; LINE_BYTES_MAX as usize]).unwrap();
        let error = Log::open(&path, 1).err().expect("it is refused").to_string();
        assert!(error.contains("log.jsonl: a line from byte 0 on has 4194304 bytes"), "{error}");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), LINE_BYTES_MAX);
    }
}
