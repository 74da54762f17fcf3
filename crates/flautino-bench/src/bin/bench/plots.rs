//! Plots: requests a second and p99 by the number of clients, with a line for each variant; and what
//! [`growth`](crate::growth) draws.

use std::fs;
use std::path::Path;

use plotters::prelude::*;

use crate::error::BoxError;
use crate::report::Series;
use crate::variant::Variant;

/// In pixels, as a browser shows it.
const SIZE: (u32, u32) = (760, 440);
/// One colour for each variant, which can be told apart also by those who confuse red and green (Okabe and
/// Ito).
const COLOURS: [RGBColor; 9] = [
    RGBColor(0, 0, 0),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 114, 178),
    RGBColor(204, 121, 167),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(128, 128, 128),
    RGBColor(120, 94, 240),
];

/// What a plot shows.
#[derive(Debug, Clone, Copy)]
struct Figure {
    name: &'static str,
    title: &'static str,
}

const FIGURES: [Figure; 2] = [
    Figure { name: "rps", title: "requests a second" },
    Figure { name: "p99_us", title: "p99 in µs" },
];

/// A line of a plot, through points above 0.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) colour: RGBColor,
    pub(crate) points: Vec<(f64, f64)>,
}

/// What goes from left to right. Powers of `base` are labelled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Across {
    pub(crate) name: &'static str,
    pub(crate) base: f64,
}

const CLIENTS: Across = Across { name: "clients", base: 2.0 };

/// Draws each workload's plots into the folder, which is made if it is not there: `one-rps.svg` and so on.
pub(crate) fn draw(measured: &[Series], folder: &Path) -> Result<(), BoxError> {
    fs::create_dir_all(folder)?;
    for of_workload in measured.chunk_by(|a, b| a.workload == b.workload) {
        let Some(workload) = of_workload.first().map(|series| series.workload) else { continue };
        if !workload.is_steady() {
            continue;
        }
        for figure in FIGURES {
            let name = workload.name();
            let path = folder.join(format!("{name}-{}.svg", figure.name));
            let title = format!("{name}: {} by clients", figure.title);
            plot(&path, &title, CLIENTS, &lines(of_workload, figure))?;
        }
    }
    Ok(())
}

fn lines(of_workload: &[Series], figure: Figure) -> Vec<Line> {
    let mut lines = Vec::new();
    for variant in Variant::all() {
        let of_variant = of_workload.iter().filter(|series| series.variant == variant);
        let points = of_variant
            .filter_map(|series| Some((f64::from(series.clients), series.median(figure.name)?)));
        let mut points: Vec<(f64, f64)> = points.filter(|point| point.1 > 0.0).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        if !points.is_empty() {
            lines.push(Line { name: variant.name(), colour: colour(variant), points });
        }
    }
    lines
}

/// Draws one plot into this file. Both axes are logarithmic, so that equal ratios are equal distances. What
/// goes across is so by itself already, so that it is labelled by powers of its base.
pub(crate) fn plot(
    path: &Path,
    title: &str,
    across: Across,
    lines: &[Line],
) -> Result<(), BoxError> {
    let place = |x: f64| x.log(across.base);
    let points = || lines.iter().flat_map(|line| &line.points);
    let Some((least, most)) = ends(points().map(|point| place(point.0))) else { return Ok(()) };
    let margin = 0.03 * (most - least).max(1.0);
    let places = least - margin..most + margin;
    let Some((least, most)) = ends(points().map(|point| point.1)) else { return Ok(()) };
    // Only powers of ten are sure to be labelled, so that it begins with one.
    let values = 10_f64.powf(least.log10().floor()) * 0.999..most * 1.2;
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(places, values.log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(12)
        .x_desc(across.name)
        .x_label_formatter(&|place| {
            if place.fract() == 0.0 {
                format!("{:.0}", across.base.powf(*place))
            } else {
                String::new()
            }
        })
        .y_label_formatter(&|value| format!("{value:.0}"))
        .draw()?;
    for line in lines {
        let style = line.colour.stroke_width(2);
        let points = line.points.iter().map(|(x, y)| (place(*x), *y));
        chart
            .draw_series(LineSeries::new(points, style).point_size(3))?
            .label(line.name.clone())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        // All figures stay or grow from left to right, so that this corner is free.
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    area.present()?;
    Ok(())
}

/// The same in all plots.
pub(crate) fn colour(variant: Variant) -> RGBColor {
    let number = Variant::all().into_iter().position(|of| of == variant).unwrap_or_default();
    COLOURS[number % COLOURS.len()]
}

/// The least and the largest value.
fn ends(values: impl Iterator<Item = f64> + Clone) -> Option<(f64, f64)> {
    Some((values.clone().reduce(f64::min)?, values.reduce(f64::max)?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::options::Workload;

    #[test]
    fn every_variant_has_a_line_and_every_number_of_clients_a_point() {
        let clients = [1, 8, 16, 64, 512];
        let measured = clients.iter().flat_map(|clients| {
            Variant::all().into_iter().zip(1_u32..).map(move |(variant, number)| {
                let figure = f64::from(number * (clients + 20) * 10);
                let rounds = vec![vec![("rps", figure), ("p99_us", 1e6 / figure)]];
                Series { rounds, ..Series::new(Workload::Tx, *clients, variant) }
            })
        });
        let folder = tempfile::tempdir().unwrap();
        draw(&measured.collect::<Vec<_>>(), folder.path()).unwrap();
        for name in ["tx-rps.svg", "tx-p99_us.svg"] {
            let plot = fs::read_to_string(folder.path().join(name)).unwrap();
            for variant in Variant::all() {
                assert!(plot.contains(&format!("\n{variant}\n")), "{variant}");
            }
            assert_eq!(plot.matches("<circle").count(), clients.len() * Variant::all().len());
        }
    }
}
