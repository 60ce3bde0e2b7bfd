//! What of the facts is as it should be, and what to do where it is not. Pure.
//!
//! Not here: gathering (the parent).

use isyone_proto::finding::{Finding, Level};

use super::{Facts, PortState, Validity};

const DAY_S: i64 = 86_400;
/// A CA is replaced in a few days at leisure.
const CA_LEFT_S: i64 = 60 * DAY_S;
/// The database writes a little with each change, and copies itself for a backup.
const DISK_LEAST: u64 = 1 << 30;

pub(super) fn all(facts: &Facts) -> Vec<Finding> {
    let mut all = vec![Finding::good("configuration", "can be used")];
    files(&mut all, facts);
    buckets(&mut all, facts);
    certificates(&mut all, facts);
    ports(&mut all, facts);
    names(&mut all, facts);
    machine(&mut all, facts);
    all
}

fn files(all: &mut Vec<Finding>, facts: &Facts) {
    // Who may not look has found nothing.
    let level = if facts.root {
        Level::Bad
    } else {
        Level::Unknown
    };
    all.push(match facts.database {
        true => Finding::good("database", "there"),
        false => Finding::new(
            level,
            "database",
            "isyone.db is not in the data directory",
            "the coordinator does not start: it never begins with an empty one",
            "is it the right --data-dir? a new one: `isy-coordinator init`; a lost one: docs/operations.md#backups-of-the-coordinator",
        ),
    });
    match facts.seal_key {
        None => all.push(Finding::good("sealing key", "from the environment")),
        Some(true) => all.push(Finding::good("sealing key", "there, its owner's alone")),
        Some(false) => all.push(Finding::new(
            level,
            "sealing key",
            "seal.key is not there, or readable by others",
            "without it no stored password can be read; whoever has it and the database can read them all",
            "`chmod 0600`, or `isy-coordinator restore-keys`",
        )),
    }
    let open: Vec<&str> = facts
        .private
        .iter()
        .filter(|(_, private)| !private)
        .map(|(name, _)| *name)
        .collect();
    all.push(match open[..] {
        [] => Finding::good("keys", "their owner's alone"),
        _ => Finding::new(
            level,
            "keys",
            format!("{} is not there, or readable by others", open.join(", ")),
            "the coordinator refuses them: whoever has read them can be anybody",
            "`chmod 0600`; if others could read them: `isy-coordinator pki rotate`",
        ),
    });
}

fn buckets(all: &mut Vec<Finding>, facts: &Facts) {
    for (name, keys) in &facts.buckets {
        all.push(match keys {
            Ok(()) => Finding::good("buckets", format!("the keys of {name} are there")),
            Err(why) => Finding::new(
                if facts.root { Level::Bad } else { Level::Unknown },
                "buckets",
                why.clone(),
                "the coordinator does not start without the keys of a bucket that it is to copy backups to",
                "put the key there, with mode 0600 and the coordinator's user as its owner; then `isy-coordinator bucket check`",
            ),
        });
    }
}

fn certificates(all: &mut Vec<Finding>, facts: &Facts) {
    all.push(certificate(
        ("CA", &facts.ca),
        facts.now_s,
        CA_LEFT_S,
        "every certificate of the fleet ends with it",
        "replace it while it is good: `isy-coordinator pki rotate` (docs/operations.md#replacing-the-ca-and-the-sealing-key)",
    ));
    all.push(certificate(
        ("own certificate", &facts.server),
        facts.now_s,
        DAY_S,
        "agents and operators refuse the coordinator without a good one",
        "it is renewed while the coordinator runs: `systemctl status isy-coordinator`, and look at the clock",
    ));
}

fn certificate(
    (name, validity): (&str, &Validity),
    now_s: i64,
    least_s: i64,
    why: &str,
    remedy: &str,
) -> Finding {
    let bad = |found: String| Finding::new(Level::Bad, name, found, why, remedy);
    match validity {
        Err(e) => bad(e.clone()),
        Ok((not_before, _)) if *not_before > now_s => {
            bad("it begins in the future: a clock is, or was, off".to_owned())
        }
        Ok((_, not_after)) if *not_after <= now_s => bad("it has ended".to_owned()),
        Ok((_, not_after)) => {
            let left = not_after - now_s;
            let found = format!("valid for {} days", left / DAY_S);
            match left < least_s {
                true => Finding::new(Level::Warning, name, found, why, remedy),
                false => Finding::good(name, found),
            }
        }
    }
}

fn ports(all: &mut Vec<Finding>, facts: &Facts) {
    let taken = |name: &str| {
        let mut ports = facts.ports.iter();
        ports.any(|port| port.name == name && port.state == PortState::Taken)
    };
    // All or none: else somebody else has one of them.
    let runs = taken("grpc") && taken("enroll") && taken("http");
    for port in &facts.ports {
        let (check, address) = (format!("port {}", port.name), port.address);
        all.push(match port.state {
            PortState::Taken if runs => {
                Finding::good(&check, format!("{address}: somebody listens, the coordinator it seems"))
            }
            PortState::Free => Finding::good(&check, format!("{address}: free, the coordinator does not run")),
            PortState::Taken => Finding::new(
                Level::Bad,
                &check,
                format!("{address} is another program's"),
                "the coordinator does not start",
                format!("`ss -ltnp 'sport = :{}'` says whose; end that, or another port in [listen]", address.port()),
            ),
            PortState::Impossible => Finding::new(
                Level::Bad,
                &check,
                format!("{address} cannot be listened on"),
                "the coordinator does not start",
                "is it an address of this machine? a port below 1024 needs root or CAP_NET_BIND_SERVICE",
            ),
        });
    }
    all.push(match facts.http_is_private {
        true => Finding::good("plain http", "at a private address"),
        false => Finding::new(
            Level::Warning,
            "plain http",
            "[listen] http is open to the world",
            "it has no login: routes and private keys of certificates are read there",
            "loopback or a private address; for edges elsewhere [listen] edges, with TLS and a token",
        ),
    });
}

