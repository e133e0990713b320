//! Web pages: the main text, without menus and the like, by `dom_smoothie` (Mozilla's Readability)
//!
//! Chosen by a measurement on the 181 pages of scrapinghub/article-extraction-benchmark: F1 0.951 at 115 MB/s of HTML a core, where the crate
//! `trafilatura` 0.6 has 0.960 at 34, gives no paragraphs in its text, and overflows the stack on pages nested 3,000 deep.

use dom_smoothie::{Config, Readability, ReadabilityError, TextMode};

use super::encoding::{Encoding, decode};
use super::{Emit, Item, damaged, empty_file, id, text};
use crate::panics::caught;
use crate::part::Part;
use crate::source::Source;
use crate::{Document, Error};

/// Bytes of a page. Crawls cut pages off at 1 to 5 MiB.
pub const PAGE_BYTES_MAX: usize = 4 << 20;

/// Tags of a page.
const TAGS_MAX: usize = 200_000;

/// Attributes of a tag: the parser compares each with all others.
const ATTRIBUTES_MAX: usize = 500;

/// How deep elements may be nested, but for those that end by themselves: extraction takes time by the square of it.
const DEPTH_MAX: usize = 256;

/// Elements that have no content.
const VOID: &[&str] =
    &["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr", "param"];

/// Elements that another of their kind, or what is around them, ends.
const ENDED: &[&str] =
    &["p", "li", "dt", "dd", "option", "tr", "td", "th", "thead", "tbody", "tfoot", "colgroup", "html", "head", "body"];

/// Elements that the parser opens again in each paragraph where they were left open, up to three alike.
const FORMATTING: &[&str] =
    &["b", "big", "code", "em", "font", "i", "nobr", "s", "small", "strike", "strong", "tt", "u"];

/// Elements whose content is text up to their end tag.
const RAW: &[&str] = &["script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes"];

/// The main text of a page.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    /// Its title.
    pub title: String,
    /// Paragraphs, with empty lines between them.
    pub text: String,
}

/// Extracts the main text.
///
/// # Errors
/// In words: no main text, or a page beyond a limit.
pub fn main_text(html: &str) -> Result<Page, String> {
    if html.len() > PAGE_BYTES_MAX {
        return Err(format!("a page of {} bytes, over {PAGE_BYTES_MAX}", html.len()));
    }
    let config = Config { text_mode: TextMode::Formatted, disable_json_ld: true, ..Config::default() };
    let page = bounded(html)?;
    let article = caught(|| match Readability::new(page, None, Some(config)).and_then(|mut page| page.parse()) {
        Ok(article) => Ok(Some(article)),
        Err(ReadabilityError::GrabFailed) => Ok(None),
        Err(error) => Err(error.to_string()),
    });
    match article.map_err(|problem| format!("no main text: {problem}"))? {
        Some(article) if !article.text_content.trim().is_empty() => {
            Ok(Page { title: article.title.trim().to_string(), text: article.text_content.trim().to_string() })
        }
        _ => Err("a page without main text".into()),
    }
}

/// The same page, refused where it is nested too deep, and without attributes of elements like `<b>`: the parser would open each of them again
/// in every paragraph.
fn bounded(html: &str) -> Result<String, String> {
    let bytes = html.as_bytes();
    let mut out = String::with_capacity(html.len());
    let (mut copied, mut at) = (0, 0);
    let mut nesting = Nesting::default();
    while let Some(found) = memchr::memchr(b'<', &bytes[at..]) {
        let start = at + found;
        at = start + 1;
        if bytes[at..].starts_with(b"!--") {
            at = memchr::memmem::find(&bytes[at..], b"-->").map_or(bytes.len(), |end| at + end + 3);
            continue;
        }
        let closing = bytes.get(at) == Some(&b'/');
        let begin = at + usize::from(closing);
        if !bytes.get(begin).is_some_and(u8::is_ascii_alphabetic) {
            continue;
        }
        let end = bytes[begin..]
            .iter()
            .position(|b| b.is_ascii_whitespace() || matches!(b, b'/' | b'>'))
            .map_or(bytes.len(), |n| begin + n);
        let name = html[begin..end].to_ascii_lowercase();
        let name = name.as_str();
        let tag = tag_end(bytes, end)?;
        at = tag.end;
        nesting.tag(name, closing, tag.closes_itself)?;
        if !closing && FORMATTING.contains(&name) {
            out.push_str(&html[copied..end]);
            out.push('>');
            copied = at;
        }
        if !closing && !nesting.drawing && RAW.contains(&name) {
            at = raw_end(bytes, at, name);
            nesting.depth -= 1;
            // The end tag is not looked at again.
            at = tag_end(bytes, at)?.end;
        }
    }
    out.push_str(&html[copied..]);
    Ok(out)
}

