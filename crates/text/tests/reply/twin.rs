//! The plain twin of the parser: the whole text at once, searched and sliced. It says what the streaming one must say.

use farthing_text::reply::Format;

use super::blocks::{block, left_over};

/// A message as clients see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub reasoning: String,
    pub content: String,
    pub calls: Vec<Call>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    pub name: String,
    pub id: Option<String>,
    pub arguments: String,
}

/// What was found between calls.
enum Piece {
    Reasoning(String),
    /// Reasoning that a closing tag ended.
    Closed(String),
    Content(String),
    Call(Call),
}

pub fn parse(format: &Format, text: &str, opened: bool, tools: bool) -> Message {
    let name = format.name();
    let padded = !matches!(name, "deepseek-v3.2" | "deepseek-v4");
    let gap = if !padded {
        "\n\n"
    } else if name == "hermes" {
        "\n"
    } else {
        ""
    };
    join(pieces(format, text, opened, tools), padded, gap, opened)
}

fn pieces(format: &Format, text: &str, opened: bool, tools: bool) -> Vec<Piece> {
    let (mut pieces, mut run, mut reasoning) = (Vec::new(), String::new(), opened);
    let (mut reasoned, mut spoke, mut calls) = (false, false, 0);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let blank = run.trim().is_empty() && !if reasoning { reasoned } else { spoke };
        if format.reasons() && blank && calls == 0 && rest.starts_with("<think>") {
            (run, reasoning) = (String::new(), true);
            rest = &rest["<think>".len()..];
            continue;
        }
        if format.reasons() && (reasoning || blank) && rest.starts_with("</think>") {
            let ended = std::mem::take(&mut run);
            if reasoning {
                reasoned |= !ended.trim().is_empty();
                pieces.push(Piece::Closed(ended));
            }
            reasoning = false;
            rest = &rest["</think>".len()..];
            continue;
        }
        if tools
            && let Some((found, used)) = block(format.name(), rest, blank && !reasoning).filter(|(_, used)| *used > 0)
        {
            rest = &rest[used..];
            if found.is_empty() {
                continue;
            }
            calls += found.len();
            spoke |= !reasoning && !run.trim().is_empty();
            let run = std::mem::take(&mut run);
            pieces.push(if reasoning { Piece::Reasoning(run) } else { Piece::Content(run) });
            pieces.extend(found.into_iter().map(Piece::Call));
            reasoning = false;
            continue;
        }
        if tools
            && calls > 0
            && let Some(end) = left_over(format.name()).iter().find(|e| rest.starts_with(**e))
        {
            rest = &rest[end.len()..];
            continue;
        }
        // What begins a block and is none stands for itself, whole.
        let whole =
            if tools { format.triggers().iter().find(|t| rest.starts_with(**t)).map_or(0, |t| t.len()) } else { 0 };
        let (plain, behind) = rest.split_at(whole.max(c.len_utf8()));
        run.push_str(plain);
        rest = behind;
    }
    pieces.push(if reasoning { Piece::Reasoning(run) } else { Piece::Content(run) });
    pieces
}

/// White space between the pieces, and the message.
fn join(pieces: Vec<Piece>, padded: bool, gap: &str, opened: bool) -> Message {
    let mut message = Message::default();
    let mut reasoned = opened;
    let mut behind_call = false;
    for (i, piece) in pieces.iter().enumerate() {
        let calling = matches!(pieces.get(i + 1), Some(Piece::Call(_)));
        match piece {
            Piece::Reasoning(run) | Piece::Closed(run) => {
                reasoned = true;
                let blank = run.trim().is_empty() && message.reasoning.is_empty();
                let said = match () {
                    () if padded && message.reasoning.is_empty() => run.trim(),
                    () if padded => run.trim_end(),
                    () if calling && blank => "",
                    () if calling => run.strip_suffix(gap).unwrap_or(run),
                    () => run,
                };
                message.reasoning += said;
            }
            Piece::Content(run) => {
                let first = message.content.is_empty();
                let padding = first && ((padded && reasoned) || !message.calls.is_empty());
                let blank = run.trim().is_empty();
                let mut said = if padding { run.trim_start() } else { run };
                if blank && (behind_call || padding || (calling && first)) {
                    said = "";
                }
                if calling && !said.is_empty() {
                    said = said.strip_suffix(gap).unwrap_or(said);
                }
                message.content += said;
                behind_call &= blank;
            }
            Piece::Call(call) => {
                message.calls.push(call.clone());
                behind_call = true;
            }
        }
    }
    message
}
