//! What containers are made of, and when they are made anew.
//!
//! Not here: an engine that takes them (the crate's tests).

use super::*;
use crate::{
    plan::{
        facts::ImageFacts,
        stack::{
            CRON_THREADS, MAX_CONNECTIONS, RenderedFile, db_maxconn, process_memory,
            process_soft_memory, split_memory,
        },
    },
    testing::tenant_plan,
};
use isyone_proto::spec::{Bounds, Size};
use proptest::prelude::*;

fn host() -> HostFacts {
    HostFacts {
        advertise: "192.0.2.7".parse().unwrap(),
        cpus: 4,
        tenants_dir: "/var/lib/isyone/tenants".into(),
        addons_dir: "/var/lib/isyone/addons".into(),
        data_device: None,
        mtu: None,
        relays: false,
        home: Some("/srv/isyone/tenants/alfa".into()),
    }
}

fn images() -> Images {
    let facts = |id: &str| ImageFacts {
        id: id.into(),
        digest: id.into(),
        uid: 100,
        gid: 101,
        ..Default::default()
    };
    Images {
        odoo: facts("sha256:odoo"),
        postgres: facts("sha256:postgres"),
    }
}

fn hashes(plan: &TenantPlan) -> (String, String) {
    let stack = stack(plan, &host(), &images(), "hash");
    (
        stack.postgres.labels[LABEL_CONFIG_HASH].clone(),
        stack.odoo.labels[LABEL_CONFIG_HASH].clone(),
    )
}

#[test]
fn a_resize_never_makes_postgres_anew() {
    let before = tenant_plan("alfa");
    let mut after = before.clone();
    after.size = Size {
        memory_bytes: 8 << 30,
        cpu_millis: 4000,
        disk_bytes: 1,
        workers: 2,
        bounds: Bounds::default(),
    };
    assert_eq!(
        hashes(&before),
        hashes(&after),
        "memory and CPU change in flight"
    );
    after.size.workers = 9;
    assert_eq!(hashes(&before).0, hashes(&after).0);
    assert_ne!(
        hashes(&before).1,
        hashes(&after).1,
        "workers are in odoo.conf"
    );
}

/// Fails if memory that is changed in flight starts Odoo anew, or if its limits then stay as they were.
#[test]
fn the_limits_on_a_process_follow_the_memory_without_a_new_container() {
    let mut images = images();
    images.odoo.addons_path = Some("/mnt/extra-addons".to_owned());
    let of = |memory_mib: u64, workers: u32, images: &Images| {
        let mut plan = tenant_plan("alfa");
        plan.size.memory_bytes = memory_mib << 20;
        plan.size.workers = workers;
        let stack = stack(&plan, &host(), images, "hash");
        let conf = &stack.files[2].content;
        let limit = |key: &str| {
            let line = conf
                .lines()
                .find_map(|line| line.strip_prefix(key))
                .unwrap();
            line.trim_start_matches(" = ").parse::<u64>().unwrap()
        };
        let limits = ["limit_memory_hard", "limit_memory_soft", "limit_time_cpu"].map(limit);
        (limits, stack.odoo.labels[LABEL_CONFIG_HASH].clone())
    };
    let (small, before) = of(1024, 0, &images);
    assert_eq!([small[0] >> 20, small[1], small[2]], [652, 0, 716]);
    let (larger, after) = of(4096, 0, &images);
    assert_eq!(larger[0] >> 20, 2611);
    assert_eq!(before, after);
    // 1 GiB is uploaded into one of two workers, and of four.
    assert_eq!(of(2048, 2, &images).0[0] >> 20, 1305);
    assert_eq!(of(4096, 4, &images).0.map(|n| n >> 20)[..2], [1305, 979]);
    assert_eq!(of(16384, 8, &images).0[0] >> 20, 2611);
    images.odoo.addons_path = None;
    assert_eq!(of(1024, 0, &images).0[..2], [3584 << 20, 2048 << 20]);
}

/// Which containers a plan's further limits make anew: those of a plan that says them, never those of one that does not.
#[test]
fn limits_that_a_plan_does_not_say_change_no_container() {
    let before = tenant_plan("alfa");
    let unsaid = stack(&before, &host(), &images(), "hash");
    let json = serde_json::to_string(&unsaid.odoo).unwrap();
    assert!(
        !json.contains("nofile") && !json.contains("device"),
        "{json}"
    );
    let mut after = before.clone();
    after.size.bounds.pids = 400;
    assert_eq!(
        hashes(&before),
        hashes(&after),
        "processes change in flight"
    );
    let limited = stack(&after, &host(), &images(), "hash");
    assert_eq!(limited.odoo.limits.pids, 400);
    assert_eq!(limited.postgres.limits, unsaid.postgres.limits);
    after.size.bounds.nofile = 4_096;
    assert_ne!(hashes(&before).0, hashes(&after).0);
    assert_ne!(hashes(&before).1, hashes(&after).1);
    let mut io = before.clone();
    io.size.bounds.device_write_bps = 1 << 20;
    let mut there = host();
    assert_eq!(stack(&io, &there, &images(), "hash").odoo.device, None);
    there.data_device = Some("/dev/sda".to_owned());
    let limits = stack(&io, &there, &images(), "hash").odoo.device.unwrap();
    assert_eq!(
        (limits.device.as_str(), limits.write_bps),
        ("/dev/sda", 1 << 20)
    );
    assert_eq!(stack(&before, &there, &images(), "hash").odoo, unsaid.odoo);
}

