//! Plots of a training over its tokens, as SVG pictures that stand in a page.

use plotters::prelude::*;

use super::series::smooth;

pub const BLUE: RGBColor = RGBColor(31, 119, 180);
const ORANGE: RGBColor = RGBColor(214, 93, 14);
/// What steps are before they are smoothed.
const PALE: RGBColor = RGBColor(174, 199, 232);

/// Pixels; a page shows two beside each other.
const SIZE: (u32, u32) = (480, 280);

struct Line {
    label: String,
    colour: RGBColor,
    /// Pixels.
    width: u32,
    dots: bool,
    points: Vec<(f64, f64)>,
}

/// Lines over tokens.
pub struct Plot {
    title: String,
    lines: Vec<Line>,
}

impl Plot {
    pub fn new(title: &str) -> Plot {
        Plot { title: title.to_string(), lines: Vec::new() }
    }

    /// Another line; one without points is none.
    pub fn line(mut self, label: &str, colour: RGBColor, points: Vec<(f64, f64)>) -> Plot {
        if !points.is_empty() {
            self.lines.push(Line { label: label.to_string(), colour, width: 2, dots: false, points });
        }
        self
    }

    /// Figures of steps, as they are and smoothed.
    pub fn steps(mut self, points: Vec<(f64, f64)>) -> Plot {
        let smoothed = smooth(&points);
        if !points.is_empty() {
            self.lines.push(Line { label: String::new(), colour: PALE, width: 1, dots: false, points });
        }
        self.line("steps", BLUE, smoothed)
    }

    /// Figures of measurements.
    pub fn held_out(mut self, points: Vec<(f64, f64)>) -> Plot {
        if !points.is_empty() {
            self.lines.push(Line { label: "held-out text".to_string(), colour: ORANGE, width: 2, dots: true, points });
        }
        self
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

/// The colour of one of so many lines: from blue to orange.
pub fn shade(i: usize, count: usize) -> RGBColor {
    let share = i as f64 / (count.max(2) - 1) as f64;
    let mix = |from: u8, to: u8| (f64::from(from) + share * (f64::from(to) - f64::from(from))).round() as u8;
    RGBColor(mix(BLUE.0, ORANGE.0), mix(BLUE.1, ORANGE.1), mix(BLUE.2, ORANGE.2))
}

/// A number in few characters.
pub fn short(number: f64) -> String {
    let trimmed = |value: f64, unit: &str| format!("{}{unit}", format!("{value:.1}").trim_end_matches(".0"));
    match number.abs() {
        n if n >= 1e9 => trimmed(number / 1e9, " G"),
        n if n >= 1e6 => trimmed(number / 1e6, " M"),
        n if n >= 1e4 => trimmed(number / 1e3, " k"),
        n if n >= 100.0 || n == 0.0 => format!("{number:.0}"),
        n if n >= 0.01 => format!("{number:.2}"),
        _ => format!("{number:.1e}"),
    }
}

/// The picture. Nothing is drawn behind it: the page's own background shows.
pub fn draw(plot: &Plot) -> String {
    let all = || plot.lines.iter().flat_map(|line| line.points.iter());
    let range = |of: fn(&(f64, f64)) -> f64, margin: f64| {
        let (low, high) = all().map(of).fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        let (low, high) =
            if low < high { (low, high) } else { (low - 0.5 * low.abs().max(1e-9), low + 0.5 * low.abs().max(1e-9)) };
        low - margin * (high - low)..high + margin * (high - low)
    };
    let mut svg = String::new();
    let paint = |svg: &mut String| -> Result<(), Box<dyn std::error::Error>> {
        let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .caption(&plot.title, ("sans-serif", 15))
            .margin(6)
            // The last label is centred below its tick.
            .margin_right(24)
            .x_label_area_size(34)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..range(|point| point.0, 0.0).end, range(|point| point.1, 0.04))?;
        chart
            .configure_mesh()
            .max_light_lines(0)
            .bold_line_style(BLACK.mix(0.12))
            .x_labels(6)
            .y_labels(6)
            .x_desc("tokens")
            .x_label_formatter(&|x| short(*x))
            .y_label_formatter(&|y| short(*y))
            .draw()?;
        for line in &plot.lines {
            let style = line.colour.stroke_width(line.width);
            let drawn = chart.draw_series(LineSeries::new(line.points.iter().copied(), style))?;
            if !line.label.is_empty() {
                drawn.label(&line.label).legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
            }
            if line.dots {
                chart.draw_series(line.points.iter().map(|&point| Circle::new(point, 2, line.colour.filled())))?;
            }
        }
        if plot.lines.iter().filter(|line| !line.label.is_empty()).count() > 1 {
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperRight)
                .background_style(WHITE.mix(0.8))
                .draw()?;
        }
        root.present()?;
        Ok(())
    };
    paint(&mut svg).expect("a picture in memory can be drawn");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let all = [0.0, 0.00025, 0.5, 1.75, 250.0, 9000.0, 25_000.0, 3e6, 2.5e9, -1.5];
        let written = all.map(short);
        assert_eq!(written, ["0", "2.5e-4", "0.50", "1.75", "250", "9000", "25 k", "3 M", "2.5 G", "-1.50"]);
    }

    #[test]
    fn a_line_of_one_value_and_a_single_point_are_drawn() {
        for points in [vec![(100.0, 0.0)], vec![(1.0, 3.0), (2.0, 3.0)]] {
            let svg = draw(&Plot::new("rate").line("", BLUE, points));
            assert!(svg.starts_with("<svg") && svg.contains("rate") && !svg.contains("NaN"), "{svg}");
        }
    }
}
