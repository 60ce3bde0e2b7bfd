//! A tenant's details in words, for `isyctl tenant show` and the screen of `isyctl top`. Pure.

use isyone_proto::pb::v1::{
    Bounds, CopyRole, DesiredState, DiskMeans, DiskPlace, DiskState, Domain, DomainState, Reach,
    Tenant, TenantAccess, TenantCopy,
};

use super::{
    format, mail,
    table::{Cell, Paint, Table, clean},
};

/// From which share of its workers' time on the next visitor is likely to wait, per mille.
const BUSY: u32 = 800;
/// From which share of its limit on the next large request may find no memory, per mille.
const MEMORY: u32 = 900;
/// From which share of its time on lack of CPU makes answers slow that a visitor notices, per mille.
const THROTTLED: u32 = 250;

/// Everything known about a tenant.
pub fn details(tenant: &Tenant, wide: bool, now_ms: i64) -> String {
    let mut pairs: Vec<(&str, Cell)> = vec![
        ("Name", tenant.name.as_str().into()),
        ("Phase", Paint::word(&format::tenant_phase(tenant))),
        ("Wanted", format::desired(tenant.desired_state).into()),
    ];
    if !tenant.message.is_empty() {
        pairs.push(("Message", tenant.message.as_str().into()));
    }
    pairs.push(("URL", format::or_dash(&tenant.url).into()));
    pairs.extend(domains(&tenant.domains));
    pairs.push(("Edge", reached(tenant, now_ms)));
    if !tenant.edge_shard.is_empty() {
        pairs.push(("Edge shard", tenant.edge_shard.as_str().into()));
    }
    pairs.extend(tenant.access.as_ref().map(access).unwrap_or_default());
    pairs.push(("Host", placed(tenant).into()));
    pairs.extend(copies(tenant));
    pairs.extend(asked(tenant));
    pairs.extend(wide.then(|| chosen(tenant)).flatten());
    pairs.push(("Uses", used(tenant).into()));
    pairs.extend(disk(tenant).map(|cell| ("Disk", cell)));
    pairs.extend(short_of(tenant).map(|cell| ("Short of", cell)));
    pairs.extend(mail::shown(tenant));
    pairs.extend(visitors(tenant));
    if tenant.last_active_time.is_some() {
        let ago = format!(
            "{} ago",
            format::age(now_ms, tenant.last_active_time.as_ref())
        );
        pairs.push(("Last used", ago.into()));
    }
    pairs.push(("Created", format::local(tenant.create_time.as_ref()).into()));
    let reported = match &tenant.report_time {
        Some(time) => format!("{} ago", format::age(now_ms, Some(time))),
        None => "not since the coordinator started".to_owned(),
    };
    pairs.push(("Last report", reported.into()));
    if tenant.quarantine_expire_time.is_some() {
        pairs.push((
            "Kept until",
            format::local(tenant.quarantine_expire_time.as_ref()).into(),
        ));
    }
    pairs.push(("Operation", format::or_dash(&tenant.operation_id).into()));
    let mut text = Table::pairs(pairs);
    if !tenant.containers.is_empty() {
        text.push('\n');
        text.push_str(&containers(tenant, now_ms));
    }
    text
}

/// What the last probe through the edge found.
fn reached(tenant: &Tenant, now_ms: i64) -> Cell {
    let Some(probe) = &tenant.probe else {
        return "not known".into();
    };
    let mut text = match (probe.http_status, probe.error.as_str()) {
        (0, error) => format::or_dash(error).to_owned(),
        (status, error) => {
            let more = if error.is_empty() || error == format!("answered {status}") {
                String::new()
            } else {
                format!(" ({error})")
            };
            format!("{status} in {} ms{more}", probe.duration_ms)
        }
    };
    if probe.certificate_expire_time.is_some() {
        text.push_str(&format!(
            ", certificate until {}",
            format::local(probe.certificate_expire_time.as_ref())
        ));
    }
    text.push_str(&format!(
        " ({} ago, through {})",
        format::age(now_ms, probe.time.as_ref()),
        format::or_dash(&probe.edge)
    ));
    match probe.reach() {
        Reach::Ok => Paint::Good.on(&text),
        Reach::HostDown => Paint::Bad.on(&format!("its host is down: {text}")),
        Reach::EdgeDown => Paint::Bad.on(&format!("the edge is down: {text}")),
        Reach::TenantDown | Reach::Unspecified => Paint::Bad.on(&text),
    }
}

