//! Documents to tokens: special tokens where steps have marked them, everything else as the text it is

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use ahash::AHashMap;
use aho_corasick::{AhoCorasick, MatchKind};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokenizers::{AddedToken, Model, ModelWrapper, PostProcessorWrapper};

use super::growth::{GROWTH_MAX, growth};
use super::split::Splitter;
use crate::atomic::Digest;
use crate::panics::caught;
use crate::shards::run;
use crate::steps::marks::{self, MARKS, SPANS};
use crate::{Document, Error};

/// Largest description of a tokenizer. Published ones have up to 34 MB.
const JSON_BYTES_MAX: usize = 128 << 20;

/// Texts are encoded in pieces of at most so many bytes: the library needs some 50 bytes of memory for each.
const PIECE_BYTES_MAX: usize = 256 << 10;

/// Longest piece whose tokens are remembered, in bytes.
const REMEMBERED_BYTES: usize = 24;

/// Pieces whose tokens are remembered; then all are forgotten.
const REMEMBERED_MAX: usize = 1 << 17;

/// Settings: tokens around each document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ends {
    /// The token before each document; "" for none. Without it, what `tokenizer_config.json` names.
    pub bos: Option<String>,
    /// The token behind each document, which tells documents apart in a shard; "" for none. Without it, what `tokenizer_config.json` names.
    pub eos: Option<String>,
}

/// A tokenizer, shared by threads; each has an [`Encoder`] of its own.
pub struct Tokenizer {
    library: tokenizers::Tokenizer,
    fast: Option<Fast>,
    /// Ids of the tokens around a document.
    bos: Option<u32>,
    eos: Option<u32>,
    hash: [u8; 32],
    /// Bytes of each token, by id.
    bytes: Vec<Vec<u8>>,
    special: Vec<bool>,
}

/// What is needed to encode without the library's copies of the text.
struct Fast {
    splitter: Splitter,
    /// Tokens that stand for themselves wherever they are in a text, and their ids.
    added: Option<(AhoCorasick, Vec<u32>)>,
    /// GPT-2's character of each byte.
    characters: [char; 256],
}

