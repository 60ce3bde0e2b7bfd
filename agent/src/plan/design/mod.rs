//! Turns a tenant's plan into a stack: containers, network and volumes. Pure: the same inputs give the same stack.
//!
//! The stack is created through the Engine API; the files beside it (render) describe the same for people. Not here:
//! what exists already (diff).

mod containers;

pub use self::containers::{default_pgdata, volume_target};

use std::collections::BTreeMap;

use isyone_proto::plan::{Role, TenantPlan};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::plan::{
    container::{
        ContainerSpec, LABEL_CONFIG_HASH, LABEL_PORTS, LABEL_SETTINGS, LABEL_TENANT, LABEL_UID,
        Limits, Mount, MountSource, NamedSpec, PORTS_RELAYED, SETTINGS_IN_FILES,
    },
    facts::{HostFacts, Images},
    postgres, render, sql,
    stack::Stack,
};

/// Tells an Odoo worker how long it waits for its client's next byte, seconds; Odoo's default of 2 cuts off who reads a large answer
/// slowly. Only behind the host's relay, which takes bodies in whole and keeps connections moving: a worker that a visitor reaches
/// by himself is held by him for as long.
const SOCKET_TIMEOUT: &str = "ODOO_HTTP_SOCKET_TIMEOUT";
const SOCKET_TIMEOUT_S: u32 = 60;

fn named(plan: &TenantPlan, name: String, key: &str, value: &str) -> NamedSpec {
    let labels = BTreeMap::from([
        (LABEL_TENANT.to_owned(), plan.name.to_string()),
        (LABEL_UID.to_owned(), plan.uid.to_string()),
        ("com.docker.compose.project".to_owned(), plan.name.project()),
        (format!("com.docker.compose.{key}"), value.to_owned()),
    ]);
    NamedSpec { name, labels }
}

/// The volume of a role; the same whatever the images.
pub fn volume(plan: &TenantPlan, role: Role) -> NamedSpec {
    let (name, value) = match role {
        Role::Postgres => (plan.name.postgres_volume(), "pgdata"),
        Role::Odoo => (plan.name.odoo_volume(), "odoo_data"),
    };
    named(plan, name, "volume", value)
}

/// Hash over what cannot change while a container lives; without limits and tuning, which follow the size.
fn config_hash(spec: &ContainerSpec, contents: &str) -> String {
    let mut fixed = spec.clone();
    fixed.limits = Limits::default();
    fixed.shm_bytes = None;
    // Agents of before left them out, and no tenant is to stop for them: they come with the next container.
    fixed
        .mounts
        .retain(|m| m.source != MountSource::Image && !is_extra(m));
    fixed.env.remove(postgres::INITDB_ARGS_VARIABLE);
    if fixed.command.first().is_some_and(|c| c == "postgres") {
        fixed.command.truncate(1);
    }
    #[derive(Serialize)]
    struct Hashed<'a> {
        spec: &'a ContainerSpec,
        contents: &'a str,
    }
    // Plain structs with string keys: serialising cannot fail.
    let json = serde_json::to_vec(&Hashed {
        spec: &fixed,
        contents,
    })
    .unwrap_or_default();
    hex::encode(Sha256::digest(json))
}

/// What came after the first agents in PostgreSQL's container.
fn is_extra(mount: &Mount) -> bool {
    [postgres::TARGET, postgres::SPOOL_TARGET].contains(&mount.target.as_str())
}

fn with_hash(mut spec: ContainerSpec, contents: &str) -> ContainerSpec {
    let hash = config_hash(&spec, contents);
    spec.labels
        .insert("com.docker.compose.config-hash".to_owned(), hash.clone());
    spec.labels.insert(LABEL_CONFIG_HASH.to_owned(), hash);
    spec
}

/// Leaves the ports to the host's relay, and has Odoo wait for it. Comes after the hash: whose they are is no reason to make a container
/// anew that has them published (the other way round is one: diff).
fn leave_ports(odoo: &mut ContainerSpec) {
    odoo.ports.clear();
    odoo.env
        .insert(SOCKET_TIMEOUT.to_owned(), SOCKET_TIMEOUT_S.to_string());
    odoo.labels
        .insert(LABEL_PORTS.to_owned(), PORTS_RELAYED.to_owned());
}

/// Names the snapshot from which this tenant's database may be copied.
pub fn golden_key(plan: &TenantPlan, images: &Images) -> String {
    let modules: Vec<&str> = plan.modules.iter().map(|m| m.as_str()).collect();
    let text = format!(
        "3 {} {} {} {} {}", // a new number: clusters are made differently
        images.odoo.id,
        images.postgres.id,
        images.postgres.postgres_major,
        modules.join(","),
        plan.language
    );
    hex::encode(&Sha256::digest(text)[..12])
}

/// Builds the whole stack. `master_hash` is the hashed master password (slow to compute, so computed elsewhere and
/// kept).
pub fn stack(plan: &TenantPlan, host: &HostFacts, images: &Images, master_hash: &str) -> Stack {
    let conf = render::odoo_conf(plan, &images.odoo, master_hash);
    let mut postgres = with_hash(containers::postgres(plan, host, images), "");
    // After the hash: a container without it is made anew when PostgreSQL stops for another reason (diff).
    postgres
        .labels
        .insert(LABEL_SETTINGS.to_owned(), SETTINGS_IN_FILES.to_owned());
    // A changed file replaces the mounted one by a rename: a container only sees it when it is started again.
    let fixed = render::fixed_conf(plan, &images.odoo, master_hash);
    let mut odoo = with_hash(
        containers::odoo(plan, host, images),
        &(fixed + &sql::metrics_token(plan)),
    );
    if host.relays {
        leave_ports(&mut odoo);
    }
    let mut stack = Stack {
        network: named(plan, plan.name.project(), "network", "default"),
        subnet: plan.subnet.trunc().to_string(),
        postgres_volume: volume(plan, Role::Postgres),
        odoo_volume: volume(plan, Role::Odoo),
        postgres,
        odoo,
        init: containers::init(plan, host, images),
        finish: containers::finish(plan, host, images),
        files: Vec::new(),
        standin: images.odoo.standin || images.postgres.standin,
        golden_key: golden_key(plan, images),
    };
    stack.files = render::files(plan, &stack, images, conf);
    stack
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn no_secret_is_in_a_container_spec() {
        let plan = tenant_plan("alfa");
        let stack = stack(&plan, &host(), &images(), "hash");
        for spec in [&stack.odoo, &stack.postgres, &stack.init, &stack.finish] {
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
            prop_assert!(processes * db_maxconn(&size) <= MAX_CONNECTIONS);
            for role in [Role::Odoo, Role::Postgres] {
                prop_assert!(containers::limits(&size, &host(), role).nano_cpus <= 4_000_000_000);
            }
        }
    }
}
