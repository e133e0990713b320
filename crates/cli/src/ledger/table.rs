//! Tables: columns for people, CSV for spreadsheets

use unicode_width::UnicodeWidthStr;

/// What a text may begin with to be a formula in a spreadsheet.
const FORMULA: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

/// A column with its heading.
#[derive(Clone, Debug)]
pub enum Column {
    /// Text, from the left.
    Text(String),
    /// Numbers, from the right.
    Number(String),
}

impl Column {
    /// A column of text.
    pub fn text(heading: &str) -> Column {
        Column::Text(heading.to_string())
    }

    /// A column of numbers.
    pub fn number(heading: &str) -> Column {
        Column::Number(heading.to_string())
    }

    fn heading(&self) -> &str {
        let (Column::Text(heading) | Column::Number(heading)) = self;
        heading
    }
}

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

/// A table as RFC 4180 has it.
pub fn csv(columns: &[Column], rows: &[Vec<String>]) -> String {
    let mut out =
        columns.iter().map(|column| column.heading().replace(' ', "_")).collect::<Vec<_>>().join(",") + "\r\n";
    for row in rows {
        let cells = columns.iter().zip(row).map(|(column, cell)| match column {
            Column::Text(_) => escaped(cell),
            Column::Number(_) => cell.clone(),
        });
        out += &cells.collect::<Vec<_>>().join(",");
        out += "\r\n";
    }
    out
}

/// A text in CSV: in quotes where it needs them, with an apostrophe where it would be a formula.
fn escaped(text: &str) -> String {
    let apostrophe = if text.starts_with(FORMULA) { "'" } else { "" };
    if text.contains(['"', ',', '\r', '\n']) {
        format!("\"{apostrophe}{}\"", text.replace('"', "\"\""))
    } else {
        format!("{apostrophe}{text}")
    }
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

    #[test]
    fn csv_is_quoted_and_no_formula() {
        let columns = [Column::text("key name"), Column::number("cost")];
        let names = ["plain", "a,b", "say \"hi\"", "=1+1", "+1", "-1", "@x", "=\"a\",b", " =x"];
        let rows: Vec<_> = names.iter().map(|name| cells(&[name, "-1"])).collect();
        let lines = [
            "key_name,cost",
            "plain,-1",
            "\"a,b\",-1",
            "\"say \"\"hi\"\"\",-1",
            "'=1+1,-1",
            "'+1,-1",
            "'-1,-1",
            "'@x,-1",
            "\"'=\"\"a\"\",b\",-1",
            " =x,-1",
            "",
        ];
        assert_eq!(csv(&columns, &rows), lines.join("\r\n"));
    }
}
