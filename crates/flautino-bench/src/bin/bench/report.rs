//! Figures of rounds, and their ratios to the base, as tables for people and as JSON.
//!
//! A ratio is taken round by round, between neighbours in time, so that a busy moment of the machine
//! does not count for one side alone. What is shown is the median of the rounds.

use std::fmt::Write;

use serde_json::{Map, Value};

use crate::error::BoxError;
use crate::options::Workload;
use crate::variant::Variant;

/// The figures of one round: names with their units, and values. Every round has the same names.
pub(crate) type Figures = Vec<(&'static str, f64)>;

/// All rounds of one variant.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) workload: Workload,
    pub(crate) clients: u32,
    pub(crate) variant: Variant,
    pub(crate) rounds: Vec<Figures>,
    /// What was counted in a round of its own, if anything was.
    pub(crate) counts: Figures,
}

impl Series {
    /// A series without rounds yet.
    pub(crate) fn new(workload: Workload, clients: u32, variant: Variant) -> Self {
        Self { workload, clients, variant, rounds: Vec::new(), counts: Vec::new() }
    }

    /// The median of the rounds.
    pub(crate) fn median(&self, name: &str) -> Option<f64> {
        let figure = self.names().into_iter().position(|of| of == name)?;
        Spread::of(self.values(figure)).map(|spread| spread.median)
    }

    fn names(&self) -> Vec<&'static str> {
        let of_rounds = self.rounds.first().into_iter().flatten();
        of_rounds.chain(&self.counts).map(|(name, _)| *name).collect()
    }

    fn values(&self, figure: usize) -> Vec<f64> {
        let of_rounds = self.rounds.first().map_or(0, Vec::len);
        match figure.checked_sub(of_rounds) {
            Some(count) => vec![self.counts[count].1],
            None => self.rounds.iter().map(|round| round[figure].1).collect(),
        }
    }

    /// The ratio to the base, round by round; `None` where a value of the base is zero.
    fn ratio(&self, base: &Self, figure: usize) -> Option<Spread> {
        let (own, base) = (self.values(figure), base.values(figure));
        Spread::of(own.iter().zip(base).map(|(own, base)| own / base).collect())
    }
}

/// The median of the rounds, and the smallest and largest value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// `None` where there are no values, or one is not finite.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
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
        let _ = writeln!(text, "\n{}: {}", title(base), legend(base));
        align(&mut text, &lines(base, group));
    }
    text
}

/// The same as Markdown.
pub(crate) fn markdown(measured: &[Series]) -> String {
    let mut text = String::new();
    for (base, group) in groups(measured) {
        if !text.is_empty() {
            text.push('\n');
        }
        let _ = writeln!(text, "### {}\n\nThe {}.\n", title(base), legend(base));
        for (number, line) in lines(base, group).iter().enumerate() {
            let _ = writeln!(text, "| {} |", line.join(" | "));
            if number == 0 {
                let _ = writeln!(text, "|---|{}", "--:|".repeat(line.len() - 1));
            }
        }
    }
    text
}

fn title(base: &Series) -> String {
    let clients = if base.clients == 1 { "client" } else { "clients" };
    format!("{}, {} {clients}", base.workload.name(), base.clients)
}

fn legend(base: &Series) -> String {
    let rounds = base.rounds.len();
    format!("medians of {rounds} rounds; ×: ratio to {} (least–most)", base.variant)
}

/// The names of the figures, and then each variant's.
fn lines(base: &Series, group: &[Series]) -> Vec<Vec<String>> {
    let names = base.names();
    let head = std::iter::once("variant").chain(names.iter().copied());
    let mut lines = vec![head.map(str::to_owned).collect::<Vec<_>>()];
    lines.extend(group.iter().map(|series| {
        let cells = (0..names.len()).map(|figure| cell(series, base, figure));
        std::iter::once(series.variant.name()).chain(cells).collect()
    }));
    lines
}

fn cell(series: &Series, base: &Series, figure: usize) -> String {
    let Some(value) = Spread::of(series.values(figure)) else { return "-".to_owned() };
    let text = number(value.median);
    match series.ratio(base, figure) {
        None => text,
        Some(_) if series.variant == base.variant => text,
        Some(ratio) if ratio.min == ratio.max => format!("{text} ×{:.2}", ratio.median),
        Some(Spread { median, min, max }) => format!("{text} ×{median:.2} ({min:.2}–{max:.2})"),
    }
}

/// With as many digits as tell something.
pub(crate) fn number(value: f64) -> String {
    let digits = match value {
        whole if whole.fract() == 0.0 || whole >= 1000.0 => 0,
        small if small < 0.1 => 4,
        _ => 2,
    };
    format!("{value:.digits$}")
}

/// Writes lines of cells as columns.
pub(crate) fn align(text: &mut String, lines: &[Vec<String>]) {
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
    object.insert("workload".to_owned(), series.workload.name().into());
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
        Series { rounds, ..Series::new(Workload::One, 8, variant) }
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

    #[test]
    fn counts_come_after_the_figures_of_the_rounds() {
        let mut base = series(Variant::Pgpool, &[10.0, 30.0]);
        base.counts = vec![("round_trips_per_request", 3.0)];
        let mut other = series(Variant::Dedicated, &[20.0, 90.0]);
        other.counts = vec![("round_trips_per_request", 1.0)];
        let text = markdown(&[base, other]);
        let lines: Vec<&str> = text.lines().skip(4).collect();
        let expected = [
            "| variant | rps | round_trips_per_request |",
            "|---|--:|--:|",
            "| pgpool | 20 | 3 |",
            "| dedicated | 55 ×2.50 (2.00–3.00) | 1 ×0.33 |",
        ];
        assert_eq!(lines, expected, "{text}");
    }
}
