//! Plots of measurements, as SVG.

use std::path::Path;

use plotters::prelude::*;

use crate::Failure;
use crate::work::Work;

/// A named line of points.
type Line<'a> = (&'a str, RGBColor, Vec<(f64, f64)>);

/// Two panels: tokens per second over depth, and over sequences. A panel without points is left out.
///
/// # Errors
/// A file that cannot be written.
pub fn plot(file: &Path, title: &str, ours: &[(Work, f64)], others: &[(Work, f64)]) -> Result<(), Failure> {
    let points = |of: &[(Work, f64)], x: &dyn Fn(Work) -> Option<f64>| -> Vec<(f64, f64)> {
        let mut points: Vec<_> = of.iter().filter_map(|(w, y)| Some((x(*w)?, *y))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    };
    let depth = |w: Work| if let Work::Decode(depth) = w { Some(depth as f64) } else { None };
    let sequences = |w: Work| if let Work::Together(n) = w { Some(n as f64) } else { None };
    let panels: Vec<(&str, Vec<Line>)> =
        [("tokens already read", &depth as &dyn Fn(Work) -> Option<f64>), ("sequences at once", &sequences)]
            .into_iter()
            .map(|(label, x)| {
                (
                    label,
                    vec![
                        ("farthing", RGBColor(31, 119, 180), points(ours, x)),
                        ("other", RGBColor(214, 39, 40), points(others, x)),
                    ],
                )
            })
            .filter(|(_, lines)| !lines[0].2.is_empty())
            .collect();
    if panels.is_empty() {
        return Err(Failure::usage("--plot: nothing to draw; measure some --depth or --sequences"));
    }
    draw(file, title, &panels).map_err(|e| Failure::failed(format!("{}: {e}", file.display())))
}

fn draw(file: &Path, title: &str, panels: &[(&str, Vec<Line>)]) -> Result<(), Box<dyn std::error::Error>> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (480 * panels.len() as u32, 360)).into_drawing_area();
        root.fill(&WHITE)?;
        let root = root.titled(title, ("sans-serif", 16))?;
        for (area, (label, lines)) in root.split_evenly((1, panels.len())).iter().zip(panels) {
            let all = || lines.iter().flat_map(|(_, _, points)| points.iter());
            let right = all().map(|p| p.0).fold(1.0, f64::max) * 1.05;
            let top = all().map(|p| p.1).fold(1.0, f64::max) * 1.15;
            let mut chart = ChartBuilder::on(area)
                .margin(12)
                .x_label_area_size(36)
                .y_label_area_size(64)
                .build_cartesian_2d(0.0..right, 0.0..top)?;
            chart
                .configure_mesh()
                .x_desc(*label)
                .y_desc("tokens/s")
                .x_label_formatter(&|x| format!("{x:.0}"))
                .y_label_formatter(&|y| format!("{y:.0}"))
                .light_line_style(WHITE)
                .draw()?;
            for (name, colour, points) in lines.iter().filter(|(_, _, points)| !points.is_empty()) {
                let colour = *colour;
                chart
                    .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?
                    .label(*name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
                chart.draw_series(points.iter().map(|&p| Circle::new(p, 3, colour.filled())))?;
            }
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::LowerRight)
                .background_style(WHITE)
                .border_style(BLACK.mix(0.3))
                .draw()?;
        }
        root.present()?;
    }
    std::fs::write(file, svg)?;
    Ok(())
}
