//! Figures as tables, JSON and plots. Each has two ratios, both taken round by round: to the first number of
//! the same subject, which says how it grows, and to the first subject at the same number.

use std::fmt::Write;
use std::path::Path;

use serde_json::{Map, Value};

use super::axis::{Axis, CONNECTIONS, Subject};
use crate::error::BoxError;
use crate::plots::{Line, colour, plot};
use crate::report::{Figures, Spread, align, number};

/// All rounds of one subject at one number.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) subject: Subject,
    pub(super) count: u32,
    pub(super) rounds: Vec<Figures>,
}

impl Series {
    fn names(&self) -> impl Iterator<Item = &'static str> {
        self.rounds.first().into_iter().flatten().map(|(name, _)| *name)
    }

    fn values(&self, figure: usize) -> impl Iterator<Item = f64> {
        self.rounds.iter().map(move |round| round[figure].1)
    }

    fn spread(&self, figure: usize) -> Option<Spread> {
        Spread::of(self.values(figure).collect())
    }

    fn ratio(&self, base: &Self, figure: usize) -> Option<Spread> {
        let pairs = self.values(figure).zip(base.values(figure));
        Spread::of(pairs.map(|(own, base)| own / base).collect())
    }

    /// The ratios of a figure, by their names; none to itself.
    fn ratios(&self, all: &[Self], figure: usize) -> Vec<(String, Option<Spread>)> {
        let mut ratios = Vec::new();
        if self.names().nth(figure) == Some(CONNECTIONS) {
            return ratios;
        }
        let first = all.iter().find(|other| other.subject == self.subject);
        if let Some(first) = first {
            let ratio = (first.count != self.count).then(|| self.ratio(first, figure)).flatten();
            ratios.push(("to_first".to_owned(), ratio));
        }
        let base = all.iter().find(|other| other.count == self.count);
        if let Some(base) = base
            && all.iter().any(|other| other.subject != base.subject)
        {
            let is_other = base.subject != self.subject;
            let ratio = is_other.then(|| self.ratio(base, figure)).flatten();
            ratios.push((format!("to_{}", base.subject.name), ratio));
        }
        ratios
    }
}

fn heading(axis: Axis, all: &[Series]) -> String {
    let rounds = all.first().map_or(0, |series| series.rounds.len());
    format!("{}; medians of {rounds} rounds, ratios with (least–most)", axis.title())
}

pub(super) fn table(axis: Axis, all: &[Series]) -> String {
    let mut text = format!("\n{}: {}\n", axis.name(), heading(axis, all));
    align(&mut text, &lines(axis, all));
    text
}

pub(super) fn markdown(measured: &[(Axis, Vec<Series>)]) -> String {
    let mut text = String::new();
    for (axis, all) in measured {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "### {}\n\n{}.\n", axis.name(), heading(*axis, all));
        for (number, line) in lines(*axis, all).iter().enumerate() {
            let _ = writeln!(text, "| {} |", line.join(" | "));
            if number == 0 {
                let _ = writeln!(text, "|---|--:|{}", "--:|".repeat(line.len() - 2));
            }
        }
        text.push('\n');
    }
    text
}

fn lines(axis: Axis, all: &[Series]) -> Vec<Vec<String>> {
    let Some(first) = all.first() else { return Vec::new() };
    let mut head = vec!["subject".to_owned(), axis.across().name.to_owned()];
    for (figure, name) in first.names().enumerate() {
        head.push(name.to_owned());
        head.extend(first.ratios(all, figure).into_iter().map(|(name, _)| name));
    }
    let line = |series: &Series| {
        let mut line = vec![series.subject.name.to_owned(), series.count.to_string()];
        for figure in 0..series.names().count() {
            let value = series.spread(figure);
            line.push(value.map_or_else(|| "-".to_owned(), |value| number(value.median)));
            let ratios = series.ratios(all, figure);
            line.extend(ratios.into_iter().map(|(_, ratio)| shown(ratio)));
        }
        line
    };
    std::iter::once(head).chain(all.iter().map(line)).collect()
}

fn shown(ratio: Option<Spread>) -> String {
    ratio.map_or_else(String::new, |Spread { median, min, max }| {
        format!("×{median:.2} ({min:.2}–{max:.2})")
    })
}