impl Tokenizer {
    /// Opens a `tokenizer.json`, with the `tokenizer_config.json` beside it.
    ///
    /// # Errors
    /// A file that is no tokenizer, one with a different result each time, or without the tokens that are to stand around a document.
    pub fn open(path: &Path, ends: &Ends) -> Result<Tokenizer, Error> {
        let json = read_json(path)?;
        let beside = path.with_file_name("tokenizer_config.json");
        let config = match read_json(&beside) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| Error::file(&beside, e.to_string()))?,
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Value::Null,
            Err(e) => return Err(e),
        };
        Tokenizer::from_json(&json, &config, ends).map_err(|problem| Error::file(path, problem))
    }

    /// From the contents of both files.
    ///
    /// # Errors
    /// In words: see [`Tokenizer::open`].
    pub fn from_json(json: &[u8], config: &Value, ends: &Ends) -> Result<Tokenizer, String> {
        if json.len() > JSON_BYTES_MAX {
            return Err(format!("{} bytes; at most {JSON_BYTES_MAX} are read", json.len()));
        }
        let hash = *blake3::hash(json).as_bytes();
        let description: Description = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        let most = growth(&description.normalizer);
        if most > GROWTH_MAX {
            return Err(format!("its normalizer can make {most} bytes of one; at most {GROWTH_MAX} are taken"));
        }
        let mut library = guarded(|| tokenizers::Tokenizer::from_bytes(json))?;
        library.with_padding(None);
        library.with_truncation(None).map_err(|e| e.to_string())?;
        // It adds no tokens here, but would cut white space off the places of tokens.
        library.with_post_processor(None::<PostProcessorWrapper>);
        if let ModelWrapper::BPE(model) = library.get_model()
            && let Some(dropout) = model.dropout.filter(|&dropout| dropout > 0.0)
        {
            return Err(format!(
                "model.dropout is {dropout}: a text would have other tokens each time; set it to null"
            ));
        }
        // Marks are text unless a step has put them there: DeepSeek-Coder does not flag those for filling in as special.
        let mark = |piece: &str| piece.len() > 2 && piece.starts_with('<') && piece.ends_with('>');
        let added = library.get_added_tokens_decoder();
        let marks = added.values().filter(|token| mark(&token.content));
        let marks = marks.map(|token| AddedToken::from(token.content.clone(), true)).collect::<Vec<_>>();
        library.add_special_tokens(marks).map_err(|e| e.to_string())?;
        library.set_encode_special_tokens(true);

        let end = |name: &str, asked: &Option<String>| {
            let named = config[name].as_str().or(config[name]["content"].as_str());
            match asked.as_deref().or(named) {
                Some("") => Ok(None),
                Some(piece) => {
                    let id = library.token_to_id(piece);
                    id.map(Some).ok_or_else(|| format!("{name} {piece:?} is not in its vocabulary"))
                }
                None => {
                    Err(format!("it names no {name}; set it in tokenizer_config.json or in the recipe, \"\" for none"))
                }
            }
        };
        let (bos, eos) = (end("bos_token", &ends.bos)?, end("eos_token", &ends.eos)?);
        let fast = Fast::new(&description, &library);
        let (bytes, special) = vocabulary(&library)?;
        Ok(Tokenizer { library, fast, bos, eos, hash, bytes, special })
    }

    /// blake3 of `tokenizer.json`.
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// Number of ids: one more than the largest.
    pub fn vocabulary(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes that a token stands for; its name for a special one.
    ///
    /// # Panics
    /// If there is no such token.
    pub fn bytes(&self, id: u32) -> &[u8] {
        &self.bytes[id as usize]
    }

    /// Whether a token is a mark, not text.
    ///
    /// # Panics
    /// If there is no such token.
    pub fn is_special(&self, id: u32) -> bool {
        self.special[id as usize]
    }

    /// The token before each document and the one behind it.
    pub fn ends(&self) -> [Option<u32>; 2] {
        [self.bos, self.eos]
    }

    /// Appends the tokens of a text, by the library: what [`Encoder`] gives is the same.
    ///
    /// # Errors
    /// In words: a description that contradicts itself.
    pub fn encode_plainly(&self, text: &str, tokens: &mut Vec<u32>) -> Result<(), String> {
        let encoding = guarded(|| self.library.encode_fast(text, false))?;
        tokens.extend_from_slice(encoding.get_ids());
        Ok(())
    }
}

impl Fast {
    fn new(description: &Description, library: &tokenizers::Tokenizer) -> Option<Fast> {
        let splitter = Splitter::new(&description.pre_tokenizer)?;
        if !description.normalizer.is_null() || !matches!(library.get_model(), ModelWrapper::BPE(_)) {
            return None;
        }
        let added = library.get_added_tokens_decoder();
        let plain: Vec<(&u32, &AddedToken)> = added.iter().filter(|(_, token)| !token.special).collect();
        if plain.iter().any(|(_, token)| token.single_word || token.lstrip || token.rstrip) {
            return None;
        }
        let searched = || {
            let mut finder = AhoCorasick::builder();
            finder.match_kind(MatchKind::LeftmostLongest);
            let finder = finder.build(plain.iter().map(|(_, token)| &token.content)).ok()?;
            Some((finder, plain.iter().map(|&(&id, _)| id).collect()))
        };
        let added = if plain.is_empty() { None } else { Some(searched()?) };
        Some(Fast { splitter, added, characters: byte_characters() })
    }
}

/// Bytes of each token by id, and which are special.
fn vocabulary(library: &tokenizers::Tokenizer) -> Result<(Vec<Vec<u8>>, Vec<bool>), String> {
    let pieces = library.get_vocab(true);
    let count = pieces.values().max().map_or(0, |&id| id as usize + 1);
    // Ids follow from the number of pieces, but for gaps that people leave.
    if count > 2 * pieces.len() + 1024 {
        return Err(format!("its largest id is {}, but it has {} tokens", count - 1, pieces.len()));
    }
    let mut byte_of: AHashMap<char, u8> = AHashMap::new();
    for (byte, character) in byte_characters().into_iter().enumerate() {
        byte_of.insert(character, byte as u8);
    }
    let bytes_of = |piece: &str| -> Vec<u8> {
        let bytes: Option<Vec<u8>> = piece.chars().map(|c| byte_of.get(&c).copied()).collect();
        bytes.unwrap_or_else(|| piece.replace('\u{2581}', " ").into_bytes())
    };
    let (mut bytes, mut special) = (vec![Vec::new(); count], vec![false; count]);
    let added = library.get_added_tokens_decoder();
    for (piece, id) in pieces {
        let token = added.get(&id);
        bytes[id as usize] = token.map_or_else(|| bytes_of(&piece), |token| token.content.clone().into_bytes());
        special[id as usize] = token.is_some_and(|token| token.special);
    }
    Ok((bytes, special))
}

