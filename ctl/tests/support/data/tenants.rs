//! Tenants, with their domains, probes and passwords.

use isyone_proto::pb::v1::*;

use super::{GIB, MIB, ago, map, op_id, standard};

pub(crate) fn spec() -> TenantSpec {
    TenantSpec {
        plan: "standard".into(),
        domains: vec!["erp.example.com".into()],
        language: "pt_BR".into(),
        country: "BR".into(),
        time_zone: "America/Sao_Paulo".into(),
        modules: vec!["crm".into(), "sale_management".into()],
        edition: "18.0".into(),
        odoo_image: "odoo:18.0".into(),
        postgres_image: "postgres:15".into(),
        host: String::new(),
        host_labels: map(&[("zone", "eu")]),
        admin_login: "admin".into(),
        signup: false,
        collation: String::new(),
    }
}

fn containers(name: &str) -> Vec<Container> {
    let container = |role: &str, digest: &str| Container {
        name: format!("{role}_{name}"),
        state: "running".into(),
        healthy: true,
        restarts: u32::from(role == "odoo"),
        oom_kills: 0,
        image_digest: format!("sha256:{}", digest.repeat(64)),
        exit_code: 0,
        start_time: ago(3 * 3600),
    };
    vec![container("odoo", "a"), container("postgres", "b")]
}

pub(crate) fn tenant(name: &str) -> Tenant {
    Tenant {
        name: name.into(),
        uid: "01935780-0000-7000-8000-00000000000a".into(),
        spec: Some(spec()),
        desired_state: DesiredState::Running.into(),
        phase: TenantPhase::Running.into(),
        message: String::new(),
        host: "h2".into(),
        epoch: 1,
        generation: 3,
        url: format!("http://{name}.isy.one"),
        http_port: 20_000,
        websocket_port: 20_001,
        subnet: "10.200.0.0/28".into(),
        containers: containers(name),
        usage: Some(Usage {
            cpu_millis: 42,
            memory_bytes: 612 * MIB,
            disk_bytes: 3 * GIB / 2,
        }),
        create_time: ago(3 * 86_400),
        report_time: ago(4),
        quarantine_expire_time: None,
        operation_id: op_id(1),
        size: Some(standard()),
        hostnames: vec![format!("{name}.isy.one"), "erp.example.com".into()],
        traffic: Some(Traffic {
            requests_per_minute: 192,
            errors_per_minute: 3,
            latency_p95_ms: 340,
            websockets: 3,
            active_users: 2,
            last_active_time: ago(1200),
            mails_failed: (name == "posts").then_some(3),
        }),
        edge_shard: "a".into(),
        probe: Some(probe(Reach::Ok, 200, "")),
        access: None,
        domains: domains(name),
        asleep_time: None,
        last_active_time: ago(1200),
        copies: Vec::new(),
        other_images: false,
        disk: Some(Disk {
            used_bytes: 3 * GIB / 2,
            limit_bytes: 10 * GIB,
            state: DiskState::Free.into(),
            means: DiskMeans::Counted.into(),
            used_inodes: 5_120,
            limit_inodes: 655_360,
            too_deep: DiskPlace::Unspecified.into(),
            postgres_stopped: false,
        }),
        modules_cut_off: 0,
        mail: mail(name),
        odoo_settings: settings(name),
        strain: Some(Strain {
            busy_permille: Some(120),
            waits_per_minute: Some(0),
            memory_permille: 610,
            throttled_permille: 40,
        }),
        verified: Some(BackupVerified {
            time: ago(2 * 86_400),
            damaged: false,
            incomplete: false,
        }),
    }
}

/// Those of `posts`.
fn settings(tenant: &str) -> Vec<OdooSetting> {
    let setting = |name: &str, value: &str, source: SettingSource| OdooSetting {
        name: name.into(),
        value: value.into(),
        source: source.into(),
    };
    let all = [
        setting("limit_time_real", "300", SettingSource::Tenant),
        setting("log_level", "warn", SettingSource::Plan),
        setting("unaccent", "False", SettingSource::Fleet),
    ];
    all.into_iter().filter(|_| tenant == "posts").collect()
}

