//! How a host itself is: to the wire, and from it bounded. Nothing in it makes a report unusable.
//!
//! Not here: its tenants (report).

use ipnet::Ipv4Net;

use super::{
    report::{MAX_WORD, shortened},
    timestamp, unix_ms,
};
use crate::{
    finding::{Finding, Level},
    pb::{agent::v1 as agent, v1},
    report::{HostCondition, Mended},
};

/// An agent has a handful of things that it mends by itself.
const MAX_MENDED: usize = 16;
/// Most networks of a host, as in a Hello; documented in the protocol.
const MAX_NETWORKS: usize = 256;
/// An agent has some thirty checks, of which few find something.
const MAX_FINDINGS: usize = 32;
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
        networks: wire.networks.map(networks),
        full: shortened(wire.full, MAX_MENDED_MESSAGE).into(),
        findings: wire
            .findings
            .into_iter()
            .take(MAX_FINDINGS)
            .map(finding)
            .collect(),
    }
}

fn finding(wire: v1::Finding) -> Finding {
    let level = match wire.level() {
        v1::FindingLevel::Bad => Level::Bad,
        v1::FindingLevel::Warning | v1::FindingLevel::Unspecified => Level::Warning,
    };
    let text = |text: String| -> Box<str> { shortened(text, MAX_MENDED_MESSAGE).into() };
    Finding {
        check: shortened(wire.check, MAX_WORD).into(),
        level,
        found: text(wire.found),
        why: text(wire.why),
        remedy: text(wire.remedy),
    }
}

impl From<&Finding> for v1::Finding {
    fn from(finding: &Finding) -> Self {
        let level = match finding.level {
            Level::Bad => v1::FindingLevel::Bad,
            Level::Warning | Level::Unknown | Level::Good => v1::FindingLevel::Warning,
        };
        Self {
            check: finding.check.to_string(),
            level: level.into(),
            found: finding.found.to_string(),
            why: finding.why.to_string(),
            remedy: finding.remedy.to_string(),
        }
    }
}

/// What is no network is left out, as in a Hello.
fn networks(wire: agent::HostNetworks) -> Vec<Ipv4Net> {
    let texts = wire.networks.iter().take(MAX_NETWORKS);
    texts.filter_map(|text| text.parse().ok()).collect()
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
            networks: condition.networks.as_ref().map(|networks| {
                let networks = networks.iter().map(ToString::to_string).collect();
                agent::HostNetworks { networks }
            }),
            full: condition.full.to_string(),
            findings: condition.findings.iter().map(Into::into).collect(),
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
            networks: Some(vec!["10.0.0.0/8".parse().unwrap()]),
            full: "some 16 MiB are free".into(),
            findings: vec![Finding::new(
                Level::Bad,
                "disk",
                "full",
                "it stops",
                "make room",
            )],
        };
        assert_eq!(parsed((&said).into()), said);
        let one = agent::Mended {
            message: "x".repeat(10_000),
            ..Default::default()
        };
        let many = agent::HostCondition {
            docker_away: false,
            mended: vec![one; 1_000],
            networks: Some(agent::HostNetworks {
                networks: vec!["10.0.0.0/8".to_owned(), "none".to_owned()],
            }),
            full: String::new(),
            findings: vec![v1::Finding::default(); 1_000],
        };
        let kept = parsed(many);
        assert_eq!(kept.mended.len(), MAX_MENDED);
        assert_eq!(kept.mended[0].message.len(), MAX_MENDED_MESSAGE);
        assert_eq!(kept.networks.unwrap().len(), 1);
        assert_eq!(kept.findings.len(), MAX_FINDINGS);
    }
}
