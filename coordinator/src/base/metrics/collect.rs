//! Helpers for collectors, which write families of gauges at a scrape.
//!
//! Not here: the values (each part has its own collector).

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};

/// Where a collector writes its values.
#[derive(Debug)]
pub(crate) struct Families<'a>(pub(crate) DescriptorEncoder<'a>);

impl Families<'_> {
    /// A gauge without labels.
    pub(crate) fn gauge(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        value: i64,
    ) -> fmt::Result {
        let metric = self
            .0
            .encode_descriptor(name, &sentence(help), unit, MetricType::Gauge)?;
        ConstGauge::new(value).encode(metric)
    }

    /// One gauge for each set of labels.
    pub(crate) fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: impl IntoIterator<Item = (L, i64)>,
    ) -> fmt::Result {
        let mut family =
            self.0
                .encode_descriptor(name, &sentence(help), unit, MetricType::Gauge)?;
        for (labels, value) in values {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// A counter of seconds that another component keeps.
    pub(crate) fn seconds(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let unit = Some(&Unit::Seconds);
        let metric = self
            .0
            .encode_descriptor(name, &sentence(help), unit, MetricType::Counter)?;
        ConstCounter::new(value).encode(metric)
    }
}

/// The help text as a registry writes it for what is registered with it.
fn sentence(help: &str) -> String {
    format!("{help}.")
}

/// Converts a count to a gauge's type.
pub(crate) fn number(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
