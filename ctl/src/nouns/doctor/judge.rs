//! What of the coordinator's answers is as it should be, and what to do where it is not. Pure.
//!
//! Not here: asking (the parent).

use isyone_proto::{
    finding::{Finding, Level},
    pb::v1::{
        BackupBucket, Certificate, CertificateState, Domain, DomainState, Edge, EdgeState,
        FindingLevel, Host, HostState, Info, ListEdgesResponse, Tenant,
    },
};

use super::buckets;

/// A host's certificate lives for a day and is renewed at half of it.
const CERTIFICATE_LEFT_MS: i64 = 3 * 3_600_000;
/// Of a kind of trouble, so many are named.
const NAMED: usize = 5;

/// What the coordinator says.
pub(super) struct Seen {
    pub(super) info: Info,
    pub(super) hosts: Vec<Host>,
    pub(super) edges: ListEdgesResponse,
    pub(super) certificates: Vec<Certificate>,
    pub(super) domains: Vec<Domain>,
    pub(super) failing: Vec<Tenant>,
    pub(super) unknown: Vec<Tenant>,
    pub(super) buckets: Vec<BackupBucket>,
}

/// Where names below the base domain lead.
pub(super) enum Looked {
    Leads(Vec<String>),
    Nowhere(String),
    Silent(String),
}

pub(super) fn no_context(why: &str) -> Finding {
    Finding::new(
        Level::Bad,
        "context",
        why.lines().next().unwrap_or_default(),
        "isyctl does not know which coordinator to ask, and as whom",
        "`isyctl context import FILE`: `isy-coordinator init` or `isyctl operator create` writes one",
    )
}

pub(super) fn no_coordinator(why: &str) -> Finding {
    Finding::new(
        Level::Bad,
        "coordinator",
        why.lines().next().unwrap_or_default(),
        "tenants and routes stay as they are; nothing can be created or changed, and nobody judges the hosts",
        "on its machine: `isy-coordinator doctor`, `journalctl -u isy-coordinator -n 50`; from here: DNS and the firewall between",
    )
}

pub(super) fn all(seen: &Seen, names: &Looked, own: &str, now_ms: i64) -> Vec<Finding> {
    let mut all = vec![version(&seen.info, own)];
    all.push(base_domain(names, &seen.info.base_domain));
    hosts(&mut all, seen, now_ms);
    edges(&mut all, &seen.edges);
    certificates(&mut all, &seen.certificates);
    domains(&mut all, &seen.domains);
    tenants(&mut all, seen);
    buckets::judge(&mut all, &seen.buckets);
    all
}

fn version(info: &Info, own: &str) -> Finding {
    if info.version == own {
        return Finding::good("coordinator", format!("answers, version {own}"));
    }
    Finding::new(
        Level::Warning,
        "versions",
        format!("isyctl {own}, coordinator {}", info.version),
        "they may not understand all that the other says",
        "bring both to one version",
    )
}

fn base_domain(names: &Looked, base_domain: &str) -> Finding {
    let why =
        "visitors do not find a tenant by its name, and certificates cannot be ordered for it";
    let remedy = format!(
        "a wildcard in DNS: `*.{base_domain}` to the edges' addresses; for a look from this machine alone, a line in /etc/hosts"
    );
    match names {
        Looked::Leads(to) => {
            Finding::good("dns", format!("*.{base_domain} leads to {}", to.join(", ")))
        }
        Looked::Nowhere(name) => Finding::new(
            Level::Warning,
            "dns",
            format!("{name} leads nowhere, as seen from here"),
            why,
            remedy,
        ),
        Looked::Silent(name) => Finding::new(
            Level::Unknown,
            "dns",
            format!("nobody says where {name} leads"),
            why,
            "look at this machine's name servers (/etc/resolv.conf)",
        ),
    }
}

fn hosts(all: &mut Vec<Finding>, seen: &Seen, now_ms: i64) {
    if seen.hosts.is_empty() {
        all.push(Finding::new(
            Level::Warning,
            "hosts",
            "none has joined",
            "no tenant can be placed",
            "`isyctl host token --host h1 > token`, then on that machine `isy-agent join`",
        ));
    }
    for host in &seen.hosts {
        all.push(host_state(host));
        all.extend(host.findings.iter().map(|finding| of_host(host, finding)));
        let ends = host.certificate_expire_time.as_ref();
        let left = ends.map(|at| at.seconds.saturating_mul(1_000) - now_ms);
        if left.is_some_and(|left| left < CERTIFICATE_LEFT_MS) {
            all.push(Finding::new(
                Level::Warning,
                &format!("host {}: certificate", host.name),
                "it ends within hours, and was not renewed",
                "the coordinator refuses this host then, and it must join again",
                format!(
                    "on it: `isy-agent doctor`, `journalctl -u isy-agent`; `isyctl host show {}`",
                    host.name
                ),
            ));
        }
        if !host.agent_version.is_empty() && host.agent_version != seen.info.version {
            all.push(Finding::new(
                Level::Warning,
                &format!("host {}: version", host.name),
                format!(
                    "agent {}, coordinator {}",
                    host.agent_version, seen.info.version
                ),
                "it may not do all that plans say",
                "upgrade its agent",
            ));
        }
    }
}