/// GPT-2's table: the printable character of each byte.
pub(super) fn byte_characters() -> [char; 256] {
    let mut next = 256;
    std::array::from_fn(|byte| match byte as u8 {
        printable @ (b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) => printable as char,
        _ => {
            next += 1;
            char::from_u32(next - 1).expect("below the surrogates")
        }
    })
}

/// The library panics on descriptions that contradict themselves.
fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    let first_line = |error: tokenizers::Error| error.to_string().lines().next().unwrap_or_default().to_string();
    caught(|| work().map_err(first_line)).map_err(|problem| format!("no tokenizer: {problem}"))
}

/// The parts of a description that are looked at here. A vocabulary is left to the library.
#[derive(Deserialize)]
struct Description {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
}

/// Reads `tokenizer.json` or what stands beside it, up to a limit.
///
/// # Errors
/// A file that is not there, is none, or is larger.
pub fn read_json(path: &Path) -> Result<Vec<u8>, Error> {
    if !std::fs::metadata(path).map_err(Error::io(path))?.is_file() {
        return Err(Error::file(path, "not a file; name a tokenizer.json"));
    }
    let (file, mut json) = (File::open(path).map_err(Error::io(path))?, Vec::new());
    file.take(JSON_BYTES_MAX as u64 + 1).read_to_end(&mut json).map_err(Error::io(path))?;
    if json.len() > JSON_BYTES_MAX {
        return Err(Error::file(path, format!("more than {JSON_BYTES_MAX} bytes, which no tokenizer needs")));
    }
    Ok(json)
}

/// Encodes documents; remembers the tokens of short pieces.
pub struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    /// By level: where the tokens of a piece are in `tokens`.
    remembered: Vec<AHashMap<Box<str>, Range<u32>>>,
    tokens: Vec<u32>,
    count: usize,
    word: String,
}

