//! Where the time of a create goes: the operation's steps, as medians over all rounds.
//!
//! Not here: measuring the whole (the parent).

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use isyone_tests::e2e::cell::Cell;

use super::Created;
use crate::{figures::Report, samples::Samples};

/// How an operation describes its database if the agent used a spare copy.
const BEFOREHAND: &str = "copied beforehand";

/// Start and end of each step, in seconds from the operation's start.
#[derive(Debug, Default)]
pub(super) struct Steps {
    order: Vec<String>,
    times: BTreeMap<String, (Samples, Samples)>,
    accepted: Samples,
    page: Samples,
    /// Number of creates that used a spare copy.
    beforehand: usize,
}

impl Steps {
    /// Records a finished create's operation; returns whether it used a spare copy.
    pub(super) fn add(&mut self, cell: &Cell, created: &Created) -> Result<bool> {
        let tenant = cell.json(&["tenant", "show", &created.name]);
        let id = tenant["operation_id"]
            .as_str()
            .context("an operation")?
            .to_owned();
        let operation = cell.json(&["op", "show", &id]);
        let begin = seconds(&operation["create_time"])?;
        let mut beforehand = false;
        for step in operation["steps"].as_array().context("steps")? {
            let name = step["name"].as_str().context("a name")?.to_owned();
            let (Ok(start), Ok(end)) = (seconds(&step["start_time"]), seconds(&step["end_time"]))
            else {
                continue; // was not needed
            };
            if name == "database" {
                beforehand = step["detail"]
                    .as_str()
                    .is_some_and(|detail| detail.contains(BEFOREHAND));
            }
            if !self.order.contains(&name) {
                self.order.push(name.clone());
            }
            let (starts, ends) = self.times.entry(name).or_default();
            starts.push(start - begin);
            ends.push(end - begin);
        }
        self.accepted.push(created.accepted.as_secs_f64());
        self.page.push(created.took.as_secs_f64());
        self.beforehand += usize::from(beforehand);
        Ok(beforehand)
    }

    pub(super) fn tell(self, report: &mut Report) {
        let ms = |samples: &Samples| (samples.median() * 1000.0).round();
        let step = |name: &String| {
            let (starts, ends) = &self.times[name];
            format!("{name} {}–{}", ms(starts), ms(ends))
        };
        let steps: Vec<String> = self.order.iter().map(step).collect();
        report.note(format!(
            "From the golden snapshot, step by step (begin–end, ms after the coordinator stored the tenant, medians): {}. `isyctl` itself was \
             back after {} ms, the login page came {} ms after its start. Of these {} creates, {} took a copy made beforehand.",
            steps.join(", "),
            ms(&self.accepted),
            ms(&self.page),
            self.page.len(),
            self.beforehand
        ));
    }
}

/// An RFC 3339 time, in seconds.
pub(crate) fn seconds(value: &serde_json::Value) -> Result<f64> {
    let time: jiff::Timestamp = value.as_str().context("a time")?.parse()?;
    Ok(time.as_microsecond() as f64 / 1e6)
}
