//! Prometheus's text format. Pure.
//!
//! Not here: which metrics there are.

use std::fmt::Write as _;

/// Content type of a page that [`Text`] makes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a metric means to Prometheus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricType {
    /// Only rises.
    Counter,
    /// Goes up and down.
    Gauge,
}

impl MetricType {
    fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// A page of metrics being written. A family's samples follow its header, as the format requires.
#[derive(Debug, Default)]
pub struct Text(String);

impl Text {
    /// Starts a family.
    pub fn family(&mut self, name: &str, kind: MetricType, help: &str) {
        // Writing to a String cannot fail, so results are ignored here and below.
        let _ = write!(
            self.0,
            "# HELP {name} {help}\n# TYPE {name} {}\n",
            kind.word()
        );
    }

    /// Adds a sample to the family started last.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"", if at == 0 { '{' } else { ',' });
            for c in text.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        let _ = writeln!(
            self.0,
            "{} {value}",
            if labels.is_empty() { "" } else { "}" }
        );
    }

    /// Adds a family with one sample without labels.
    pub fn single(&mut self, name: &str, kind: MetricType, help: &str, value: f64) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// Appends another page.
    pub fn append(&mut self, other: Self) {
        self.0.push_str(&other.0);
    }

    /// Returns the page's text.
    pub fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_numbers_are_plain() {
        let mut text = Text::default();
        text.family("a_total", MetricType::Counter, "Things");
        text.sample("a_total", &[("x", "a\"b\\c\nd"), ("y", "")], 1e18);
        text.single("b", MetricType::Gauge, "Part", 0.25);
        assert_eq!(
            text.finish(),
            "# HELP a_total Things\n# TYPE a_total counter\na_total{x=\"a\\\"b\\\\c\\nd\",y=\"\"} 1000000000000000000\n\
             # HELP b Part\n# TYPE b gauge\nb 0.25\n"
        );
    }
}