/// Elements that are open, as far as their tags tell.
#[derive(Default)]
struct Nesting {
    tags: usize,
    depth: usize,
    /// Whether it is in SVG or MathML, where any tag may close itself. Elements of HTML end them.
    drawing: bool,
}

impl Nesting {
    fn tag(&mut self, name: &str, closing: bool, closes_itself: bool) -> Result<(), String> {
        self.tags += 1;
        if self.tags > TAGS_MAX {
            return Err(format!("a page of more than {TAGS_MAX} tags"));
        }
        let foreign = matches!(name, "svg" | "math");
        let closed = closes_itself && (foreign || self.drawing && !of_html(name));
        self.drawing = match foreign {
            true => !closing && (self.drawing || !closed),
            false => self.drawing && (closing || !of_html(name)),
        };
        if VOID.contains(&name) || ENDED.contains(&name) || closed {
            return Ok(());
        }
        self.depth = if closing { self.depth.saturating_sub(1) } else { self.depth + 1 };
        if self.depth > DEPTH_MAX { Err(format!("a page nested deeper than {DEPTH_MAX}")) } else { Ok(()) }
    }
}

/// Whether an element ends SVG and MathML around it, or holds HTML inside of it.
fn of_html(name: &str) -> bool {
    let holds = ["foreignobject", "desc", "title", "annotation-xml", "mi", "mo", "mn", "ms", "mtext"];
    let others = [
        "blockquote",
        "center",
        "div",
        "dl",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "listing",
        "menu",
        "ol",
        "pre",
        "ruby",
        "span",
        "sub",
        "sup",
    ];
    let more = ["table", "ul", "var"];
    [VOID, ENDED, FORMATTING, &holds, &others, &more].iter().any(|names| names.contains(&name))
}

struct Tag {
    /// After the `>`.
    end: usize,
    closes_itself: bool,
}

/// Where a tag ends whose name ends here.
fn tag_end(bytes: &[u8], mut at: usize) -> Result<Tag, String> {
    let mut attributes = 0;
    let mut before = b' ';
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'>' => return Ok(Tag { end: at + 1, closes_itself: before == b'/' }),
            // A quote begins a value only after `=`; elsewhere it is a part of a name.
            b'"' | b'\'' if before == b'=' => match memchr::memchr(*byte, &bytes[at + 1..]) {
                Some(quoted) => at += quoted + 1,
                None => break,
            },
            _ if byte.is_ascii_whitespace() || *byte == b'/' => {}
            _ if before.is_ascii_whitespace() || matches!(before, b'/' | b'"' | b'\'') => attributes += 1,
            _ => {}
        }
        if attributes > ATTRIBUTES_MAX {
            return Err(format!("a tag of more than {ATTRIBUTES_MAX} attributes"));
        }
        if !(byte.is_ascii_whitespace() && before == b'=') {
            before = bytes[at];
        }
        at += 1;
    }
    Ok(Tag { end: bytes.len(), closes_itself: false })
}

/// Where the end tag of an element of raw text begins.
fn raw_end(bytes: &[u8], mut at: usize, name: &str) -> usize {
    while let Some(found) = memchr::memmem::find(&bytes[at..], b"</") {
        at += found + 2;
        if bytes.get(at..at + name.len()).is_some_and(|found| found.eq_ignore_ascii_case(name.as_bytes())) {
            return at + name.len();
        }
    }
    bytes.len()
}

/// Bytes of a page to text, as browsers do it: by its mark, by what was declared, by what the page says, and else by guess.
pub fn decode_page(bytes: Vec<u8>, declared: Option<&str>, encoding: Encoding) -> Result<String, String> {
    if encoding != Encoding::Auto {
        return decode(bytes, encoding).map(|decoded| decoded.text);
    }
    let of_page = || {
        let head = &bytes[..bytes.len().min(1024)];
        let place = memchr::memmem::find(head, b"charset=")? + b"charset=".len();
        let name = head[place..].trim_ascii_start();
        let name = name.strip_prefix(b"\"").or(name.strip_prefix(b"'")).unwrap_or(name);
        let end = name.iter().position(|b| !b.is_ascii_alphanumeric() && !b"-_:".contains(b)).unwrap_or(name.len());
        encoding_rs::Encoding::for_label(&name[..end])
    };
    let named = declared.and_then(|name| encoding_rs::Encoding::for_label(name.as_bytes())).or_else(of_page);
    match named {
        // Declared UTF-8 is decoded with replacement characters only if it is not something else.
        Some(named) if named != encoding_rs::UTF_8 => Ok(named.decode(&bytes).0.into_owned()),
        _ => decode(bytes, Encoding::Auto).map(|decoded| decoded.text),
    }
}