/// A list with an object for each subject and number: its figures, and for each `NAME_to_first` and
/// `NAME_to_pgpool`, with `…_min` and `…_max`.
pub(super) fn json(measured: &[(Axis, Vec<Series>)]) -> Result<String, BoxError> {
    let of_axis = |(axis, all): &(Axis, Vec<Series>)| -> Vec<Value> {
        all.iter().map(|series| object(*axis, series, all)).collect()
    };
    let mut text =
        serde_json::to_string_pretty(&measured.iter().flat_map(of_axis).collect::<Value>())?;
    text.push('\n');
    Ok(text)
}

fn object(axis: Axis, series: &Series, all: &[Series]) -> Value {
    let mut object = Map::new();
    object.insert("axis".to_owned(), axis.name().into());
    object.insert("subject".to_owned(), series.subject.name.into());
    object.insert("count".to_owned(), series.count.into());
    object.insert("rounds".to_owned(), series.rounds.len().into());
    for (figure, name) in series.names().enumerate() {
        object.insert(name.to_owned(), series.spread(figure).map(|value| value.median).into());
        for (ratio_name, ratio) in series.ratios(all, figure) {
            let name = format!("{name}_{ratio_name}");
            object.insert(format!("{name}_min"), ratio.map(|ratio| ratio.min).into());
            object.insert(format!("{name}_max"), ratio.map(|ratio| ratio.max).into());
            object.insert(name, ratio.map(|ratio| ratio.median).into());
        }
    }
    Value::Object(object)
}

/// Draws the axis's plot into the folder, which is made if it is not there: `growth-nodes.svg` and so on.
pub(super) fn draw(axis: Axis, all: &[Series], folder: &Path) -> Result<(), BoxError> {
    std::fs::create_dir_all(folder)?;
    let (drawn, title) = axis.drawn();
    let lines = all.chunk_by(|a, b| a.subject == b.subject).filter_map(|of_subject| {
        let subject = of_subject.first()?.subject;
        let points = of_subject.iter().filter_map(|series| {
            let figure = series.names().position(|name| name == drawn)?;
            Some((f64::from(series.count), series.spread(figure)?.median))
        });
        let points: Vec<_> = points.filter(|point| point.1 > 0.0).collect();
        Some(Line { name: subject.name.to_owned(), colour: colour(subject.variant), points })
    });
    let lines: Vec<_> = lines.filter(|line| !line.points.is_empty()).collect();
    let (name, across) = (axis.name(), axis.across());
    let path = folder.join(format!("growth-{name}.svg"));
    plot(&path, &format!("{title} by {}", across.name), across, &lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::variant::Variant;

    fn series(name: &'static str, variant: Variant, count: u32, values: &[f64]) -> Series {
        let subject = Subject { name, variant };
        let rounds = values.iter().map(|value| vec![("cpu_us_per_read", *value)]).collect();
        Series { subject, count, rounds }
    }

    #[test]
    fn growth_and_the_ratio_to_the_base_are_taken_round_by_round() {
        // The machine became half as fast after the first round.
        let all = [
            series("pgpool", Variant::Pgpool, 10, &[10.0, 20.0]),
            series("pgpool", Variant::Pgpool, 100, &[11.0, 22.0]),
            series("flautino_one", Variant::FlautinoOne, 10, &[5.0, 10.0]),
            series("flautino_one", Variant::FlautinoOne, 100, &[10.0, 20.0]),
        ];
        let text = table(Axis::Tasks, &all);
        let lines: Vec<Vec<&str>> =
            text.lines().skip(2).map(|line| line.split_whitespace().collect()).collect();
        let expected: [&[&str]; 5] = [
            &["subject", "tasks", "cpu_us_per_read", "to_first", "to_pgpool"],
            &["pgpool", "10", "15"],
            &["pgpool", "100", "16.50", "×1.10", "(1.10–1.10)"],
            &["flautino_one", "10", "7.50", "×0.50", "(0.50–0.50)"],
            &["flautino_one", "100", "15", "×2.00", "(2.00–2.00)", "×0.91", "(0.91–0.91)"],
        ];
        assert_eq!(lines, expected, "{text}");
    }
}