fn names(all: &mut Vec<Finding>, facts: &Facts) {
    all.push(match (facts.astray.first(), facts.leads_here) {
        (None, true) => Finding::good("advertised names", "lead here"),
        (Some(name), _) => Finding::new(
            Level::Warning,
            "advertised names",
            format!("{name} leads nowhere, as seen from here"),
            "agents and operators that are given it do not find the coordinator",
            "DNS, or another name in [advertise] hosts",
        ),
        (None, false) => Finding::new(
            Level::Warning,
            "advertised names",
            "none leads to an address of this machine",
            "agents dial the first; that is right only behind NAT or a load balancer",
            "[advertise] hosts",
        ),
    });
    let base = &facts.base_domain;
    all.push(match facts.wildcard {
        true => Finding::good("dns", format!("*.{base} leads somewhere")),
        false => Finding::new(
            Level::Warning,
            "dns",
            format!("*.{base} leads nowhere, as seen from here"),
            "visitors do not find a tenant by its name, and certificates cannot be ordered for it",
            format!("a wildcard in DNS: `*.{base}` to the edges' addresses"),
        ),
    });
}

fn machine(all: &mut Vec<Finding>, facts: &Facts) {
    if let Some((free, total)) = facts.disk {
        let found = format!("{} MiB of {} MiB free", free >> 20, total >> 20);
        all.push(match free {
            0..DISK_LEAST => Finding::new(
                Level::Bad,
                "disk",
                found,
                "with a full one nothing can be changed, and certificates are not renewed",
                "make room, or move the data directory",
            ),
            _ => Finding::good("disk", found),
        });
    }
    let why = "certificates of a clock that is off are refused by everybody once it is right";
    all.push(Finding::of_clock(facts.synchronised, why));
}

#[cfg(test)]
mod tests {
    use isyone_proto::finding::sorted;

    use super::{super::Port, *};

    const NOW: i64 = 1_800_000_000;

    fn port(name: &'static str, state: PortState) -> Port {
        Port {
            name,
            address: ([0, 0, 0, 0], 7443).into(),
            state,
        }
    }

    fn well() -> Facts {
        Facts {
            now_s: NOW,
            root: true,
            database: true,
            seal_key: Some(true),
            private: vec![("pki/ca.key", true)],
            buckets: vec![("far".to_owned(), Ok(()))],
            ca: Ok((NOW - DAY_S, NOW + 3_650 * DAY_S)),
            server: Ok((NOW - DAY_S, NOW + 300 * DAY_S)),
            ports: ["grpc", "enroll", "http"]
                .map(|name| port(name, PortState::Taken))
                .into(),
            astray: vec![],
            leads_here: true,
            base_domain: "isy.one".into(),
            wildcard: true,
            disk: Some((20 << 30, 100 << 30)),
            synchronised: Some(true),
            http_is_private: true,
        }
    }

    #[test]
    fn one_that_is_well_has_no_finding_whether_it_runs_or_not() {
        let mut facts = well();
        for state in [PortState::Taken, PortState::Free] {
            facts.ports.iter_mut().for_each(|port| port.state = state);
            for finding in all(&facts) {
                assert_eq!(finding.level, Level::Good, "{finding:?}");
            }
        }
    }

    #[test]
    fn what_is_broken_comes_first_and_says_what_to_do() {
        type Break = fn(&mut Facts);
        let broken: [(&str, Break); 12] = [
            ("database", |f| f.database = false),
            ("sealing key", |f| f.seal_key = Some(false)),
            ("keys", |f| f.private[0].1 = false),
            ("buckets", |f| {
                f.buckets[0].1 = Err("others may read it".into())
            }),
            ("CA", |f| f.ca = Ok((NOW - DAY_S, NOW + DAY_S))),
            ("own certificate", |f| {
                f.server = Ok((NOW + 10, NOW + DAY_S))
            }),
            ("port grpc", |f| f.ports[0].state = PortState::Impossible),
            ("plain http", |f| f.http_is_private = false),
            ("advertised names", |f| f.astray.push("c.example".into())),
            ("dns", |f| f.wildcard = false),
            ("disk", |f| f.disk = Some((1 << 20, 100 << 30))),
            ("clock", |f| f.synchronised = Some(false)),
        ];
        for (check, breaks) in broken {
            let mut facts = well();
            breaks(&mut facts);
            let first = sorted(all(&facts)).remove(0);
            assert!(first.is_trouble(), "{check}: {first:?}");
            assert_eq!(&*first.check, check);
            assert!(!first.why.is_empty() && !first.remedy.is_empty());
        }
    }
}