/// Fails where a limit is lost on its way to one of the two containers or into the compose file, is another there, or, of the
/// device, changes without a new container: nothing else would bring it into force.
#[test]
fn each_limit_of_a_plan_holds_for_both_containers() {
    let unsaid = tenant_plan("alfa");
    let mut there = host();
    there.data_device = Some("/dev/sda".to_owned());
    let hashes = |plan: &TenantPlan| {
        let stack = stack(plan, &there, &images(), "hash");
        [stack.postgres, stack.odoo].map(|spec| spec.labels[LABEL_CONFIG_HASH].clone())
    };
    let with = |(read_bps, write_bps), (read_iops, write_iops)| {
        let mut plan = unsaid.clone();
        plan.size.bounds = Bounds {
            device_read_bps: read_bps,
            device_write_bps: write_bps,
            device_read_iops: read_iops,
            device_write_iops: write_iops,
            pids: 411,
            ..Bounds::default()
        };
        plan
    };
    let plan = with((11, 12), (13, 14));
    let made = stack(&plan, &there, &images(), "hash");
    for spec in [&made.odoo, &made.postgres, &made.init] {
        let limits = spec.device.as_ref().unwrap();
        let bps = (limits.read_bps, limits.write_bps);
        let iops = (limits.read_iops, limits.write_iops);
        assert_eq!((bps, iops), ((11, 12), (13, 14)), "{}", spec.name);
    }
    let said = |name: &str, rate: u32| {
        format!("      {name}:\n      - path: /dev/sda\n        rate: {rate}\n")
    };
    let said = [
        "    blkio_config:\n".to_owned(),
        said("device_read_bps", 11),
        said("device_read_iops", 13),
        said("device_write_bps", 12),
        said("device_write_iops", 14),
    ];
    let is_compose = |file: &&RenderedFile| file.name.ends_with(".yml");
    let compose = made.files.iter().find(is_compose).unwrap();
    assert_eq!(
        compose.content.matches(&said.concat()).count(),
        2,
        "{}",
        compose.content
    );
    // Processes as well, in the file too: PostgreSQL has room for all its connections, and an end.
    for pids in [411, made.postgres.limits.pids] {
        assert!(compose.content.contains(&format!("pids_limit: {pids}\n")));
    }
    let room = made.postgres.limits.pids.saturating_sub(MAX_CONNECTIONS);
    assert!((50..500).contains(&room), "{room}");
    for one in [
        with((1, 0), (0, 0)),
        with((0, 1), (0, 0)),
        with((0, 0), (1, 0)),
        with((0, 0), (0, 1)),
    ] {
        let [postgres, odoo] = hashes(&one);
        let [before, odoo_before] = hashes(&unsaid);
        assert!(postgres != before && odoo != odoo_before, "{:?}", one.size);
    }
}

/// Fails if an upgrade of the agent makes containers anew: every tenant would stop for it.
#[test]
fn a_container_of_an_agent_before_is_kept() {
    let plan = tenant_plan("alfa");
    let odoo = containers::odoo(&plan, &host(), &images());
    let mut before = odoo.clone();
    before.mounts.retain(|m| m.source != MountSource::Image);
    assert_eq!(before.mounts.len() + 1, odoo.mounts.len());
    assert_eq!(config_hash(&before, "conf"), config_hash(&odoo, "conf"));
    let has = |of: fn(&TenantPlan, &ImageFacts, &str) -> String| {
        of(&plan, &images().odoo, "hash").contains("unaccent = True")
    };
    assert!(has(conf::odoo_conf) && !has(conf::fixed_conf));
    let now = containers::postgres(&plan, &host(), &images());
    let mut before = now.clone();
    before.mounts.truncate(2);
    before.env.remove("POSTGRES_INITDB_ARGS");
    before.command.retain(|part| !part.contains("config_file"));
    assert_eq!(
        (before.mounts.len() + 2, before.env.len()),
        (now.mounts.len(), 1)
    );
    assert_eq!(config_hash(&before, ""), config_hash(&now, ""));
}