impl<'a> Encoder<'a> {
    /// An encoder that remembers nothing yet.
    pub fn new(tokenizer: &'a Tokenizer) -> Encoder<'a> {
        let levels = tokenizer.fast.as_ref().map_or(0, |fast| fast.splitter.levels() + 1);
        let remembered = vec![AHashMap::new(); levels];
        Encoder { tokenizer, remembered, tokens: Vec::new(), count: 0, word: String::new() }
    }

    /// The tokens of a document, with those around it.
    ///
    /// # Errors
    /// In words: marks that are no special tokens or do not fit the text.
    pub fn document(&mut self, document: &Document, tokens: &mut Vec<u32>) -> Result<(), String> {
        tokens.clear();
        tokens.extend(self.tokenizer.bos);
        let text = document.text();
        let mut at = 0;
        for mark in marks::of(document, MARKS)? {
            self.text(&text[at..mark.start], tokens)?;
            let piece = &text[mark.clone()];
            tokens.push(self.tokenizer.library.token_to_id(piece).ok_or_else(|| {
                let id = &document.id;
                format!("{piece:?}, a mark in document {id:?}, is not in the vocabulary; add it to the special tokens")
            })?);
            at = mark.end;
        }
        self.text(&text[at..], tokens)?;
        // A mark that ends the last turn is the end of the document too.
        let ended = at > 0 && at == text.len() && tokens.last() == self.tokenizer.eos.as_ref();
        if !ended {
            tokens.extend(self.tokenizer.eos);
        }
        Ok(())
    }

    /// As [`Encoder::document`], and tells where each token's text is: the mark and text of the document, or nowhere for what stands around it.
    ///
    /// # Errors
    /// As [`Encoder::document`].
    fn places(&mut self, document: &Document, tokens: &mut Vec<u32>) -> Result<Vec<Range<usize>>, String> {
        self.document(document, tokens)?;
        let text = document.text();
        let mut places = Vec::with_capacity(tokens.len());
        places.extend(self.tokenizer.bos.map(|_| 0..0));
        let mut at = 0;
        for mark in marks::of(document, MARKS)? {
            self.places_in(text, at..mark.start, tokens, &mut places)?;
            places.push(mark.clone());
            at = mark.end;
        }
        self.places_in(text, at..text.len(), tokens, &mut places)?;
        // At most the end token is left.
        if !(tokens.len().saturating_sub(1)..=tokens.len()).contains(&places.len()) {
            return Err(format!("{} places of {} tokens in document {:?}", places.len(), tokens.len(), document.id));
        }
        places.resize(tokens.len(), text.len()..text.len());
        Ok(places)
    }

    /// The places of the tokens of a text without marks, which begin in `tokens` where `places` end.
    fn places_in(
        &self,
        text: &str,
        range: Range<usize>,
        tokens: &[u32],
        places: &mut Vec<Range<usize>>,
    ) -> Result<(), String> {
        let (mut at, mut rest) = (range.start, &text[range]);
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(cut(rest));
            let first = places.len();
            for &token in &tokens[first..] {
                let bytes = self.tokenizer.bytes(token);
                let from = places.last().filter(|_| places.len() > first).map_or(at, |place| place.end);
                if from == at + piece.len() || !text.as_bytes()[from..at + piece.len()].starts_with(bytes) {
                    break;
                }
                places.push(from..from + bytes.len());
            }
            // Tokens that are not the bytes of the text: a normalizer changed it.
            if places.last().is_none_or(|place| place.end != at + piece.len()) {
                places.truncate(first);
                let encoding = guarded(|| self.tokenizer.library.encode(piece, false))?;
                places.extend(encoding.get_offsets().iter().map(|(start, end)| at + start..at + end));
            }
            at += piece.len();
            rest = behind;
        }
        Ok(())
    }

    /// As [`Encoder::document`], with [`run::MASKED`] set in tokens of which no loss is to be taken.
    ///
    /// A document without the label `spans` has none. Of one with it a loss is taken of each token that has a byte inside a span, as
    /// `apply_chat_template` of `transformers` has it (`return_assistant_tokens_mask`), and of the end token behind a span that ends the text.
    ///
    /// # Errors
    /// As [`Encoder::document`], and spans that do not fit the text.
    pub fn masked_document(&mut self, document: &Document, tokens: &mut Vec<u32>) -> Result<(), String> {
        if !document.labels.contains_key(SPANS) {
            return self.document(document, tokens);
        }
        let spans = marks::of(document, SPANS)?;
        let places = self.places(document, tokens)?;
        let ends = spans.last().is_some_and(|span| span.end == document.text().len());
        let mut spans = spans.iter().peekable();
        for (i, (token, place)) in tokens.iter_mut().zip(&places).enumerate() {
            while spans.next_if(|span| span.end <= place.start && !place.is_empty()).is_some() {}
            let inside = spans.peek().is_some_and(|span| span.start < place.end && place.start < span.end);
            let end = ends && i + 1 == places.len() && place.is_empty();
            if !inside && !end {
                *token |= run::MASKED;
            }
        }
        Ok(())
    }

