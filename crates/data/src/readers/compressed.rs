//! Files as they are or compressed by gzip or zstd, told by their first bytes: read as a stream, with a limit on how far they expand

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;

use flate2::bufread::GzDecoder;

use crate::store::{Handle, Location};

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// What a file begins with that is compressed in a way that is not read here, and what unpacks it.
const OTHERS: &[(&[u8], &str)] = &[
    (b"PK\x03\x04", "a zip archive; `unzip` it"),
    (b"\xfd7zXZ\x00", "compressed by xz; `xz -d` it"),
    (b"BZh", "compressed by bzip2; `bzip2 -d` it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; `7z x` it"),
];

/// Bytes that any compressed file may give.
const EXPANDED_FREELY: u64 = 64 << 20;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, of one member or several.
    Gzip,
    /// Zstandard frames.
    Zstd,
}

impl Compression {
    /// What these first bytes of a file say.
    ///
    /// # Errors
    /// In words: a compression that is not read here.
    pub fn of(first: &[u8]) -> Result<Compression, String> {
        if let Some((_, what)) = OTHERS.iter().find(|(magic, _)| first.starts_with(magic)) {
            return Err(format!("{what} first"));
        }
        Ok(match first {
            _ if first.starts_with(GZIP) => Compression::Gzip,
            _ if first.starts_with(ZSTD) || skippable(first) => Compression::Zstd,
            _ => Compression::None,
        })
    }

    /// What the first bytes of this file say.
    ///
    /// # Errors
    /// What opening and reading gives.
    pub fn of_file(file: &Location) -> io::Result<Result<Compression, String>> {
        Ok(Compression::of(&file.first(8)?))
    }
}

/// A zstd frame without content, which `pzstd` and others put first.
fn skippable(first: &[u8]) -> bool {
    first.len() >= 4 && first[0] & 0xf0 == 0x50 && first[1..4] == [0x2a, 0x4d, 0x18]
}

/// The bytes of the file itself, counted; tells its own failures from damage found above it.
struct Raw<R> {
    input: R,
    state: Rc<State>,
}

#[derive(Default)]
struct State {
    read: Cell<u64>,
    failed: Cell<bool>,
}

impl<R: Read> Read for Raw<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer);
        match &read {
            Ok(n) => self.state.read.set(self.state.read.get() + *n as u64),
            Err(error) => self.state.failed.set(error.kind() != io::ErrorKind::Interrupted),
        }
        read
    }
}

/// What a gzip member is read from: bytes of its header that were looked at already, then the file.
type Member<R> = io::Chain<io::Cursor<Vec<u8>>, BufReader<Raw<R>>>;

enum Decoder<R: Read> {
    Plain(BufReader<Raw<R>>),
    Gzip(Box<GzDecoder<Member<R>>>),
    Zstd(zstd::Decoder<'static, BufReader<Raw<R>>>),
    /// Read to its end, or to damage after which nothing can be read.
    Over,
}

/// What a file holds, decompressed as it is read.
pub struct Input<R: Read> {
    decoder: Decoder<R>,
    state: Rc<State>,
    compressed: bool,
    given: u64,
    expansion_max: u64,
}

/// Opens a file from this byte on. Only a file that is not compressed is read from elsewhere than its begin.
///
/// # Errors
/// What opening and reading gives.
pub fn open(file: &Location, from: u64, expansion_max: u64) -> io::Result<Input<Handle>> {
    let file = file.open_at(from)?;
    if from == 0 { Input::new(file, expansion_max) } else { Ok(Input::plain(file)) }
}

fn member<R: Read>(header: Vec<u8>, input: BufReader<Raw<R>>) -> Decoder<R> {
    Decoder::Gzip(Box::new(GzDecoder::new(io::Cursor::new(header).chain(input))))
}

fn damage(problem: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem.into())
}

impl<R: Read> Input<R> {
    fn buffered(input: R) -> (BufReader<Raw<R>>, Rc<State>) {
        let state = Rc::<State>::default();
        (BufReader::with_capacity(1 << 17, Raw { input, state: state.clone() }), state)
    }

