//! Series of measurements and the lines that show them.

use crate::say;

/// The results of several repetitions of one measurement.
#[derive(Clone, Debug, Default)]
pub struct Series(Vec<f64>);

impl Series {
    /// Adds a result to the series.
    pub fn push(&mut self, value: f64) {
        let at = self.0.partition_point(|other| *other < value);
        self.0.insert(at, value);
    }

    /// The smallest result of the series.
    pub fn min(&self) -> f64 {
        self.0.first().copied().unwrap_or(f64::NAN)
    }

    /// The median: the middle result, or the mean of the two in the middle.
    pub fn median(&self) -> f64 {
        let at = |place: usize| self.0.get(place).copied().unwrap_or(f64::NAN);
        f64::midpoint(at(self.0.len() / 2), at(self.0.len().saturating_sub(1) / 2))
    }

    /// The result that this percentage of all results does not exceed.
    pub fn percentile(&self, percent: usize) -> f64 {
        let place = (self.0.len() * percent).div_ceil(100).saturating_sub(1);
        self.0.get(place).copied().unwrap_or(f64::NAN)
    }

    /// The largest result of the series.
    pub fn max(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }

    /// The number of results.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no result.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<f64> for Series {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut series = Self::default();
        values.into_iter().for_each(|value| series.push(value));
        series
    }
}

/// Prints the head of a table.
pub fn head(title: &str) {
    say(&format!("\n### {title}\n"));
    say("| what | runs | min | median | max | |");
    say("|---|---|---|---|---|---|");
}

/// Prints a line of a table: a series in a unit, and a remark, for example the target.
pub fn line(what: &str, series: &Series, unit: &str, remark: &str) {
    let number = |value: f64| match value {
        v if v >= 1000.0 => format!("{v:.0}"),
        v if v >= 100.0 => format!("{v:.1}"),
        v if v >= 10.0 => format!("{v:.2}"),
        v => format!("{v:.3}"),
    };
    say(&format!(
        "| {what} | {} | {} {unit} | {} {unit} | {} {unit} | {remark} |",
        series.len(),
        number(series.min()),
        number(series.median()),
        number(series.max()),
    ));
}

/// `met` or `MISSED`, with the target, to print after the median.
pub fn verdict(met: bool, target: &str) -> String {
    format!("target {target}: {}", if met { "met" } else { "**missed**" })
}