fn used(tenant: &Tenant) -> String {
    let Some(usage) = &tenant.usage else {
        return "not known".to_owned();
    };
    let disk = format::measured_disk(Some(usage)).map_or("-".to_owned(), format::bytes);
    format!(
        "{} CPU, {} memory, {disk} disk",
        format::cpus(usage.cpu_millis),
        format::bytes(usage.memory_bytes)
    )
}

/// How full its disk is, what follows from that, and what keeps it within its plan.
fn disk(tenant: &Tenant) -> Option<Cell> {
    let disk = tenant.disk?;
    let percent = |used: u64, limit: u64| {
        let share = u128::from(used) * 100;
        share.checked_div(u128::from(limit)).unwrap_or(0)
    };
    let means = match disk.means() {
        DiskMeans::Quota => "held by the file system",
        DiskMeans::Counted | DiskMeans::Unspecified => "counted",
    };
    let (what, paint) = match disk.state() {
        DiskState::Free => ("", None),
        DiskState::Warned => (", filling", Some(Paint::Warn)),
        DiskState::UploadsRefused => (", uploads are refused", Some(Paint::Bad)),
        DiskState::Stopped if disk.postgres_stopped => {
            (", full: Odoo and PostgreSQL are stopped", Some(Paint::Bad))
        }
        DiskState::Stopped => (", full: Odoo is stopped", Some(Paint::Bad)),
        DiskState::Unspecified => (", in a state that this isyctl does not know", None),
    };
    let files = match (disk.limit_inodes, disk.too_deep()) {
        (0, _) => String::new(),
        (_, DiskPlace::Unspecified) => format!(
            ", {} of {} files ({}%)",
            disk.used_inodes,
            disk.limit_inodes,
            percent(disk.used_inodes, disk.limit_inodes)
        ),
        _ => ", and what is nested too deep to be counted".to_owned(),
    };
    let text = format!(
        "{} of {} ({}%){files}, {means}{what}",
        format::bytes(disk.used_bytes),
        format::bytes(disk.limit_bytes),
        percent(disk.used_bytes, disk.limit_bytes)
    );
    Some(paint.map_or_else(|| text.as_str().into(), |paint| paint.on(&text)))
}

/// What it comes close to the end of, so that its visitors wait.
fn short_of(tenant: &Tenant) -> Option<Cell> {
    // Whoever is stopped is short of nothing.
    let is_to_run = tenant.desired_state() == DesiredState::Running;
    let strain = tenant.strain.filter(|_| is_to_run)?;
    let percent = |permille: u32| permille / 10;
    let busy = strain.busy_permille.filter(|share| *share >= BUSY);
    let waits = strain.waits_per_minute.filter(|waits| *waits > 0);
    let memory = Some(strain.memory_permille).filter(|share| *share >= MEMORY);
    let held_back = Some(strain.throttled_permille).filter(|share| *share >= THROTTLED);
    let said = [
        busy.map(|share| format!("workers ({}% busy)", percent(share))),
        waits.map(|waits| format!("database connections ({waits} waits a minute)")),
        memory.map(|share| format!("memory ({}% of its limit)", percent(share))),
        held_back.map(|share| format!("CPU (held back {}% of the time)", percent(share))),
    ];
    let said: Vec<String> = said.into_iter().flatten().collect();
    match said.is_empty() {
        true => Some("nothing".into()),
        false => Some(Paint::Warn.on(&said.join(", "))),
    }
}

/// The visitors' traffic over about the last minute.
fn visitors(tenant: &Tenant) -> Vec<(&'static str, Cell)> {
    let Some(traffic) = &tenant.traffic else {
        return vec![("Visitors", "not known".into())];
    };
    let rates = format!(
        "{} requests/s, {} errors/s, 95% within {}",
        format::per_second(traffic.requests_per_minute),
        format::per_second(traffic.errors_per_minute),
        format::p95(Some(traffic)).unwrap_or("-".to_owned()),
    );
    let connected = format!(
        "{}, {}",
        format::plural(traffic.active_users as usize, "active user"),
        format::plural(traffic.websockets as usize, "websocket")
    );
    vec![("Visitors", rates.into()), ("Connected", connected.into())]
}

fn placed(tenant: &Tenant) -> String {
    if tenant.host.is_empty() {
        return "-".to_owned();
    }
    let websocket = if tenant.websocket_port == 0 {
        String::new()
    } else {
        format!(", {}", tenant.websocket_port)
    };
    format!(
        "{} (ports {}{websocket}; network {})",
        tenant.host,
        tenant.http_port,
        format::or_dash(&tenant.subnet)
    )
}

