//! The curve of a loss, as characters: a line of blocks while it is trained, a chart at the end.

use std::path::Path;

use ::train::log::each_line;
use serde::Deserialize;

use crate::Failure;

/// Columns of a chart.
const COLUMNS: usize = 60;
const ROWS: usize = 12;

/// Losses over tokens.
#[derive(Default)]
pub struct Curve {
    /// Tokens seen and nats a token, in the order of steps.
    trained: Vec<(u64, f64)>,
    held_out: Vec<(u64, f64)>,
}

/// What a line of the log says of losses.
#[derive(Deserialize)]
struct Line {
    tokens: Option<u64>,
    loss: Option<f64>,
    held_out_loss: Option<f64>,
}

impl Curve {
    /// That of a log.
    ///
    /// # Errors
    /// Where the system refuses. What is no line of a log is passed over.
    pub fn read(log: &Path) -> Result<Curve, Failure> {
        let mut curve = Curve::default();
        each_line(log, |line| match serde_json::from_slice(line) {
            Ok(Line { tokens: Some(tokens), loss: Some(loss), .. }) => curve.step(tokens, loss),
            Ok(Line { tokens: Some(tokens), held_out_loss: Some(loss), .. }) => curve.evaluated(tokens, loss),
            _ => {}
        })?;
        Ok(curve)
    }

    /// A step's loss.
    pub fn step(&mut self, tokens: u64, loss: f64) {
        self.trained.push((tokens, loss));
    }

    /// A loss on held-out text.
    pub fn evaluated(&mut self, tokens: u64, loss: f64) {
        self.held_out.push((tokens, loss));
    }

    /// Steps of which the loss is known.
    pub fn steps(&self) -> usize {
        self.trained.len()
    }

    /// Mean loss of each column, of those that have one; the last column ends with `total` tokens.
    fn columns(points: &[(u64, f64)], total: u64, columns: usize) -> Vec<Option<f64>> {
        let mut sums = vec![(0.0, 0u32); columns];
        for &(tokens, loss) in points.iter().filter(|(_, loss)| loss.is_finite()) {
            let at = (tokens.saturating_sub(1) as f64 / total.max(1) as f64 * columns as f64) as usize;
            let sum = &mut sums[at.min(columns - 1)];
            *sum = (sum.0 + loss, sum.1 + 1);
        }
        sums.into_iter().map(|(sum, n)| (n > 0).then(|| sum / f64::from(n))).collect()
    }

    /// The losses so far as blocks of eight heights, a column for each part of `total` tokens.
    pub fn blocks(&self, total: u64, columns: usize) -> String {
        const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let means = Curve::columns(&self.trained, total, columns);
        let (low, high) = bounds(means.iter().flatten());
        // A column without a step is as high as the one before it.
        let mut last = means.iter().flatten().next().copied();
        let known = means.iter().rposition(Option::is_some).map_or(0, |at| at + 1);
        let block = |mean: &Option<f64>| {
            last = mean.or(last);
            last.map_or(' ', |loss| BLOCKS[level(loss, low, high, 8)])
        };
        means[..known].iter().map(block).collect()
    }

    /// A chart over all tokens that were seen: `·` the loss of steps, `o` that on held-out text. `None` where there is no step.
    pub fn chart(&self) -> Option<String> {
        let total = self.trained.last()?.0;
        let trained = Curve::columns(&self.trained, total, COLUMNS);
        let held_out = Curve::columns(&self.held_out, total, COLUMNS);
        let (low, high) = bounds(trained.iter().chain(&held_out).flatten());
        let mut cells = [[' '; COLUMNS]; ROWS];
        for (means, mark) in [(&trained, '·'), (&held_out, 'o')] {
            for (column, loss) in means.iter().enumerate().filter_map(|(column, mean)| Some((column, (*mean)?))) {
                cells[ROWS - 1 - level(loss, low, high, ROWS)][column] = mark;
            }
        }
        let mut chart = String::new();
        for (row, cells) in cells.iter().enumerate() {
            let label = match row {
                0 => format!("{high:8.3}"),
                row if row == ROWS - 1 => format!("{low:8.3}"),
                _ => " ".repeat(8),
            };
            let cells: String = cells.iter().collect();
            chart += &format!("{label} │{}\n", cells.trim_end());
        }
        let tokens = format!("{:.1} M tokens", total as f64 / 1e6);
        let held_out = if self.held_out.is_empty() { "" } else { ", o on held-out text" };
        chart += &format!("{:8} └{}\n", "", "─".repeat(COLUMNS));
        chart += &format!("{:9} {:<30}{tokens:>30}\n", "", format!("loss: · of steps{held_out}"));
        Some(chart)
    }
}

/// Least and most; equal ones are moved apart.
fn bounds<'a>(values: impl Iterator<Item = &'a f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &v| (low.min(v), high.max(v)));
    if low < high { (low, high) } else { (low, low + 1.0) }
}

/// Which of so many levels between two bounds a value is at.
fn level(value: f64, low: f64, high: f64, levels: usize) -> usize {
    (((value - low) / (high - low) * (levels - 1) as f64).round() as usize).min(levels - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_goes_down_from_left_to_right() {
        let mut curve = Curve::default();
        assert_eq!((curve.blocks(100, 10), curve.chart()), (String::new(), None));
        (1..=50).for_each(|i| curve.step(i, 8.0 - i as f64 / 10.0));
        assert_eq!(curve.blocks(100, 10), "█▆▅▃▁");
        curve.evaluated(50, 9.0);
        let chart = curve.chart().unwrap();
        let lines: Vec<&str> = chart.lines().collect();
        assert_eq!(lines.len(), ROWS + 2);
        assert!(lines[0].starts_with("   9.000 │") && lines[0].ends_with('o'), "{chart}");
        assert!(lines[ROWS - 1].starts_with("   3.000 │") && lines[ROWS - 1].ends_with('·'), "{chart}");
        assert!(lines[ROWS + 1].contains("o on held-out text") && lines[ROWS + 1].ends_with("0.0 M tokens"), "{chart}");
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{chart}");
    }

    #[test]
    fn losses_that_are_equal_or_no_numbers_are_drawn_too() {
        let mut curve = Curve::default();
        curve.step(1, f64::NAN);
        curve.step(2, 1.5);
        curve.step(3, 1.5);
        assert_eq!(curve.blocks(3, 3), "▁▁▁");
        assert_eq!(curve.blocks(9, 9), "▁▁▁");
        assert!(curve.chart().unwrap().contains("1.500"));
    }

    #[test]
    fn a_log_is_read_line_by_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "{\"step\": 1, \"tokens\": 10, \"loss\": 2.0, \"norm\": 1}\nno line\n{\"tokens\": 10, \"held_out_loss\": 3.0}\n{\"saved\": \"x\"}\n";
        std::fs::write(file.path(), text).unwrap();
        let curve = Curve::read(file.path()).unwrap();
        assert_eq!((curve.trained, curve.held_out), (vec![(10, 2.0)], vec![(10, 3.0)]));
        assert!(Curve::read(Path::new("not there")).is_err());
    }
}
