//! Tables for people

use ::ledger::Column;
use unicode_width::UnicodeWidthStr;

/// A text on one line of a terminal: control characters are replaced.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Decimals of an amount in a column of numbers; `None` for other cells.
fn decimals(cell: &str) -> Option<usize> {
    let (units, decimals) = cell.split_once('.')?;
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    (digits(units.trim_start_matches('-')) && digits(decimals)).then_some(decimals.len())
}

/// Amounts of a column with as many decimals each, so that their points are below each other.
fn align(column: &Column, cells: &mut [&mut String]) {
    if let Column::Text(_) = column {
        return;
    }
    let most = cells.iter().filter_map(|cell| decimals(cell)).max().unwrap_or(0);
    for cell in cells {
        if let Some(its) = decimals(cell) {
            cell.push_str(&"0".repeat(most - its));
        }
    }
}

/// A table for people.
pub fn table(columns: &[Column], rows: &[Vec<String>]) -> String {
    let headings: Vec<String> = columns.iter().map(|column| column.heading().to_string()).collect();
    let mut lines: Vec<Vec<String>> =
        std::iter::once(&headings).chain(rows).map(|row| row.iter().map(|cell| clean(cell)).collect()).collect();
    for (place, column) in columns.iter().enumerate() {
        align(column, &mut lines.iter_mut().skip(1).map(|line| &mut line[place]).collect::<Vec<_>>());
    }
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
        let columns = [Column::number("cost"), Column::text("version")];
        let rows = ["12.50", "-0.000001", "-", "7", "1.2.3", "100.00"].map(|cost| cells(&[cost, "1.5"]));
        assert_eq!(
            table(&columns, &rows),
            "      cost  version\n 12.500000  1.5\n -0.000001  1.5\n         -  1.5\n         7  1.5\n     1.2.3  1.5\n100.000000  1.5\n"
        );
        assert_eq!(facts(&[("id", "x".into()), ("name", "y".into())]), "id    x\nname  y\n");
    }
}
