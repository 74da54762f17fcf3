//! Figures of rounds, and their ratios to the base, as a table and as JSON.
//!
//! A ratio is taken round by round, between neighbours in time, so that a busy moment of the machine
//! does not count for one side alone. What is shown is the median of the rounds.

use std::fmt::Write;

use serde_json::{Map, Value};

use crate::error::BoxError;
use crate::variant::Variant;

/// The figures of one round: names with their units, and values. Every round has the same names.
pub(crate) type Figures = Vec<(&'static str, f64)>;

/// All rounds of one variant.
#[derive(Debug)]
pub(crate) struct Series {
    workload: &'static str,
    clients: u32,
    variant: Variant,
    pub(crate) rounds: Vec<Figures>,
}

impl Series {
    /// A series without rounds yet.
    pub(crate) fn new(workload: &'static str, clients: u32, variant: Variant) -> Self {
        Self { workload, clients, variant, rounds: Vec::new() }
    }

    fn names(&self) -> Vec<&'static str> {
        self.rounds.first().into_iter().flatten().map(|(name, _)| *name).collect()
    }

    fn values(&self, figure: usize) -> Vec<f64> {
        self.rounds.iter().map(|round| round[figure].1).collect()
    }

    /// The ratio to the base, round by round; `None` where a value of the base is zero.
    fn ratio(&self, base: &Self, figure: usize) -> Option<Spread> {
        let (own, base) = (self.values(figure), base.values(figure));
        Spread::of(own.iter().zip(base).map(|(own, base)| own / base).collect())
    }
}

/// The median of the rounds, and the smallest and largest value.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    /// `None` where there are no values, or one is not finite.
    fn of(mut values: Vec<f64>) -> Option<Self> {
        if values.iter().any(|value| !value.is_finite()) {
            return None;
        }
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let median = f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Self { median, min, max })
    }
}

/// The series of one workload and number of clients, the base first.
fn groups(measured: &[Series]) -> impl Iterator<Item = (&Series, &[Series])> {
    let same = |a: &Series, b: &Series| a.workload == b.workload && a.clients == b.clients;
    measured.chunk_by(same).filter_map(|group| Some((group.first()?, group)))
}

/// A table for each number of clients, with a line for each variant.
pub(crate) fn table(measured: &[Series]) -> String {
    let mut text = String::new();
    for (base, group) in groups(measured) {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "\n{}, {} clients: medians of {} rounds; ×: ratio to {} (least–most)",
            base.workload,
            base.clients,
            base.rounds.len(),
            base.variant,
        );
        let mut lines = vec![vec!["variant".to_owned()]];
        lines[0].extend(base.names().into_iter().map(str::to_owned));
        lines.extend(group.iter().map(|series| {
            let cells = (0..base.names().len()).map(|figure| cell(series, base, figure));
            std::iter::once(series.variant.name()).chain(cells).collect()
        }));
        align(&mut text, &lines);
    }
    text
}

fn cell(series: &Series, base: &Series, figure: usize) -> String {
    let Some(value) = Spread::of(series.values(figure)) else { return "-".to_owned() };
    let digits = if value.median.fract() == 0.0 || value.median >= 1000.0 { 0 } else { 2 };
    let value = format!("{:.digits$}", value.median);
    match series.ratio(base, figure) {
        Some(Spread { median, min, max }) if series.variant != base.variant => {
            format!("{value} ×{median:.2} ({min:.2}–{max:.2})")
        }
        _ => value,
    }
}

fn align(text: &mut String, lines: &[Vec<String>]) {
    for line in lines {
        let mut written = String::new();
        for (column, cell) in line.iter().enumerate() {
            let widths = lines.iter().map(|line| line[column].chars().count());
            let width = widths.max().unwrap_or_default() + 2;
            let _ = write!(written, "{cell:width$}");
        }
        let _ = writeln!(text, "{}", written.trim_end());
    }
}

/// A list with an object for each series: its figures, and for each figure `ratio_…` to the base
/// with `…_min` and `…_max`.
pub(crate) fn json(measured: &[Series]) -> Result<String, BoxError> {
    let objects = groups(measured)
        .flat_map(|(base, group)| group.iter().map(|series| Value::Object(object(series, base))));
    let mut text = serde_json::to_string_pretty(&Value::Array(objects.collect()))?;
    text.push('\n');
    Ok(text)
}

fn object(series: &Series, base: &Series) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("workload".to_owned(), series.workload.into());
    object.insert("clients".to_owned(), series.clients.into());
    object.insert("variant".to_owned(), series.variant.name().into());
    object.insert("rounds".to_owned(), series.rounds.len().into());
    for (figure, name) in series.names().into_iter().enumerate() {
        let value = Spread::of(series.values(figure));
        let ratio = series.ratio(base, figure);
        object.insert(name.to_owned(), value.map(|value| value.median).into());
        object.insert(format!("ratio_{name}"), ratio.map(|ratio| ratio.median).into());
        object.insert(format!("ratio_{name}_min"), ratio.map(|ratio| ratio.min).into());
        object.insert(format!("ratio_{name}_max"), ratio.map(|ratio| ratio.max).into());
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(variant: Variant, values: &[f64]) -> Series {
        let rounds = values.iter().map(|value| vec![("rps", *value)]).collect();
        Series { workload: "one", clients: 8, variant, rounds }
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // The machine became half as fast after the first round.
        let base = series(Variant::Pgpool, &[100.0, 50.0, 50.0]);
        let other = series(Variant::Dedicated, &[200.0, 100.0, 110.0]);
        let ratio = Spread { median: 2.0, min: 2.0, max: 2.2 };
        assert_eq!(other.ratio(&base, 0), Some(ratio));
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        let spread = Spread { median: 2.5, min: 1.0, max: 4.0 };
        assert_eq!(Spread::of(vec![4.0, 1.0, 3.0, 2.0]), Some(spread));
    }

    #[test]
    fn a_base_of_zero_has_no_ratio() {
        let base = series(Variant::Pgpool, &[0.0]);
        let text = table(&[base, series(Variant::Dedicated, &[0.0])]);
        assert!(text.ends_with("variant    rps\npgpool     0\ndedicated  0\n"), "{text}");
    }
}