/// `posts` sends by a relay of its own, `caught` is; of others nothing is set.
fn mail(tenant: &str) -> Option<TenantMail> {
    let settings = match tenant {
        "posts" => MailSettings {
            kind: MailKind::Relay.into(),
            host: "smtp.example.com".into(),
            port: 587,
            tls: MailTls::Starttls.into(),
            user: "apikey".into(),
            sender_domain: "isy.one".into(),
            from_filter: vec!["isy.one".into()],
            per_day: 500,
            ..MailSettings::default()
        },
        "caught" => MailSettings {
            kind: MailKind::Catcher.into(),
            ..MailSettings::default()
        },
        _ => return None,
    };
    Some(TenantMail {
        has_password: !settings.user.is_empty(),
        settings: Some(settings),
        source: SettingSource::Tenant.into(),
    })
}

/// The platform's domain and one of the tenant's own.
pub(crate) fn domains(tenant: &str) -> Vec<Domain> {
    let platform = Domain {
        name: format!("{tenant}.isy.one"),
        unicode_name: format!("{tenant}.isy.one"),
        tenant: tenant.into(),
        platform: true,
        ..Domain::default()
    };
    let own = Domain {
        name: "erp.example.com".into(),
        unicode_name: "erp.example.com".into(),
        platform: false,
        primary: true,
        state: DomainState::Ok.into(),
        found: format!("CNAME → {tenant}.isy.one, A 192.0.2.80"),
        check_time: ago(240),
        ..platform.clone()
    };
    vec![platform, own]
}

/// All tenants' domains, two of them with problems.
pub(crate) fn all_domains() -> Vec<Domain> {
    let own = domains("alfa").remove(1);
    vec![
        own.clone(),
        Domain {
            name: "shop.beta.example".into(),
            unicode_name: "shop.beta.example".into(),
            tenant: "beta".into(),
            primary: false,
            state: DomainState::Doubtful.into(),
            found: "there is no such name in DNS".into(),
            since_time: ago(60),
            ..own.clone()
        },
        Domain {
            name: "xn--bcher-kva.example".into(),
            unicode_name: "bücher.example".into(),
            tenant: "gama".into(),
            state: DomainState::Unreachable.into(),
            found: "A 203.0.113.9; no edge has 203.0.113.9".into(),
            since_time: ago(7200),
            ..own
        },
    ]
}

pub(crate) fn probe(reach: Reach, http_status: u32, error: &str) -> Probe {
    Probe {
        reach: reach.into(),
        http_status,
        duration_ms: 34,
        certificate_expire_time: ago(-60 * 86_400),
        error: error.into(),
        edge: "192.0.2.80:443".into(),
        time: ago(12),
    }
}

/// Short of everything.
pub(crate) fn strain() -> Strain {
    Strain {
        busy_permille: Some(934),
        waits_per_minute: Some(12),
        memory_permille: 971,
        throttled_permille: 452,
    }
}

/// One copy of each kind beside the tenant.
pub(crate) fn copies() -> Vec<TenantCopy> {
    let copy = |host: &str, role: CopyRole, expire_time| TenantCopy {
        host: host.into(),
        role: role.into(),
        expire_time,
        ..TenantCopy::default()
    };
    let standby = TenantCopy {
        lag: Some(Lag {
            bytes: 300 << 10,
            milliseconds: 1_300,
            files_milliseconds: 42_000,
        }),
        filled: true,
        apart: "rack".into(),
        takes_over_after_milliseconds: 60_000,
        leased: true,
        ..copy("h5", CopyRole::Standby, None)
    };
    vec![
        copy("h3", CopyRole::Incoming, None),
        copy("h1", CopyRole::Fenced, ago(-7 * 86_400)),
        copy("h4", CopyRole::Removing, None),
        standby,
    ]
}