/// Copies on other hosts.
fn copies(tenant: &Tenant) -> Vec<(&'static str, Cell)> {
    let copies = tenant.copies.iter().map(|copy| {
        let what = match copy.role() {
            CopyRole::Incoming => "on its way there".to_owned(),
            CopyRole::Fenced => {
                let until = format::local(copy.expire_time.as_ref());
                format!("fenced: kept until {until}, never started")
            }
            CopyRole::Removing => "being removed".to_owned(),
            CopyRole::Standby => standby(copy),
            CopyRole::Unspecified => "of a kind that this isyctl does not know".to_owned(),
        };
        ("Copy", format!("{}, {what}", copy.host).into())
    });
    copies.collect()
}

/// How far a standby is behind.
fn standby(copy: &TenantCopy) -> String {
    let seconds = |ms: u64| format!("{}.{} s", ms / 1000, ms % 1000 / 100);
    let apart = match copy.apart.as_str() {
        "" => String::new(),
        label => format!(", apart by {}", clean(label)),
    };
    let message = clean(&copy.message);
    let Some(lag) = &copy.lag else {
        let why = match message.as_str() {
            "" => "nothing is known of it yet".to_owned(),
            why => format!("not kept up: {why}"),
        };
        return format!("standby{apart}: {why}");
    };
    let bytes = match lag.bytes {
        0 => String::new(),
        bytes => format!(" ({} more are known)", format::bytes(bytes)),
    };
    let files = seconds(lag.files_milliseconds);
    let log = seconds(lag.milliseconds);
    let mut said = format!("standby{apart}: has all of {log} ago{bytes}, files of {files} ago");
    if !copy.filled {
        said.push_str("; not filled yet");
    }
    if copy.takes_over_after_milliseconds > 0 {
        said.push_str(&takes_over(copy));
    }
    if !message.is_empty() {
        said.push_str(&format!("; {message}"));
    }
    said
}

/// When it takes over by itself.
fn takes_over(copy: &TenantCopy) -> String {
    let silence = copy.takes_over_after_milliseconds / 1000;
    match copy.leased {
        true => format!("; takes over by itself when the tenant's host was silent for {silence} s"),
        false => format!(
            "; is to take over by itself after {silence} s of silence, once the tenant's host heeds that"
        ),
    }
}

fn asked(tenant: &Tenant) -> Vec<(&'static str, Cell)> {
    let spec = tenant.spec.clone().unwrap_or_default();
    let size = tenant.size.map_or(String::new(), |size| {
        format!(
            " ({}, {} CPU, {} disk, {})",
            format::bytes(size.memory_bytes),
            format::cpus(size.cpu_millis),
            format::bytes(size.disk_bytes),
            format::plural(size.workers as usize, "worker")
        )
    });
    let modules = if spec.modules.is_empty() {
        "base".to_owned()
    } else {
        spec.modules.join(", ")
    };
    let mut pairs: Vec<(&str, Cell)> = vec![
        (
            "Plan",
            format!("{}{size}", format::or_dash(&spec.plan)).into(),
        ),
        ("Edition", edition(tenant, &spec.edition).into()),
        ("Odoo image", format::or_dash(&spec.odoo_image).into()),
        (
            "PostgreSQL image",
            format::or_dash(&spec.postgres_image).into(),
        ),
        (
            "Locale",
            [spec.language.as_str(), &spec.country, &spec.time_zone]
                .map(format::or_dash)
                .join(", ")
                .into(),
        ),
        ("Modules", modules.into()),
        ("Login", format::or_dash(&spec.admin_login).into()),
    ];
    if spec.signup {
        // What is not said is not known of a tenant of before.
        pairs.push(("Registration", "was opened at its creation".into()));
    }
    if !spec.collation.is_empty() {
        pairs.push(("Sorts as", spec.collation.as_str().into()));
    }
    let bounds = tenant.size.and_then(|size| size.bounds);
    pairs.extend(bounds.map(|bounds| ("Limits", limits(&bounds).into())));
    if !spec.host.is_empty() {
        pairs.push(("Only on host", spec.host.as_str().into()));
    }
    if !spec.host_labels.is_empty() {
        pairs.push((
            "Only on hosts with",
            format::labels(&spec.host_labels).into(),
        ));
    }
    pairs
}