fn host_state(host: &Host) -> Finding {
    let check = format!("host {}", host.name);
    let show = format!("`isyctl host show {}`", host.name);
    let (level, found, why, remedy) = match host.state() {
        HostState::Ready if host.message.is_empty() => {
            let cordoned = if host.cordoned { ", cordoned" } else { "" };
            return Finding::good(&check, format!("ready{cordoned}, {} tenants", host.tenants));
        }
        HostState::Ready => (
            Level::Warning,
            "ready",
            "it does not carry out what is newest",
            show,
        ),
        HostState::Degraded => (
            Level::Bad,
            "degraded",
            "it gets no new tenants, and those there lack what it says",
            show,
        ),
        HostState::Lost | HostState::Suspect => (
            Level::Bad,
            "silent",
            "nothing is known of its tenants, and nothing of them can be changed",
            format!(
                "runbook HostLost: is the machine there? on it `isy-agent doctor`; then {show}"
            ),
        ),
        HostState::Pending => (
            Level::Warning,
            "waits for approval",
            "it gets no tenants before",
            format!(
                "`isyctl host approve {}`, or `isyctl host remove {0}`",
                host.name
            ),
        ),
        HostState::Unknown | HostState::Unspecified => (
            Level::Unknown,
            "not heard of since the coordinator started",
            "nothing is known of its tenants yet",
            show,
        ),
    };
    let found = match host.message.as_str() {
        "" => found.to_owned(),
        message => format!("{found}: {message}"),
    };
    Finding::new(level, &check, found, why, remedy)
}

/// What a host has found out about itself.
fn of_host(host: &Host, finding: &isyone_proto::pb::v1::Finding) -> Finding {
    let level = match finding.level() {
        FindingLevel::Bad => Level::Bad,
        FindingLevel::Warning | FindingLevel::Unspecified => Level::Warning,
    };
    let check = format!("host {}: {}", host.name, finding.check);
    let (found, why) = (finding.found.clone(), &finding.why);
    Finding::new(level, &check, found, why, finding.remedy.clone())
}

fn edges(all: &mut Vec<Finding>, edges: &ListEdgesResponse) {
    let of_state = |state: EdgeState| -> Vec<String> {
        let some = edges.edges.iter().filter(|edge| edge.state() == state);
        some.map(|edge: &Edge| edge.name.clone()).collect()
    };
    if edges.edges.is_empty() && edges.files.is_empty() {
        all.push(Finding::new(
            Level::Bad,
            "edges",
            "none asks for routes, and no file is written",
            "no visitor reaches a tenant",
            "start Traefik with the coordinator's endpoint (docs/edge.md); is it the right address, and the token?",
        ));
        return;
    }
    let troubles = [
        (
            EdgeState::Stuck,
            Level::Bad,
            "stuck",
            "it serves an older configuration: new tenants are not reached",
        ),
        (
            EdgeState::Silent,
            Level::Warning,
            "silent",
            "it serves what it had last, if it still runs",
        ),
        (
            EdgeState::Unknown,
            Level::Warning,
            "not answering",
            "what it runs is not known",
        ),
    ];
    let mut well = true;
    for (state, level, word, why) in troubles {
        let names = of_state(state);
        if !names.is_empty() {
            well = false;
            let found = format!("{word}: {}", some(&names));
            let remedy = format!(
                "`isyctl edge show {}`; `docker logs traefik` on it",
                names[0]
            );
            all.push(Finding::new(level, "edges", found, why, remedy));
        }
    }
    if well {
        let count = edges.edges.len() + edges.files.len();
        all.push(Finding::good(
            "edges",
            format!("{count}, all current or about to be"),
        ));
    }
    if edges.rejected_routes > 0 {
        all.push(Finding::new(
            Level::Bad,
            "routes",
            format!("{} are left out", edges.rejected_routes),
            "Traefik would refuse the configuration with them, so these tenants are not reached",
            "`isyctl edge rejected` names each and the reason",
        ));
    }
}

fn certificates(all: &mut Vec<Finding>, certificates: &[Certificate]) {
    let troubles = [
        (CertificateState::Failing, Level::Bad, "there is none"),
        (CertificateState::Expired, Level::Bad, "it has ended"),
        (
            CertificateState::RenewalFailing,
            Level::Warning,
            "its renewal fails",
        ),
    ];
    for (state, level, word) in troubles {
        let some_of = certificates.iter().filter(|c| c.state() == state);
        let (names, errors): (Vec<String>, Vec<&str>) =
            some_of.map(|c| (c.name.clone(), c.error.as_str())).unzip();
        if let Some(error) = errors.first() {
            all.push(Finding::new(
                level,
                "certificates",
                format!("{word}: {} ({error})", some(&names)),
                "browsers warn visitors away",
                format!("`isyctl cert show {}`; docs/operations.md#https", names[0]),
            ));
        }
    }
}

