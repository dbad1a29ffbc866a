//! What was measured of one workload: a JSON object, or a line for people.

use std::fmt::Write as _;

/// What the columns of [`Row::text`] are.
pub(super) const HEADING: &str =
    "workload                        value  unit                   beside it, in the same run";

/// What was measured of one workload.
pub(super) struct Row {
    workload: &'static str,
    /// The first one is what the bar is about.
    values: Vec<(&'static str, Measured)>,
}

#[derive(Clone, Copy)]
enum Measured {
    Count(u64),
    Number(f64),
}

impl Measured {
    fn text(self) -> String {
        match self {
            Self::Count(count) => count.to_string(),
            Self::Number(number) if number >= 1000.0 => format!("{number:.0}"),
            Self::Number(number) => format!("{number:.3}"),
        }
    }
}

/// The unit of a key, for people.
fn unit(key: &str) -> &str {
    match key {
        "records_per_second_per_core" => "records/s on one core",
        "records_per_second" => "records/s",
        "ratio_to_limit" => "of the limit",
        "mib_per_second" => "MiB/s",
        "p99_us" => "us, 99 of 100",
        "mib" => "MiB",
        "ratio" => "of the records' bytes",
        other => other,
    }
}

impl Row {
    pub(super) const fn new(workload: &'static str) -> Self {
        Self { workload, values: Vec::new() }
    }

    pub(super) fn count(mut self, name: &'static str, value: u64) -> Self {
        self.values.push((name, Measured::Count(value)));
        self
    }

    pub(super) fn number(mut self, name: &'static str, value: f64) -> Self {
        self.values.push((name, Measured::Number(value)));
        self
    }

    /// One JSON object.
    pub(super) fn json(&self) -> String {
        let mut line = format!("{{\"workload\":\"{}\"", self.workload);
        for (name, value) in &self.values {
            // Writing to a string cannot fail.
            let _infallible = match value {
                Measured::Count(count) => write!(line, ",\"{name}\":{count}"),
                Measured::Number(number) => write!(line, ",\"{name}\":{number:.4}"),
            };
        }
        line.push('}');
        line
    }

    /// One line under [`HEADING`]: what the bar is about, its unit, and where there is one the limit that was
    /// measured in the same run; else how much was done.
    pub(super) fn text(&self) -> String {
        let Some((name, value)) = self.values.first() else { return self.workload.to_owned() };
        let of = |wanted: &str| self.values.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.text());
        let beside = match (of("limit_records_per_second"), of("records_per_second")) {
            (Some(limit), Some(reached)) => format!("limit {limit} records/s, reached {reached}"),
            _ => format!("{} records in {} s", of("records").unwrap_or_default(), of("seconds").unwrap_or_default()),
        };
        format!("{:<24} {:>12}  {:<21}  {beside}", self.workload, value.text(), unit(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_begins_with_what_the_bar_is_about_and_tells_the_limit_in_its_columns() {
        let appended = Row::new("append_batch_64")
            .number("ratio_to_limit", 0.5)
            .number("records_per_second", 250_000.0)
            .number("limit_records_per_second", 500_000.4)
            .count("records", 64);
        let memory = Row::new("memory").number("mib", 79.25).count("records", 1000).number("seconds", 1.5);
        assert_eq!(
            [HEADING, &appended.text(), &memory.text()],
            [
                "workload                        value  unit                   beside it, in the same run",
                "append_batch_64                 0.500  of the limit           limit 500000 records/s, reached 250000",
                "memory                         79.250  MiB                    1000 records in 1.500 s",
            ]
        );
        assert_eq!(memory.json(), r#"{"workload":"memory","mib":79.2500,"records":1000,"seconds":1.5000}"#);
    }
}