/// All tenants, by name.
pub(crate) fn tenants() -> Vec<Tenant> {
    let mut beta = tenant("beta");
    beta.phase = TenantPhase::Failing.into();
    beta.message =
        "image odoo:99 cannot be pulled: not found; set another with `isyctl tenant create beta --force`"
            .into();
    beta.host = "h1".into();
    beta.usage = None;
    beta.containers.clear();
    beta.report_time = None;
    (beta.traffic, beta.strain) = (None, None);
    beta.probe = Some(probe(Reach::TenantDown, 502, "answered 502"));
    beta.create_time = ago(90);
    let mut delta = tenant("delta");
    delta.other_images = true;
    delta.desired_state = DesiredState::Quarantined.into();
    delta.phase = TenantPhase::Quarantined.into();
    delta.containers.clear();
    delta.usage = None;
    (delta.traffic, delta.strain, delta.probe) = (None, None, None);
    delta.quarantine_expire_time = ago(-7 * 86_400);
    let mut gama = tenant("gama");
    gama.phase = TenantPhase::Suspended.into();
    gama.access = Some(TenantAccess {
        networks: vec!["203.0.113.0/24".into(), "2001:db8::/48".into()],
        users: vec!["tester".into()],
        rate: Some(RequestRate {
            average: 5,
            burst: 10,
        }),
        own_rate: true,
    });
    gama.desired_state = DesiredState::Suspended.into();
    gama.containers[0].state = "exited".into();
    gama.containers[0].healthy = false;
    gama.containers[0].exit_code = 137;
    (gama.traffic, gama.probe) = (None, None);
    // This tenant sleeps.
    gama.message = "asleep since 2026-11-01T08:00:00Z; the next visitor wakes it".into();
    (gama.asleep_time, gama.last_active_time) = (ago(2 * 86_400), ago(16 * 86_400));
    vec![tenant("alfa"), beta, delta, gama]
}

/// Tenants for the screen: more than fit on it, with one for each kind of trouble.
pub(crate) fn followed() -> Vec<Tenant> {
    let mut all: Vec<Tenant> = tenants()
        .into_iter()
        .filter(|t| t.quarantine_expire_time.is_none())
        .collect();
    let mut dark = tenant("dark");
    dark.probe = Some(probe(
        Reach::EdgeDown,
        0,
        "no connection: connection refused",
    ));
    let mut lost = tenant("lost");
    (lost.host, lost.phase) = ("h3".into(), TenantPhase::Unknown.into());
    (lost.usage, lost.traffic) = (None, None);
    lost.probe = Some(probe(Reach::HostDown, 504, "answered 504"));
    let mut hungry = tenant("hungry-with-a-rather-long-name");
    hungry.usage = Some(Usage {
        cpu_millis: 1490,
        memory_bytes: 2000 * MIB,
        disk_bytes: 0,
    });
    all.extend([dark, lost, hungry]);
    all.extend((1..=30).map(|n| {
        let mut tenant = tenant(&format!("tenant-{n:02}"));
        tenant.usage = Some(Usage {
            cpu_millis: n,
            memory_bytes: u64::from(n) * MIB,
            disk_bytes: GIB,
        });
        tenant.traffic = Some(Traffic {
            requests_per_minute: 0,
            ..Traffic::default()
        });
        tenant.probe = None;
        tenant
    }));
    all
}

pub(crate) fn credentials(name: &str) -> Credentials {
    Credentials {
        url: format!("http://{name}.isy.one"),
        login: "admin".into(),
        password: "correct-horse-battery".into(),
        master_password: "master-of-all".into(),
        database: format!("odoo_{name}"),
        database_user: "odoo".into(),
        database_password: "database-secret".into(),
    }
}
