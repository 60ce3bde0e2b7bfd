//! An operation's steps on standard error while the user waits: redrawn lines on a terminal, one line per event
//! elsewhere.

use std::{collections::HashMap, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use isyone_proto::pb::v1::{Operation, OperationState, OperationStep};

use crate::output::{
    Ui, format,
    table::{Paint, clean},
};

/// Width of the longest step name that agents and the coordinator use (`image-postgres`).
const NAME_WIDTH: usize = 14;

const RUNNING: &str = "  {spinner} {prefix}  {elapsed:>7}  {wide_msg}";
const ENDED: &str = "{wide_msg}";

/// A step by its name and which one of that name it is: an operation that goes back takes some steps a second time.
type Key = (String, usize);

/// The view. Dropping it leaves the finished lines on the screen.
#[derive(Debug)]
pub struct OperationProgress {
    ui: Ui,
    live: Option<MultiProgress>,
    bars: HashMap<Key, ProgressBar>,
    /// What was last printed about each step, so that nothing is printed twice.
    said: HashMap<Key, (i32, String)>,
    lost: bool,
}

impl OperationProgress {
    /// A view that starts with what is known already.
    pub fn new(ui: &Ui, operation: &Operation) -> Self {
        let live = ui
            .live
            .then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
        let mut view = Self {
            ui: *ui,
            live,
            bars: HashMap::new(),
            said: HashMap::new(),
            lost: false,
        };
        view.show(operation);
        view
    }

    /// Shows the operation's current state.
    pub fn show(&mut self, operation: &Operation) {
        if std::mem::take(&mut self.lost) {
            self.say("  connected again");
        }
        for (key, step) in keyed(&operation.steps) {
            let now = (step.state, step.detail.clone());
            let before = self.said.insert(key.clone(), now.clone());
            match &self.live {
                Some(live) => redraw(&self.ui, live, &mut self.bars, key, step),
                None if before.as_ref() != Some(&now) && worth_a_line(step) => {
                    self.ui.note(&line(step))
                }
                None => {}
            }
        }
    }

    /// Reports that the connection is lost for now.
    pub fn lost(&mut self) {
        if !std::mem::replace(&mut self.lost, true) {
            self.say("  connection lost; the work goes on, trying to reach the coordinator again");
        }
    }

    fn say(&self, text: &str) {
        match &self.live {
            // A closed terminal is no reason to stop.
            Some(live) => drop(live.println(text)),
            None => self.ui.note(text),
        }
    }

    /// Stops drawing and leaves the lines as they are.
    pub fn end(&mut self) {
        for bar in self.bars.values().filter(|bar| !bar.is_finished()) {
            bar.abandon();
        }
    }
}

fn keyed(steps: &[OperationStep]) -> impl Iterator<Item = (Key, &OperationStep)> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    steps.iter().map(move |step| {
        let count = counts.entry(&step.name).or_default();
        *count += 1;
        ((step.name.clone(), *count), step)
    })
}

fn state(step: &OperationStep) -> OperationState {
    OperationState::try_from(step.state).unwrap_or(OperationState::Unspecified)
}

fn ended(step: &OperationStep) -> bool {
    use OperationState::{Cancelled, Failed, Skipped, Succeeded};
    matches!(state(step), Succeeded | Failed | Cancelled | Skipped)
}

/// Without a terminal, only a step's end and its retries get a line: a log needs no progress updates.
fn worth_a_line(step: &OperationStep) -> bool {
    ended(step) || state(step) == OperationState::Retrying
}

/// One step as a line: mark, name, time, detail.
pub fn line(step: &OperationStep) -> String {
    let mark = match state(step) {
        OperationState::Succeeded => Paint::Good.on("✓"),
        OperationState::Skipped => Paint::Faint.on("·"),
        OperationState::Failed | OperationState::Cancelled => Paint::Bad.on("✗"),
        OperationState::Retrying => Paint::Warn.on("↻"),
        OperationState::Running => Paint::Warn.on("…"),
        OperationState::Pending | OperationState::Unspecified => Paint::Faint.on(" "),
    };
    let time = format::between(step.start_time.as_ref(), step.end_time.as_ref());
    let text = format!(
        "  {mark} {:<NAME_WIDTH$}  {time:>7}  {}",
        clean(&step.name),
        clean(&step.detail)
    );
    text.trim_end().to_owned()
}

fn redraw(
    ui: &Ui,
    live: &MultiProgress,
    bars: &mut HashMap<Key, ProgressBar>,
    key: Key,
    step: &OperationStep,
) {
    if matches!(
        state(step),
        OperationState::Pending | OperationState::Unspecified
    ) {
        return;
    }
    let bar = bars.entry(key).or_insert_with(|| {
        let bar = live.add(ProgressBar::new_spinner().with_style(style(RUNNING)));
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    });
    if ended(step) {
        if !bar.is_finished() {
            bar.set_style(style(ENDED));
            bar.finish_with_message(ui.painted(&line(step)));
        }
        return;
    }
    let percent = if step.progress_percent > 0 {
        format!("{:>3}% ", step.progress_percent.min(100))
    } else {
        String::new()
    };
    let again = if state(step) == OperationState::Retrying {
        "trying again: "
    } else {
        ""
    };
    bar.set_prefix(format!("{:<NAME_WIDTH$}", clean(&step.name)));
    bar.set_message(format!("{percent}{again}{}", clean(&step.detail)));
}

/// Cannot fail: the templates are constants, and a test parses them.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::table::paint;
    use prost_types::Timestamp;

    #[test]
    fn the_templates_parse() {
        for template in [RUNNING, ENDED] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn a_step_that_is_taken_again_has_a_line_of_its_own() {
        let steps = ["accept", "back", "accept"].map(|name| OperationStep {
            name: name.into(),
            ..Default::default()
        });
        let keys: Vec<Key> = keyed(&steps).map(|(key, _)| key).collect();
        let expected = [("accept", 1), ("back", 1), ("accept", 2)].map(|(n, i)| (n.to_owned(), i));
        assert_eq!(keys, expected);
    }

    #[test]
    fn a_step_is_one_line() {
        let step = OperationStep {
            name: "image-odoo".into(),
            state: OperationState::Succeeded.into(),
            start_time: Some(Timestamp {
                seconds: 10,
                nanos: 0,
            }),
            end_time: Some(Timestamp {
                seconds: 11,
                nanos: 650_000_000,
            }),
            detail: "pulled\nodoo:18.0".into(),
            progress_percent: 0,
        };
        assert_eq!(
            paint(&line(&step), false),
            "  ✓ image-odoo        1.65s  pulled odoo:18.0"
        );
    }
}
