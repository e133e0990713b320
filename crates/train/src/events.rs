//! Scalars for TensorBoard: a file of records, each a protocol buffer `tensorflow.Event` (tensorflow/core/util/event.proto) between its length and
//! checksums (tensorflow/core/lib/io/record_writer.h).

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// A file of events that is being written.
pub struct Events {
    file: File,
    path: PathBuf,
}

impl Events {
    /// Starts a file below `directory` for the steps after `step`: TensorBoard forgets those that an earlier file has after it.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn create(directory: &Path, step: u64, seconds: f64) -> Result<Events, Error> {
        std::fs::create_dir_all(directory).map_err(Error::io(directory))?;
        let name = format!("events.out.tfevents.{:010}.farthing.{}", seconds as u64, std::process::id());
        let path = directory.join(name);
        let file = data::atomic::create_anew(&path)?;
        let mut events = Events { file, path };
        let version = bytes_field(3, b"brain.Event:2");
        events.write(&[time_field(seconds), version].concat())?;
        // SessionLog with the status START.
        let started = bytes_field(7, &number_field(1, 1));
        events.write(&[time_field(seconds), number_field(2, step + 1), started].concat())?;
        Ok(events)
    }

    /// Writes scalars of a step, at this time in seconds since 1970.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn scalars(&mut self, step: u64, seconds: f64, scalars: &[(&str, f64)]) -> Result<(), Error> {
        self.write(&event(step, seconds, scalars))
    }

    fn write(&mut self, event: &[u8]) -> Result<(), Error> {
        self.file.write_all(&record(event)).map_err(Error::io(&self.path))
    }
}

fn event(step: u64, seconds: f64, scalars: &[(&str, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in scalars {
        let value = [bytes_field(1, tag.as_bytes()), vec![2 << 3 | 5], (*value as f32).to_le_bytes().to_vec()].concat();
        summary.extend(bytes_field(1, &value));
    }
    [time_field(seconds), number_field(2, step), bytes_field(5, &summary)].concat()
}

/// A record: length and bytes, each with its masked checksum.
fn record(bytes: &[u8]) -> Vec<u8> {
    let masked = |bytes: &[u8]| crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes();
    let length = (bytes.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), bytes, &masked(bytes)].concat()
}

/// `Event.wall_time`.
fn time_field(seconds: f64) -> Vec<u8> {
    [&[1 << 3 | 1], &seconds.to_le_bytes()[..]].concat()
}

fn number_field(field: u8, number: u64) -> Vec<u8> {
    [vec![field << 3], varint(number)].concat()
}

fn bytes_field(field: u8, bytes: &[u8]) -> Vec<u8> {
    [vec![field << 3 | 2], varint(bytes.len() as u64), bytes.to_vec()].concat()
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Records that `RecordWriter` of tensorboard 2.21.0 wrote for the same events.
    #[test]
    fn bytes_are_those_of_tensorboard() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = Events::create(folder.path(), 299, 1_700_000_000.25).unwrap();
        events.scalars(300, 1_700_000_001.5, &[("train/loss", 2.125), ("rate", 0.001)]).unwrap();
        let written = std::fs::read(&events.path).unwrap();
        assert_eq!(hex(&written), EXPECTED.concat());
        let name = events.path.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("events.out.tfevents.1700000000."), "{name}");
    }

    const EXPECTED: [&str; 3] = [
        "1800000000000000a37f4b220900001040fc54d9411a0d627261696e2e4576656e743a32338d2fe9",
        "100000000000000095fbfe180900001040fc54d94110ac023a0208016b3b88f1",
        "2e00000000000000c5cb57fa0900006040fc54d94110ac022a200a110a0a747261696e2f6c6f737315000008400a0b0a0472617465156f12833a605fabd5",
    ];
}
