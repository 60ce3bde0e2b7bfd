//! A host's details in words, for `isyctl host show` and the screen of `isyctl top`. Pure.

use isyone_proto::{
    generation::Generation,
    pb::v1::{Finding, FindingLevel, Host, HostResources, Maintenance},
};

use super::{
    format,
    table::{Cell, Paint, Table, clean},
};

/// Everything known about a host.
pub fn details(host: &Host, now_ms: i64) -> String {
    let mut pairs: Vec<(&str, Cell)> =
        vec![("Name", host.name.as_str().into()), ("State", state(host))];
    if !host.message.is_empty() {
        pairs.push(("Message", host.message.as_str().into()));
    }
    if let Some(work) = &host.maintenance {
        pairs.push(("Maintenance", maintenance(work).into()));
    }
    let plan = if host.plan_generation == host.accepted_generation {
        format!("generation {}", Generation::from(host.plan_generation))
    } else {
        format!(
            "generation {}, the agent has {}",
            Generation::from(host.plan_generation),
            Generation::from(host.accepted_generation)
        )
    };
    pairs.extend([
        ("Address", format::or_dash(&host.advertise_address).into()),
        ("Labels", format::labels(&host.labels).into()),
        ("Tenants", host.tenants.to_string().into()),
        ("Reserved", reserved(host).into()),
    ]);
    if let Some(resources) = &host.resources {
        pairs.extend(used(resources));
    }
    let reported = match &host.report_time {
        Some(time) => format!("{} ago", format::age(now_ms, Some(time))),
        None => "not since the coordinator started".to_owned(),
    };
    pairs.extend([
        ("Plan", plan.into()),
        ("Agent", format::or_dash(&host.agent_version).into()),
        ("Docker", format::or_dash(&host.docker_version).into()),
        ("Joined", format::local(host.join_time.as_ref()).into()),
        ("Last report", reported.into()),
        (
            "Certificate until",
            format::local(host.certificate_expire_time.as_ref()).into(),
        ),
    ]);
    Table::pairs(pairs) + &findings(host)
}

/// `until …: a new disk; its tenants stay`.
fn maintenance(work: &Maintenance) -> String {
    let reason = match work.reason.as_str() {
        "" => String::new(),
        why => format!(": {why}"),
    };
    let tenants = match work.leaves_tenants {
        true => "; its tenants stay",
        false => "",
    };
    let until = format::local(work.until.as_ref());
    format!("until {until}{reason}{tenants}")
}

/// What its agent has found to be wrong with the machine.
pub fn findings(host: &Host) -> String {
    let line = |finding: &Finding| {
        let (level, paint) = match finding.level() {
            FindingLevel::Bad => ("BAD", Paint::Bad),
            FindingLevel::Warning | FindingLevel::Unspecified => ("warning", Paint::Warn),
        };
        format!(
            "\n{} {}: {}\n    why: {}\n    remedy: {}\n",
            paint.on(level),
            clean(&finding.check),
            clean(&finding.found),
            clean(&finding.why),
            clean(&finding.remedy)
        )
    };
    host.findings.iter().map(line).collect()
}

/// The host's state, with a note when it is worked on or cordoned.
pub fn state(host: &Host) -> Cell {
    let word = format::host_state(host.state);
    if host.maintenance.is_some() {
        Paint::Warn.on(&format!("{word}, maintenance"))
    } else if host.cordoned {
        Paint::Warn.on(&format!("{word}, cordoned"))
    } else {
        Paint::word(&word)
    }
}

/// Used memory as a share of the total.
pub fn memory(resources: &HostResources) -> String {
    let used = resources
        .memory_total_bytes
        .saturating_sub(resources.memory_available_bytes);
    format!(
        "{} of {}",
        format::share(used, resources.memory_total_bytes),
        format::bytes(resources.memory_total_bytes)
    )
}

/// Used disk space as a share of the total.
pub fn disk(resources: &HostResources) -> String {
    let used = resources
        .disk_total_bytes
        .saturating_sub(resources.disk_available_bytes);
    format!(
        "{} of {}",
        format::share(used, resources.disk_total_bytes),
        format::bytes(resources.disk_total_bytes)
    )
}

/// Resources reserved for the host's tenants.
pub fn reserved(host: &Host) -> String {
    format!(
        "{} memory, {} CPU, {} disk",
        format::bytes(host.reserved_memory_bytes),
        format::cpus(host.reserved_cpu_millis),
        format::bytes(host.reserved_disk_bytes)
    )
}

/// Resources in use: CPU, memory, disk, and more.
pub fn used(resources: &HostResources) -> Vec<(&'static str, Cell)> {
    let load = format!(
        "{}.{:02}",
        resources.load1_milli / 1000,
        resources.load1_milli % 1000 / 10
    );
    let mut pairs: Vec<(&str, Cell)> = vec![
        (
            "CPU",
            format!(
                "{} of {} CPUs, load {load}",
                format::percent(resources.cpu_used_permille),
                resources.cpus
            )
            .into(),
        ),
        ("Memory", memory(resources).into()),
        ("Disk", disk(resources).into()),
    ];
    if let Some(pressure) = &resources.pressure {
        let [cpu, memory, io] = [
            pressure.cpu_some_permille,
            pressure.memory_some_permille,
            pressure.io_some_permille,
        ]
        .map(format::percent);
        pairs.push((
            "Pressure",
            format!("cpu {cpu}, memory {memory}, io {io}").into(),
        ));
    }
    let own = format!(
        "{}, {} CPU",
        format::bytes(resources.agent_memory_bytes),
        format::percent(resources.agent_cpu_permille)
    );
    pairs.push(("Agent's own use", own.into()));
    pairs
}
