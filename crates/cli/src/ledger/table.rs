//! Tables for people

use ::ledger::Column;
use unicode_width::UnicodeWidthStr;

/// A text on one line of a terminal: control characters are replaced.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A table for people.
pub fn table(columns: &[Column], rows: &[Vec<String>]) -> String {
    let headings: Vec<String> = columns.iter().map(|column| column.heading().to_string()).collect();
    let lines: Vec<Vec<String>> =
        std::iter::once(&headings).chain(rows).map(|row| row.iter().map(|cell| clean(cell)).collect()).collect();
    let width = |place: usize| lines.iter().map(|line| line[place].width()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut out = String::new();
    for line in &lines {
        let cells = columns.iter().zip(&widths).zip(line).map(|((column, width), cell)| {
            let space = " ".repeat(width - cell.width());
            match column {
                Column::Text(_) => format!("{cell}{space}"),
                Column::Number(_) => format!("{space}{cell}"),
            }
        });
        out += cells.collect::<Vec<_>>().join("  ").trim_end();
        out.push('\n');
    }
    out
}

/// Facts on one thing, a line each.
pub fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(what, _)| what.len()).max().unwrap_or(0);
    facts.iter().map(|(what, value)| format!("{what:<width$}  {}\n", clean(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(row: &[&str]) -> Vec<String> {
        row.iter().map(|cell| cell.to_string()).collect()
    }

    #[test]
    fn numbers_stand_on_the_right() {
        let columns = [Column::text("name"), Column::number("tokens"), Column::text("state")];
        let rows = [cells(&["\u{540d}\u{524d}", "5", "valid"]), cells(&["anna\u{1b}", "1234567", ""])];
        assert_eq!(
            table(&columns, &rows),
            "name    tokens  state\n\u{540d}\u{524d}         5  valid\nanna\u{fffd}  1234567\n"
        );
        assert_eq!(facts(&[("id", "x".into()), ("name", "y".into())]), "id    x\nname  y\n");
    }
}