/// Whose the ports are makes no running container anew, and a relay's tenant has none published.
#[test]
fn a_relays_tenants_publish_nothing() {
    let plan = tenant_plan("alfa");
    let mut there = host();
    there.relays = true;
    let published = stack(&plan, &host(), &images(), "hash");
    let relayed = stack(&plan, &there, &images(), "hash");
    assert_eq!(published.odoo.ports.len(), 2);
    assert!(relayed.odoo.ports.is_empty() && relayed.init.ports.is_empty());
    assert_eq!(relayed.odoo.env[SOCKET_TIMEOUT], "60");
    assert!(
        published.odoo.env.is_empty(),
        "a visitor would hold a worker"
    );
    let hash = |stack: &Stack| stack.odoo.labels[LABEL_CONFIG_HASH].clone();
    assert_eq!(hash(&published), hash(&relayed));
    let compose = &relayed.files[0].content;
    assert!(!compose.contains("\n    ports:"), "{compose}");
    assert!(compose.contains("one.isy.ports: relay"), "{compose}");
}

/// Fails where a chart of accounts of one country gets into a tenant of another.
#[test]
fn a_snapshot_with_modules_is_of_one_country_and_zone() {
    let keys = |modules: &[&str]| {
        let of = |country: &str, zone: &str, language: &str| {
            let mut plan = tenant_plan("alfa");
            plan.modules = modules.iter().map(|name| name.parse().unwrap()).collect();
            plan.country = country.parse().unwrap();
            plan.time_zone = zone.parse().unwrap();
            plan.language = language.parse().unwrap();
            golden_key(&plan, &images())
        };
        let keys = [
            of("BR", "UTC", "pt_BR"),
            of("PT", "UTC", "pt_BR"),
            of("BR", "Asia/Tokyo", "pt_BR"),
            of("BR", "UTC", "en_US"),
        ];
        std::collections::BTreeSet::from(keys).len()
    };
    assert_eq!([keys(&["account"]), keys(&[])], [4, 2]);
}

/// Fails where a database that sorts by bytes is taken for one that does not.
#[test]
fn a_snapshot_is_of_one_order() {
    let of = |order: Option<&str>| {
        let mut plan = tenant_plan("alfa");
        plan.collation = order.map(|order| order.parse().unwrap());
        golden_key(&plan, &images())
    };
    let keys = [of(None), of(Some("pt-BR")), of(Some("de"))];
    assert_eq!(std::collections::BTreeSet::from(keys).len(), 3);
}

/// Odoo's base comes first and alone, for the company is settled between it and the modules.
#[test]
fn modules_are_installed_after_base_and_only_where_some_are_wanted() {
    let mut plan = tenant_plan("alfa");
    let arguments = |spec: &ContainerSpec| spec.command.join(" ");
    let bare = stack(&plan, &host(), &images(), "hash");
    assert_eq!(bare.install, None);
    plan.modules = vec!["account".parse().unwrap(), "crm".parse().unwrap()];
    let full = stack(&plan, &host(), &images(), "hash");
    assert_eq!(full.init, bare.init);
    assert!(arguments(&full.init).contains(" -i base --stop-after-init"));
    let install = full.install.unwrap();
    assert!(arguments(&install).contains(" -i account,crm --stop-after-init"));
    assert_eq!(install.name, full.init.name, "one after the other");
    assert!(!arguments(&install).contains("--load-language"));
}

#[test]
fn no_secret_is_in_a_container_spec() {
    let mut plan = tenant_plan("alfa");
    plan.modules = vec!["crm".parse().unwrap()];
    let stack = stack(&plan, &host(), &images(), "hash");
    let install = stack.install.as_ref().unwrap();
    for spec in [
        &stack.odoo,
        &stack.postgres,
        &stack.init,
        install,
        &stack.finish,
    ] {
        let text = format!("{spec:?}");
        for secret in [
            &plan.secrets.database_password,
            &plan.secrets.admin_password,
            &plan.secrets.master_password,
        ] {
            assert!(!text.contains(secret.expose()), "{}", spec.name);
        }
        let derived = [
            sql::superuser_password(&plan),
            sql::monitor_password(&plan),
            sql::metrics_token(&plan),
        ];
        assert!(derived.iter().all(|secret| !text.contains(secret)));
    }
}

proptest! {
    #[test]
    fn limits_and_connections_always_fit(memory in (64u64 << 20)..(512 << 30), cpu in 1u32..256_000, workers in 0u32..180) {
        let size = Size { memory_bytes: memory, cpu_millis: cpu, disk_bytes: 0, workers, bounds: Bounds::default() };
        let (odoo, postgres) = split_memory(memory);
        prop_assert_eq!(odoo + postgres, memory);
        prop_assert!(postgres >= 6 << 20 && odoo >= postgres);
        let bound = process_memory(&size, 1 << 30);
        prop_assert!(bound <= (odoo / 100 * 85).max(256 << 20));
        let soft = process_soft_memory(&size, 1 << 30);
        prop_assert!(soft == 0 || soft >= 512 << 20);
        let processes = if workers == 0 { 1 } else { workers + CRON_THREADS + 1 };
        let plan = isyone_proto::plan::TenantPlan { size, ..tenant_plan("alfa") };
        prop_assert!(processes * db_maxconn(&plan) <= MAX_CONNECTIONS);
        for role in [Role::Odoo, Role::Postgres] {
            prop_assert!(containers::limits(&size, &host(), role).nano_cpus <= 4_000_000_000);
        }
    }
}