    /// Reads bytes as they are.
    pub fn plain(input: R) -> Input<R> {
        let (reader, state) = Self::buffered(input);
        Input { decoder: Decoder::Plain(reader), state, compressed: false, given: 0, expansion_max: u64::MAX }
    }

    /// Reads bytes as their first ones say.
    ///
    /// # Errors
    /// What reading gives.
    pub fn new(input: R, expansion_max: u64) -> io::Result<Input<R>> {
        let (mut reader, state) = Self::buffered(input);
        let compression = Compression::of(reader.fill_buf()?).map_err(damage)?;
        let decoder = match compression {
            Compression::None => Decoder::Plain(reader),
            Compression::Gzip => member(Vec::new(), reader),
            Compression::Zstd => Decoder::Zstd(zstd::Decoder::with_buffer(reader)?),
        };
        Ok(Input { decoder, state, compressed: compression != Compression::None, given: 0, expansion_max })
    }

    /// Whether an error is damage of what is compressed, and not a failure to read the file.
    pub fn is_damage(&self) -> bool {
        self.compressed && !self.state.failed.get()
    }

    /// After damage: looks for the next member of a gzip file. False if there is none, or no other can be found.
    ///
    /// # Errors
    /// What reading gives.
    pub fn resume(&mut self) -> io::Result<bool> {
        let Decoder::Gzip(decoder) = std::mem::replace(&mut self.decoder, Decoder::Over) else { return Ok(false) };
        let mut input = decoder.into_inner().into_inner().1;
        let mut last = [0u8; 4];
        loop {
            let bytes = input.fill_buf()?;
            if bytes.is_empty() {
                return Ok(false);
            }
            let place = bytes.iter().position(|byte| {
                last = [last[1], last[2], last[3], *byte];
                // Magic, deflate, no flags that are reserved.
                last[..3] == [0x1f, 0x8b, 8] && last[3] & 0xe0 == 0
            });
            let read = place.map_or(bytes.len(), |place| place + 1);
            input.consume(read);
            if place.is_some() {
                self.decoder = member(last.to_vec(), input);
                return Ok(true);
            }
        }
    }

    /// After a member of a gzip file: the next one, or the end.
    fn next_member(&mut self) -> io::Result<()> {
        let Decoder::Gzip(decoder) = std::mem::replace(&mut self.decoder, Decoder::Over) else { return Ok(()) };
        let mut input = decoder.into_inner().into_inner().1;
        loop {
            let bytes = input.fill_buf()?;
            match bytes.iter().position(|byte| *byte != 0) {
                // Tapes and some tools fill the last block with zeros.
                None if !bytes.is_empty() => {
                    let n = bytes.len();
                    input.consume(n);
                }
                None => return Ok(()),
                Some(zeros) => {
                    let begins = bytes[zeros] == GZIP[0];
                    input.consume(zeros);
                    self.decoder = member(Vec::new(), input);
                    return if begins { Ok(()) } else { Err(damage("bytes after the last gzip member")) };
                }
            }
        }
    }

    fn check_expansion(&self) -> io::Result<()> {
        let allowed = self.state.read.get().saturating_mul(self.expansion_max).max(EXPANDED_FREELY);
        if self.compressed && self.given > allowed {
            let (given, read) = (self.given, self.state.read.get());
            let problem = format!(
                "{read} compressed bytes give more than {given}, over expansion_max = {}: the rest is not read",
                self.expansion_max
            );
            return Err(damage(problem));
        }
        Ok(())
    }
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = match &mut self.decoder {
                Decoder::Plain(reader) => return reader.read(buffer),
                Decoder::Zstd(decoder) => decoder.read(buffer)?,
                Decoder::Gzip(decoder) => decoder.read(buffer)?,
                Decoder::Over => 0,
            };
            if read == 0 && !buffer.is_empty() && matches!(self.decoder, Decoder::Gzip(_)) {
                self.next_member()?;
                continue;
            }
            self.given += read as u64;
            if let Err(bomb) = self.check_expansion() {
                self.decoder = Decoder::Over;
                return Err(bomb);
            }
            return Ok(read);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> (Vec<u8>, Option<String>) {
        let mut input = Input::new(bytes, 250).unwrap();
        let mut out = Vec::new();
        let error = input.read_to_end(&mut out).err().map(|e| e.to_string());
        (out, error)
    }