    /// Appends the tokens of a text without marks. Long texts are cut between words, or anywhere if there are none.
    ///
    /// # Errors
    /// In words: a tokenizer that contradicts itself.
    pub fn text(&mut self, text: &str, tokens: &mut Vec<u32>) -> Result<(), String> {
        let mut rest = text;
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(cut(rest));
            let tokenizer = self.tokenizer;
            match &tokenizer.fast {
                Some(fast) => self.piece(fast, piece, tokens)?,
                None => tokenizer.encode_plainly(piece, tokens)?,
            }
            rest = behind;
        }
        Ok(())
    }

    fn piece(&mut self, fast: &Fast, piece: &str, tokens: &mut Vec<u32>) -> Result<(), String> {
        let mut at = 0;
        if let Some((finder, ids)) = &fast.added {
            for found in finder.find_iter(piece) {
                self.level(fast, 0, &piece[at..found.start()], tokens)?;
                tokens.push(ids[found.pattern().as_usize()]);
                at = found.end();
            }
        }
        self.level(fast, 0, &piece[at..], tokens)
    }

    /// Tokens of a piece that level `level` is yet to cut. They depend on the piece alone, so that short ones are remembered.
    fn level(&mut self, fast: &Fast, level: usize, piece: &str, tokens: &mut Vec<u32>) -> Result<(), String> {
        let short = piece.len() <= REMEMBERED_BYTES;
        if short && let Some(range) = self.remembered[level].get(piece) {
            tokens.extend_from_slice(&self.tokens[range.start as usize..range.end as usize]);
            return Ok(());
        }
        let start = tokens.len();
        if level < fast.splitter.levels() {
            let mut result = Ok(());
            fast.splitter.pieces(level, piece, |part| {
                if result.is_ok() {
                    result = self.level(fast, level + 1, part, tokens);
                }
            });
            result?;
        } else if !piece.is_empty() {
            self.word.clear();
            self.word.extend(piece.bytes().map(|byte| fast.characters[byte as usize]));
            let found = guarded(|| self.tokenizer.library.get_model().tokenize(&self.word))?;
            tokens.extend(found.into_iter().map(|token| token.id));
        }
        if short {
            self.remember(level, piece, &tokens[start..]);
        }
        Ok(())
    }

    fn remember(&mut self, level: usize, piece: &str, tokens: &[u32]) {
        if self.count == REMEMBERED_MAX {
            self.remembered.iter_mut().for_each(|level| level.clear());
            self.tokens.clear();
            self.count = 0;
        }
        let start = self.tokens.len() as u32;
        self.tokens.extend_from_slice(tokens);
        self.remembered[level].insert(piece.into(), start..self.tokens.len() as u32);
        self.count += 1;
    }
}

/// Where the first piece of a text ends that is encoded alone: at the last place inside the limit where every rule in use begins a word, which is
/// before a space or behind a line break if there are plain letters on both sides; without such a place, at the limit.
fn cut(text: &str) -> usize {
    if text.len() <= PIECE_BYTES_MAX {
        return text.len();
    }
    let bytes = text.as_bytes();
    let begins = |at: usize| {
        let letter = |at: usize| bytes[at].is_ascii_alphabetic();
        bytes[at] == b' ' && letter(at - 1) && letter(at + 1)
            || bytes[at - 1] == b'\n' && letter(at) && bytes[at - 2].is_ascii_graphic()
    };
    (2..PIECE_BYTES_MAX).rev().find(|&at| begins(at)).unwrap_or_else(|| text.floor_char_boundary(PIECE_BYTES_MAX))
}

/// Tokenizes the documents of a part into a token run. `written` is told the document and its tokens, and may end the work. A run that is there and
/// of this tokenizer is not made again. `masks` sets [`run::MASKED`] in the run, not in what `written` is told.
///
/// # Errors
/// What the documents give, marks that do not fit, where the system refuses, and what `written` gives.
pub fn tokenize(
    documents: impl Iterator<Item = Result<Document, Error>>,
    tokenizer: &Tokenizer,
    path: &Path,
    masks: bool,
    mut written: impl FnMut(&Document, &[u32]) -> Result<(), Error>,
) -> Result<Digest, Error> {
    if run::Reader::open(path).is_ok_and(|run| run.tokenizer() == tokenizer.hash()) {
        return Digest::of_file(path);
    }
    let mut encoder = Encoder::new(tokenizer);
    let mut writer = run::Writer::create(path, tokenizer.hash())?;
    let mut tokens = Vec::new();
    for document in documents {
        let document = document?;
        let encoded = match masks {
            true => encoder.masked_document(&document, &mut tokens),
            false => encoder.document(&document, &mut tokens),
        };
        encoded.map_err(|problem| Error::file(path, problem))?;
        let held_out = document.labels.get("held_out") == Some(&Value::Bool(true));
        writer.document(&document.id, held_out, &tokens)?;
        tokens.iter_mut().for_each(|token| *token &= !run::MASKED);
        written(&document, &tokens)?;
    }
    writer.finish()
}