/// Reads a page that is a file.
pub fn read(source: &Source, part: &Part, emit: Emit) -> Result<(), Error> {
    let mut bytes = Vec::new();
    if let Some(problem) = text::read_file(source, part, &mut bytes)? {
        return emit(damaged(part.name.clone(), problem, &bytes));
    }
    if bytes.is_empty() {
        return emit(empty_file());
    }
    let start = bytes[..bytes.len().min(1 << 10)].to_vec();
    let page = decode_page(bytes, None, source.encoding).and_then(|html| main_text(&html));
    match page {
        Ok(page) => emit(Item::Document(document(id(source, part, 0), page))),
        Err(problem) => emit(damaged(part.name.clone(), problem, &start)),
    }
}

/// The document of a page, with its title as label.
pub fn document(id: String, page: Page) -> Document {
    let mut document = Document::new(id, page.text);
    if !page.title.is_empty() {
        document.labels.insert("title".into(), page.title.into());
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAGRAPH: &str =
        "<p>The fox ran over the hill, found its red hat, and took it home to its friends before the evening came.</p>";

    #[test]
    fn the_main_text_has_paragraphs_and_no_menu() {
        let menu = "<nav><ul><li><a href='/a'>Home</a><li><a href='/b'>About</a></ul></nav>";
        let html = format!(
            "<html><head><title>The hat</title></head><body>{menu}<article><h1>The hat</h1>{}</article><footer>Imprint</footer></body></html>",
            PARAGRAPH.repeat(6)
        );
        let page = main_text(&html).unwrap();
        assert_eq!(page.title, "The hat");
        assert!(page.text.contains("evening came.\n\nThe fox ran"), "{}", page.text);
        assert!(!page.text.contains("About") && !page.text.contains("Imprint"));
        assert_eq!(main_text("<html><body></body></html>"), Err("a page without main text".into()));
    }

    #[test]
    fn pages_that_cost_too_much_are_refused() {
        let error = |html: String| main_text(&html).unwrap_err();
        assert_eq!(error("<div>".repeat(100_000)), "a page nested deeper than 256");
        assert_eq!(
            error("<svg><path/></svg><path/>".to_string() + &"<div/>".repeat(300)),
            "a page nested deeper than 256"
        );
        assert_eq!(error("<svg><foreignObject>".to_string() + &"<path/>".repeat(300)), "a page nested deeper than 256");
        assert_eq!(error("<p>".repeat(300_000)), "a page of more than 200000 tags");
        let attributes: String = (0..1000).map(|i| format!(" a{i}='>'")).collect();
        assert_eq!(error(format!("<a{attributes}>")), "a tag of more than 500 attributes");
        let quotes: String = (0..1000).map(|i| format!("a{i}=\"\"")).collect();
        assert_eq!(error(format!("<a {quotes}>")), "a tag of more than 500 attributes");
        assert!(error("x".repeat(PAGE_BYTES_MAX + 1)).contains("over 4194304"));
    }

    #[test]
    fn what_only_looks_deep_is_read() {
        let script = format!("<script>var a = \"{}\";</script>", "<div>".repeat(1000));
        let comment = format!("<!-- {} -->", "<div>".repeat(1000));
        let list = format!("<ul>{}</ul>", "<li>one<br><img src=x><p>two".repeat(1000));
        let drawing = format!("<svg>{}</svg>", "<path d='M 0 0'/>".repeat(1000));
        let html = format!("<body>{script}{comment}{drawing}{list}{}", PARAGRAPH.repeat(5));
        bounded(&html).unwrap();
        assert!(main_text(&html).unwrap().text.contains("red hat"));
    }

    #[test]
    fn elements_that_are_opened_again_lose_their_attributes() {
        assert_eq!(bounded("<p><B class=\"a>b\" id=1>x</B><i>y<a href='b'>z").unwrap(), "<p><B>x</B><i>y<a href='b'>z");
        // Each of 200 would be opened again in each of 20,000 paragraphs.
        let open: String = (0..200).map(|i| format!("<font size={i}>")).collect();
        let html = format!("<body>{open}{}", "<p>some words, and more".repeat(20_000));
        let _ = main_text(&html);
    }

    #[test]
    fn pages_are_decoded_as_browsers_do() {
        let text = |bytes: &[u8], declared| decode_page(bytes.to_vec(), declared, Encoding::Auto).unwrap();
        assert_eq!(text("ä".as_bytes(), None), "ä");
        assert_eq!(text(b"\xe4", Some("ISO-8859-1")), "ä");
        assert_eq!(text(b"<meta charset='windows-1251'>\xff", None), "<meta charset='windows-1251'>я");
        assert_eq!(
            text(b"<meta charset=\"utf-8\">sch\xf6n und gr\xfcn", None),
            "<meta charset=\"utf-8\">schön und grün"
        );
    }
}
