//! Bytes to text: UTF-8 first, then the encoding that the recipe names or that is guessed

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use serde::Deserialize;
use serde::de::Error as _;

/// How text is encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Encoding {
    /// UTF-8, or UTF-16 with a byte order mark; what is neither is guessed document by document.
    #[default]
    Auto,
    /// One of the WHATWG encoding standard. Bytes that it has not are damage.
    Named(&'static encoding_rs::Encoding),
}

impl<'de> Deserialize<'de> for Encoding {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Encoding, D::Error> {
        let name = String::deserialize(deserializer)?;
        if name.eq_ignore_ascii_case("auto") {
            return Ok(Encoding::Auto);
        }
        let unknown = || {
            D::Error::custom(format!("encoding = {name:?} is not known; auto, utf-8, windows-1252, shift_jis, ... are"))
        };
        encoding_rs::Encoding::for_label(name.as_bytes()).map(Encoding::Named).ok_or_else(unknown)
    }
}

/// Bytes of a document that its encoding is guessed from.
const GUESSED_FROM: usize = 64 << 10;

/// Text, and the encoding if it was guessed.
#[derive(Debug, PartialEq)]
pub struct Decoded {
    /// The text, without a byte order mark.
    pub text: String,
    /// The encoding that was taken for the likeliest, where nothing told.
    pub guessed: Option<&'static str>,
}

/// Decodes a document.
///
/// # Errors
/// In words: bytes that are not in the encoding, or no text.
pub fn decode(bytes: Vec<u8>, encoding: Encoding) -> Result<Decoded, String> {
    let known = |text: String| Ok(Decoded { text, guessed: None });
    let marked = encoding_rs::Encoding::for_bom(&bytes);
    let strict = match (encoding, marked) {
        (Encoding::Named(encoding), _) => encoding,
        (Encoding::Auto, Some((encoding, _))) => encoding,
        (Encoding::Auto, None) => encoding_rs::UTF_8,
    };
    if strict == encoding_rs::UTF_8 {
        let invalid = match String::from_utf8(bytes) {
            Ok(text) => return known(without_mark(text)),
            Err(invalid) => invalid,
        };
        if encoding != Encoding::Auto || marked.is_some() {
            return Err(format!("no UTF-8 at byte {}", invalid.utf8_error().valid_up_to()));
        }
        return guess(&invalid.into_bytes());
    }
    match strict.decode_with_bom_removal(&bytes) {
        (text, false) => known(text.into_owned()),
        (_, true) => Err(format!("bytes that {} has not", strict.name())),
    }
}

fn without_mark(text: String) -> String {
    match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_string(),
        None => text,
    }
}

fn guess(bytes: &[u8]) -> Result<Decoded, String> {
    if memchr::memchr(0, bytes).is_some() {
        return Err("no text: bytes that are 0, and no UTF-8".into());
    }
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
    detector.feed(&bytes[..bytes.len().min(GUESSED_FROM)], bytes.len() <= GUESSED_FROM);
    let encoding = detector.guess(None, Utf8Detection::Deny);
    match encoding.decode_without_bom_handling(bytes) {
        (text, false) => Ok(Decoded { text: text.into_owned(), guessed: Some(encoding.name()) }),
        (_, true) => Err(format!("no UTF-8, and bytes that {}, the likeliest encoding, has not", encoding.name())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Encoding {
        Encoding::Named(encoding_rs::Encoding::for_label(name.as_bytes()).unwrap())
    }

    #[test]
    fn utf_8_is_taken_as_it_is_and_byte_order_marks_go() {
        for encoding in [Encoding::Auto, named("utf-8")] {
            assert_eq!(decode("Äpfel".into(), encoding).unwrap().text, "Äpfel");
            assert_eq!(decode("\u{feff}Äpfel".into(), encoding).unwrap().text, "Äpfel");
        }
        let little: Vec<u8> = [0xfeff].into_iter().chain("Äpfel".encode_utf16()).flat_map(u16::to_le_bytes).collect();
        assert_eq!(decode(little, Encoding::Auto), Ok(Decoded { text: "Äpfel".into(), guessed: None }));
        let big: Vec<u8> = [0xfeff].into_iter().chain("Äpfel".encode_utf16()).flat_map(u16::to_be_bytes).collect();
        assert_eq!(decode(big, Encoding::Auto).unwrap().text, "Äpfel");
    }

    #[test]
    fn other_encodings_are_guessed_or_named() {
        let latin = b"Die sch\xf6nen \xc4pfel h\xe4ngen gr\xfcn und \xfcppig am Baum.".to_vec();
        let text = "Die schönen Äpfel hängen grün und üppig am Baum.";
        assert_eq!(
            decode(latin.clone(), Encoding::Auto),
            Ok(Decoded { text: text.into(), guessed: Some("windows-1252") })
        );
        assert_eq!(decode(latin.clone(), named("latin1")), Ok(Decoded { text: text.into(), guessed: None }));
        assert_eq!(decode(latin, named("utf-8")), Err("no UTF-8 at byte 7".into()));
        let japanese = b"\x82\xb1\x82\xf1\x82\xc9\x82\xbf\x82\xcd".to_vec();
        assert_eq!(decode(japanese, named("shift_jis")).unwrap().text, "こんにちは");
        assert!(decode(b"\x82\xb1\x82".to_vec(), named("shift_jis")).is_err());
    }

    #[test]
    fn binary_files_are_no_text() {
        assert!(decode(b"\x7fELF\x02\x01\x01\x00\x00\xff\xfe\x80".to_vec(), Encoding::Auto).is_err());
        assert!(decode(b"\xff\xfe\x00\xd8\x00".to_vec(), Encoding::Auto).is_err());
    }
}
