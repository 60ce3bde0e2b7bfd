//! How a host itself is: to the wire, and from it bounded. Nothing in it makes a report unusable.
//!
//! Not here: its tenants (report).

use super::{
    report::{MAX_WORD, shortened},
    timestamp, unix_ms,
};
use crate::{
    pb::agent::v1 as agent,
    report::{HostCondition, Mended},
};

/// An agent has a handful of things that it mends by itself.
const MAX_MENDED: usize = 16;
/// Longest text about one of them, bytes: they come with every report.
const MAX_MENDED_MESSAGE: usize = 512;

/// What is too much is left out: it is news, and nothing depends on it.
pub(super) fn parsed(wire: agent::HostCondition) -> HostCondition {
    let mended = wire.mended.into_iter().take(MAX_MENDED);
    HostCondition {
        docker_away: wire.docker_away,
        mended: mended
            .map(|mended| Mended {
                subject: shortened(mended.subject, MAX_WORD).into(),
                at: mended.time.as_ref().map_or(0, unix_ms),
                message: shortened(mended.message, MAX_MENDED_MESSAGE).into(),
            })
            .collect(),
    }
}

impl From<&HostCondition> for agent::HostCondition {
    fn from(condition: &HostCondition) -> Self {
        let mended = condition.mended.iter();
        Self {
            docker_away: condition.docker_away,
            mended: mended
                .map(|mended| agent::Mended {
                    subject: mended.subject.to_string(),
                    time: Some(timestamp(mended.at)),
                    message: mended.message.to_string(),
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_comes_back_as_it_was_said_and_is_bounded() {
        let said = HostCondition {
            docker_away: true,
            mended: vec![Mended {
                subject: "packet filter".into(),
                at: 1_700_000_000_123,
                message: "it was gone".into(),
            }],
        };
        assert_eq!(parsed((&said).into()), said);
        let one = agent::Mended {
            message: "x".repeat(10_000),
            ..Default::default()
        };
        let many = agent::HostCondition {
            docker_away: false,
            mended: vec![one; 1_000],
        };
        let kept = parsed(many);
        assert_eq!(kept.mended.len(), MAX_MENDED);
        assert_eq!(kept.mended[0].message.len(), MAX_MENDED_MESSAGE);
    }
}