    #[test]
    fn members_and_frames_follow_each_other() {
        let (one, two) = (gzip(b"one "), gzip(b"two"));
        assert_eq!(read(&[&one[..], &two[..]].concat()), (b"one two".to_vec(), None));
        assert_eq!(read(&[&one[..], &two[..], &[0; 300]].concat()), (b"one two".to_vec(), None));
        let frame = |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap();
        let skipped = [0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9];
        assert_eq!(read(&[&skipped[..], &frame(b"one "), &frame(b"two")].concat()), (b"one two".to_vec(), None));
        assert_eq!(read(b"plain"), (b"plain".to_vec(), None));
        assert_eq!(read(b""), (Vec::new(), None));
    }

    #[test]
    fn after_damage_the_next_member_is_read() {
        let mut damaged = gzip(&(0..20_000u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>());
        let middle = damaged.len() / 2;
        damaged[middle..middle + 40].fill(0xff);
        let bytes = [&gzip(b"first")[..], &damaged, &gzip(b"last")].concat();
        let mut input = Input::new(&bytes[..], 250).unwrap();
        let mut out = Vec::new();
        assert!(input.read_to_end(&mut out).is_err());
        assert!(input.is_damage() && out.starts_with(b"first"));
        out.clear();
        assert!(input.resume().unwrap());
        input.read_to_end(&mut out).unwrap();
        assert_eq!(out, b"last");
        assert!(!input.resume().unwrap());
    }

    #[test]
    fn truncated_and_trailing_bytes_are_damage() {
        let whole = gzip(b"some text that is long enough");
        for end in 1..whole.len() {
            let (out, error) = read(&whole[..end]);
            assert!(error.is_some() || (end < 2 && out == whole[..end]), "{end}");
        }
        let (out, error) = read(&[&whole[..], b"garbage"].concat());
        assert_eq!(
            (&out[..], error.as_deref()),
            (&b"some text that is long enough"[..], Some("bytes after the last gzip member"))
        );
        let frame = zstd::encode_all(&b"some text"[..], 3).unwrap();
        assert!(read(&frame[..frame.len() - 1]).1.is_some());
    }

    #[test]
    fn bombs_end_early() {
        let zeros = io::repeat(0).take(1 << 30);
        let mut bomb = zstd::encode_all(zeros, 1).unwrap();
        let mut input = Input::new(&bomb[..], 250).unwrap();
        let given = io::copy(&mut input, &mut io::sink()).unwrap_err();
        assert!(given.to_string().contains("expansion_max = 250"), "{given}");
        assert!(input.is_damage() && !input.resume().unwrap());
        assert!(input.given < EXPANDED_FREELY + (1 << 20));
        // What is allowed to expand is read whole.
        bomb = zstd::encode_all(io::repeat(0).take(EXPANDED_FREELY), 1).unwrap();
        assert_eq!(io::copy(&mut Input::new(&bomb[..], 1).unwrap(), &mut io::sink()).unwrap(), EXPANDED_FREELY);
    }

    #[test]
    fn other_archives_are_named() {
        let error = |bytes: &[u8]| Input::new(bytes, 250).err().unwrap().to_string();
        assert_eq!(error(b"PK\x03\x04...."), "a zip archive; `unzip` it first");
        assert!(error(b"\xfd7zXZ\x00..").contains("xz -d"));
    }

    #[test]
    fn a_failing_disk_is_no_damage() {
        struct Failing(Vec<u8>);
        impl Read for Failing {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                if self.0.is_empty() {
                    return Err(io::Error::other("bad sector"));
                }
                let n = buffer.len().min(self.0.len());
                buffer[..n].copy_from_slice(&self.0[..n]);
                self.0.drain(..n);
                Ok(n)
            }
        }
        let bytes = gzip(b"some text");
        let mut input = Input::new(Failing(bytes[..bytes.len() - 4].to_vec()), 250).unwrap();
        assert!(io::copy(&mut input, &mut io::sink()).is_err());
        assert!(!input.is_damage());
    }
}
