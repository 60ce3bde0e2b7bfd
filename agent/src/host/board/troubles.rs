//! The board's words on the host itself: that Docker does not answer, what else its operators must know, and what was mended.
//!
//! Not here: its tenants (the parent).

use isyone_proto::{
    finding::Finding,
    plan::UnixMs,
    report::{HostCondition, Mended},
};

use super::StatusBoard;

impl StatusBoard {
    /// Docker's error; empty when it answers. Returns whether it changed.
    pub fn set_docker_error(&self, error: &str) -> bool {
        let mut inner = self.lock();
        let news = inner.docker_error != error;
        if news {
            inner.docker_error = error.to_owned();
            drop(inner);
            self.changed.notify_one();
        }
        news
    }

    /// Anything else that the host's operators must know, by subject (`ledger`, `firewall`); empty clears it.
    pub fn set_warning(&self, subject: &'static str, warning: &str) {
        let mut inner = self.lock();
        let news = if warning.is_empty() {
            inner.warnings.remove(subject).is_some()
        } else {
            inner
                .warnings
                .insert(subject, warning.to_owned())
                .is_none_or(|old| old != warning)
        };
        drop(inner);
        if news {
            self.changed.notify_one();
        }
    }

    /// Something was not as it must be, and is again: told once, as an event of the host.
    pub fn set_mended(&self, subject: &'static str, message: &str, now: UnixMs) {
        let mut inner = self.lock();
        inner.mended.insert(subject, (now, message.to_owned()));
        drop(inner);
        self.changed.notify_one();
    }

    /// That the disk of tenants' data is full, in words; empty: it is not.
    pub fn set_full(&self, words: &str) {
        words.clone_into(&mut self.lock().full);
    }

    /// Why nothing that serves is stopped now for a restart or a change.
    pub fn full(&self) -> Option<String> {
        let full = self.lock().full.clone();
        (!full.is_empty()).then_some(full)
    }

    /// What is wrong with the host, by all checks.
    pub fn set_findings(&self, findings: Vec<Finding>) {
        self.lock().findings = findings;
    }

    /// How the host itself is, but for its networks.
    pub fn condition(&self) -> HostCondition {
        let inner = self.lock();
        let mended = inner.mended.iter().map(|(subject, (at, message))| Mended {
            subject: (*subject).into(),
            at: *at,
            message: message.as_str().into(),
        });
        HostCondition {
            docker_away: !inner.docker_error.is_empty(),
            mended: mended.collect(),
            networks: None,
            full: inner.full.as_str().into(),
            findings: inner.findings.clone(),
        }
    }

    /// Docker's error; empty when it answers.
    pub fn docker_error(&self) -> String {
        self.lock().docker_error.clone()
    }

    /// Docker's error and all warnings, as one text.
    pub fn troubles(&self) -> String {
        let inner = self.lock();
        let docker = match inner.docker_error.as_str() {
            "" => String::new(),
            why => format!("Docker does not answer: {why}"),
        };
        let all = std::iter::once(&docker).chain(inner.warnings.values());
        all.filter(|t| !t.is_empty())
            .cloned()
            .collect::<Vec<_>>()
            .join("; ")
    }
}