fn domains(all: &mut Vec<Finding>, domains: &[Domain]) {
    let astray = domains
        .iter()
        .filter(|d| d.state() == DomainState::Unreachable);
    let astray: Vec<String> = astray
        .map(|d| format!("{} of {}", d.name, d.tenant))
        .collect();
    if !astray.is_empty() {
        all.push(Finding::new(
            Level::Warning,
            "domains",
            format!("lead elsewhere: {}", some(&astray)),
            "their visitors arrive somewhere else",
            "the customer's DNS: `isyctl tenant domain list TENANT` says where they lead, and where they should",
        ));
    }
}

fn tenants(all: &mut Vec<Finding>, seen: &Seen) {
    for tenant in seen.failing.iter().take(NAMED) {
        all.push(Finding::new(
            Level::Bad,
            &format!("tenant {}", tenant.name),
            match tenant.message.as_str() {
                "" => "failing".to_owned(),
                message => message.to_owned(),
            },
            "it should run and does not, or could not be brought back",
            format!(
                "`isyctl tenant show {0}`, `isyctl tenant logs {0}`, `isyctl tenant verify {0}`",
                tenant.name
            ),
        ));
    }
    let more = seen.failing.len().saturating_sub(NAMED);
    if more > 0 {
        all.push(Finding::new(
            Level::Bad,
            "tenants",
            format!("{more} more are failing"),
            "they should run and do not",
            "`isyctl tenant list --phase failing -o wide`",
        ));
    }
    if !seen.unknown.is_empty() {
        let names: Vec<String> = seen.unknown.iter().map(|t| t.name.clone()).collect();
        all.push(Finding::new(
            Level::Warning,
            "tenants",
            format!("nothing is known of {}: {}", names.len(), some(&names)),
            "their host is silent, or its Docker does not answer",
            "look at their hosts first",
        ));
    }
    if seen.failing.is_empty() && seen.unknown.is_empty() {
        all.push(Finding::good("tenants", "none is failing"));
    }
}

fn some(names: &[String]) -> String {
    let more = names.len().saturating_sub(NAMED);
    let shown = names.iter().take(NAMED).cloned().collect::<Vec<_>>();
    match more {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use isyone_proto::finding::sorted;

    use super::*;

    fn well() -> Seen {
        Seen {
            info: Info {
                version: "1.0.0".into(),
                base_domain: "isy.one".into(),
                ..Info::default()
            },
            hosts: vec![Host {
                name: "h1".into(),
                state: HostState::Ready.into(),
                agent_version: "1.0.0".into(),
                ..Host::default()
            }],
            edges: ListEdgesResponse {
                edges: vec![Edge {
                    name: "192.0.2.11".into(),
                    state: EdgeState::Current.into(),
                    ..Edge::default()
                }],
                ..ListEdgesResponse::default()
            },
            certificates: vec![],
            domains: vec![],
            failing: vec![],
            unknown: vec![],
            buckets: vec![],
        }
    }

    fn leads() -> Looked {
        Looked::Leads(vec!["203.0.113.80".into()])
    }

    #[test]
    fn a_fleet_that_is_well_has_no_finding() {
        for finding in all(&well(), &leads(), "1.0.0", 0) {
            assert_eq!(finding.level, Level::Good, "{finding:?}");
        }
    }

    #[test]
    fn what_is_wrong_comes_first_with_a_remedy() {
        type Break = fn(&mut Seen);
        let broken: [(&str, Break); 9] = [
            ("versions", |s| s.info.version = "2".into()),
            ("hosts", |s| s.hosts.clear()),
            ("host h1", |s| s.hosts[0].state = HostState::Degraded.into()),
            ("host h1: disk", |s| {
                s.hosts[0].findings.push(isyone_proto::pb::v1::Finding {
                    check: "disk".into(),
                    level: FindingLevel::Bad.into(),
                    found: "full".into(),
                    why: "it stops".into(),
                    remedy: "make room".into(),
                });
            }),
            ("edges", |s| s.edges.edges.clear()),
            ("routes", |s| s.edges.rejected_routes = 2),
            ("certificates", |s| {
                s.certificates.push(Certificate {
                    name: "alfa.isy.one".into(),
                    state: CertificateState::Failing.into(),
                    ..Certificate::default()
                });
            }),
            ("domains", |s| {
                s.domains.push(Domain {
                    state: DomainState::Unreachable.into(),
                    ..Domain::default()
                });
            }),
            ("tenant alfa", |s| {
                s.failing.push(Tenant {
                    name: "alfa".into(),
                    message: "its data is gone".into(),
                    ..Tenant::default()
                });
            }),
        ];
        for (check, breaks) in broken {
            let mut seen = well();
            breaks(&mut seen);
            let first = sorted(all(&seen, &leads(), "1.0.0", 0)).remove(0);
            // The version of the agent follows the coordinator's.
            assert!(first.is_trouble() && !first.remedy.is_empty(), "{first:?}");
            assert_eq!(&*first.check, check);
        }
        let nowhere = Looked::Nowhere("x.isy.one".into());
        let first = sorted(all(&well(), &nowhere, "1.0.0", 0)).remove(0);
        assert_eq!(&*first.check, "dns");
    }
}