/// Settings of its Odoo that somebody has chosen.
fn chosen(tenant: &Tenant) -> Option<(&'static str, Cell)> {
    let settings = tenant.odoo_settings.iter();
    let said: Vec<String> = settings
        .map(|setting| format!("{} = {}", setting.name, setting.value))
        .collect();
    let said = match said.is_empty() {
        true => "as isyone sets them".to_owned(),
        false => said.join(", "),
    };
    Some(("Odoo settings", said.into()))
}

/// What its plan limits beyond memory and CPU.
fn limits(bounds: &Bounds) -> String {
    let rate =
        |what: &str, bytes: u64| (bytes > 0).then(|| format!("{what} {}/s", format::bytes(bytes)));
    let count = |number: u32, what: &str| (number > 0).then(|| format!("{number} {what}"));
    let said = [
        count(bounds.pids, "processes"),
        count(bounds.nofile, "open files"),
        rate("reads", bounds.device_read_bps),
        count(bounds.device_read_iops, "reads/s"),
        rate("writes", bounds.device_write_bps),
        count(bounds.device_write_iops, "writes/s"),
    ];
    said.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// The edition; beside images that are not its own it must not look as if it were what runs.
fn edition(tenant: &Tenant, edition: &str) -> String {
    let other = if tenant.other_images && !edition.is_empty() {
        " (other images)"
    } else {
        ""
    };
    format!("{}{other}", format::or_dash(edition))
}

fn containers(tenant: &Tenant, now_ms: i64) -> String {
    let mut table = Table::new([
        "CONTAINER",
        "STATE",
        "HEALTH",
        "RESTARTS",
        "OOM KILLS",
        "UP",
        "IMAGE",
    ]);
    for container in &tenant.containers {
        let running = container.state == "running";
        let health = match (running, container.healthy) {
            (true, true) => Paint::word("healthy"),
            (true, false) => Paint::Warn.on("not yet"),
            // One that is not there, or has not started yet, has no exit code.
            (false, _) if matches!(container.state.as_str(), "exited" | "dead") => {
                format!("exit {}", container.exit_code).into()
            }
            (false, _) => "-".into(),
        };
        let up = if running {
            format::age(now_ms, container.start_time.as_ref())
        } else {
            "-".to_owned()
        };
        table.row([
            container.name.as_str().into(),
            Paint::word(&container.state),
            health,
            container.restarts.to_string().into(),
            container.oom_kills.to_string().into(),
            up.into(),
            // As docker shows it: the algorithm and twelve digits.
            container
                .image_digest
                .chars()
                .take(19)
                .collect::<String>()
                .into(),
        ]);
    }
    table.render()
}

/// Who may visit a tenant.
pub fn access(access: &TenantAccess) -> Vec<(&'static str, Cell)> {
    let list = |items: &[String], none: &str| {
        if items.is_empty() {
            none.to_owned()
        } else {
            items.join(", ")
        }
    };
    let rate = access.rate.unwrap_or_default();
    let whose = if access.own_rate {
        ""
    } else {
        ", as for all tenants"
    };
    let rate = format!("{} requests/s, {} at once{whose}", rate.average, rate.burst);
    vec![
        ("Admitted", list(&access.networks, "all addresses").into()),
        (
            "Password for",
            list(&access.users, "nobody is asked").into(),
        ),
        ("Rate", rate.into()),
    ]
}

/// A tenant's domains; empty when it has only the platform's.
fn domains(domains: &[Domain]) -> Vec<(&'static str, Cell)> {
    if domains.len() < 2 {
        return Vec::new();
    }
    let names = domains
        .iter()
        .map(|d| domain_name(d) + if d.primary { " (primary)" } else { "" });
    let mut pairs: Vec<(&'static str, Cell)> =
        vec![("Domains", names.collect::<Vec<_>>().join(", ").into())];
    for domain in domains
        .iter()
        .filter(|d| d.state() == DomainState::Unreachable)
    {
        let since = format::local(domain.since_time.as_ref());
        let text = format!(
            "{} does not lead to the edges since {since}: {}",
            domain_name(domain),
            domain.found
        );
        pairs.push(("Astray", Paint::Bad.on(&text)));
    }
    pairs
}

/// Both forms of the name if they differ: letters that look alike may not be the same.
pub fn domain_name(domain: &Domain) -> String {
    if domain.unicode_name.is_empty() || domain.unicode_name == domain.name {
        domain.name.clone()
    } else {
        format!("{} ({})", domain.name, domain.unicode_name)
    }
}
