//! A tenant's plan as containers, network and volumes. Pure: the same inputs give the same stack.
//!
//! The stack is made through the Engine API; the files beside it (render) describe the same for people. Not here: what is
//! there already (diff).

use std::collections::BTreeMap;

use isyone_proto::{
    ids::TenantName,
    plan::{Role, TenantPlan},
    spec::Size,
};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::plan::{
    container::{
        ContainerSpec, LABEL_CONFIG_HASH, LABEL_ROLE, LABEL_TENANT, LABEL_UID, Limits, Mount,
        MountSource, NamedSpec, PublishedPort,
    },
    facts::{HostFacts, Images},
    render::{self, RenderedFile},
    sql,
};

/// Odoo's port for HTTP in the container.
pub const HTTP_PORT: u16 = 8069;
/// Its port for websockets (only with workers).
pub const GEVENT_PORT: u16 = 8072;
/// PostgreSQL's port in the container.
pub const POSTGRES_PORT: u16 = 5432;
/// So long a stop that an operator has ordered waits for Odoo's requests: as long as any but an upload may take. A visitor who sends
/// slowly must not hold up a suspension, nor a place among those who work on this host, for the longest upload's twelve minutes.
pub const ODOO_STOP_S: u32 = 130;
/// Odoo may need so much longer than its requests.
const ODOO_END_S: u64 = 10;
/// PostgreSQL's fast shutdown writes a checkpoint.
pub const POSTGRES_GRACE_S: u32 = 60;
/// The same for each size, so that a resize never restarts PostgreSQL; Odoo's share is worked out in `db_maxconn`.
pub const MAX_CONNECTIONS: u32 = 200;
/// Of these, kept for the agent, psql and autovacuum's like.
const RESERVED_CONNECTIONS: u32 = 10;
/// Our Odoo module and its directory.
pub const ADDON_NAME: &str = "isyone_metrics";
/// Directory in the container that `addons_path` names.
pub const ADDONS_TARGET: &str = "/mnt/isyone-addons";
/// Cron processes (threads without workers).
pub const CRON_THREADS: u32 = 1;

/// All that a tenant has on its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    /// Its network.
    pub network: NamedSpec,
    /// That network's CIDR.
    pub subnet: String,
    /// PostgreSQL's data.
    pub postgres_volume: NamedSpec,
    /// Filestore and sessions.
    pub odoo_volume: NamedSpec,
    /// `postgres_<t>`.
    pub postgres: ContainerSpec,
    /// `odoo_<t>`.
    pub odoo: ContainerSpec,
    /// `odoo -i`, run once: `odoo_<t>_init`.
    pub init: ContainerSpec,
    /// Files in the tenant's directory.
    pub files: Vec<RenderedFile>,
    /// No database to fill.
    pub standin: bool,
    /// Which golden snapshot fits.
    pub golden_key: String,
}

impl Stack {
    /// The container that plays a role.
    pub fn container(&self, role: Role) -> &ContainerSpec {
        match role {
            Role::Odoo => &self.odoo,
            Role::Postgres => &self.postgres,
        }
    }
    /// The volume of a role.
    pub fn volume(&self, role: Role) -> &NamedSpec {
        match role {
            Role::Odoo => &self.odoo_volume,
            Role::Postgres => &self.postgres_volume,
        }
    }
}

/// `odoo_<t>_init`.
pub fn init_name(tenant: &TenantName) -> String {
    format!("{}_init", tenant.odoo_container())
}

/// A quarter of the memory is PostgreSQL's, at least 64 MiB and at most 4 GiB, but never more than half.
pub fn split_memory(total: u64) -> (u64, u64) {
    let postgres = (total / 4).clamp(64 << 20, 4 << 30).min(total / 2);
    (total - postgres, postgres)
}

/// Connections of one Odoo process, so that all of them together fit PostgreSQL.
pub fn db_maxconn(size: &Size) -> u32 {
    let processes = if size.workers == 0 {
        1
    } else {
        size.workers + CRON_THREADS + 1
    };
    ((MAX_CONNECTIONS - RESERVED_CONNECTIONS) / processes).clamp(1, 32)
}

fn limits(size: &Size, host: &HostFacts, role: Role) -> Limits {
    let (odoo, postgres) = split_memory(size.memory_bytes);
    // CPU is shared, not split: Odoo may use all of it, PostgreSQL half beside. The engine refuses more than there is.
    let most = u64::from(host.cpus.max(1)) * 1_000_000_000;
    let cpu = u64::from(size.cpu_millis) * 1_000_000;
    let least = 10_000_000; // Docker's minimum
    match role {
        Role::Odoo => Limits {
            memory_bytes: odoo,
            nano_cpus: cpu.clamp(least, most),
            pids: 256 + 64 * size.workers,
        },
        Role::Postgres => Limits {
            memory_bytes: postgres,
            nano_cpus: (cpu / 2).clamp(least, most),
            pids: MAX_CONNECTIONS + 100,
        },
    }
}

/// `shared_buffers` follows the memory at the container's birth; a resize leaves it, or PostgreSQL would restart.
fn postgres_tuning(limits: &Limits) -> Vec<String> {
    let buffers_mib = ((limits.memory_bytes / 4) >> 20).clamp(16, 1024);
    [
        format!("shared_buffers={buffers_mib}MB"),
        format!("max_connections={MAX_CONNECTIONS}"),
    ]
    .into_iter()
    .flat_map(|setting| ["-c".to_owned(), setting])
    .collect()
}

fn labels(plan: &TenantPlan, host: &HostFacts, role: &str) -> BTreeMap<String, String> {
    let directory = render::directory(host, &plan.name);
    let compose = directory.join(render::compose_file(&plan.name));
    BTreeMap::from([
        (LABEL_TENANT.to_owned(), plan.name.to_string()),
        (LABEL_UID.to_owned(), plan.uid.to_string()),
        (LABEL_ROLE.to_owned(), role.to_owned()),
        ("com.docker.compose.project".to_owned(), plan.name.project()),
        ("com.docker.compose.service".to_owned(), role.to_owned()),
        (
            "com.docker.compose.container-number".to_owned(),
            "1".to_owned(),
        ),
        ("com.docker.compose.oneoff".to_owned(), "False".to_owned()),
        (
            "com.docker.compose.project.config_files".to_owned(),
            compose.display().to_string(),
        ),
        (
            "com.docker.compose.project.working_dir".to_owned(),
            directory.display().to_string(),
        ),
    ])
}

fn named(plan: &TenantPlan, name: String, key: &str, value: &str) -> NamedSpec {
    let labels = BTreeMap::from([
        (LABEL_TENANT.to_owned(), plan.name.to_string()),
        (LABEL_UID.to_owned(), plan.uid.to_string()),
        ("com.docker.compose.project".to_owned(), plan.name.project()),
        (format!("com.docker.compose.{key}"), value.to_owned()),
    ]);
    NamedSpec { name, labels }
}

fn file_mount(host: &HostFacts, plan: &TenantPlan, file: &str, target: &str) -> Mount {
    let source = render::directory(host, &plan.name)
        .join(file)
        .display()
        .to_string();
    Mount {
        source: MountSource::File(source),
        target: target.to_owned(),
    }
}

/// Since 18 the official image keeps its clusters one level higher, a directory for each major.
fn postgres_data(images: &Images) -> &'static str {
    let major: u32 = images.postgres.postgres_major.parse().unwrap_or(0);
    if major >= 18 {
        "/var/lib/postgresql"
    } else {
        "/var/lib/postgresql/data"
    }
}

fn postgres(plan: &TenantPlan, host: &HostFacts, images: &Images) -> ContainerSpec {
    let limits = limits(&plan.size, host, Role::Postgres);
    let mut command = vec!["postgres".to_owned()];
    command.extend(postgres_tuning(&limits));
    ContainerSpec {
        name: plan.name.postgres_container(),
        image: plan.postgres_image.to_string(),
        command,
        env: BTreeMap::from([(
            "POSTGRES_PASSWORD_FILE".to_owned(),
            render::PASSWORD_TARGET.to_owned(),
        )]),
        labels: labels(plan, host, "postgres"),
        mounts: vec![
            Mount {
                source: MountSource::Volume(plan.name.postgres_volume()),
                target: postgres_data(images).to_owned(),
            },
            file_mount(host, plan, render::PASSWORD_FILE, render::PASSWORD_TARGET),
        ],
        network: plan.name.project(),
        aliases: vec!["postgres".to_owned()],
        ports: Vec::new(),
        limits,
        // Parallel queries exchange through it; Docker's 64 MiB is soon full.
        shm_bytes: Some((limits.memory_bytes / 2).max(64 << 20)),
        // Its entrypoint hands the volume over and steps down from root.
        cap_add: ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"]
            .map(str::to_owned)
            .to_vec(),
        init: false,
        stop_grace_s: POSTGRES_GRACE_S,
        restart: true,
    }
}

fn odoo(plan: &TenantPlan, host: &HostFacts, images: &Images) -> ContainerSpec {
    ContainerSpec {
        name: plan.name.odoo_container(),
        image: plan.odoo_image.to_string(),
        command: odoo_command(images, &[]),
        env: BTreeMap::new(),
        labels: labels(plan, host, "odoo"),
        mounts: vec![
            Mount {
                source: MountSource::Volume(plan.name.odoo_volume()),
                target: "/var/lib/odoo".to_owned(),
            },
            file_mount(host, plan, render::ODOO_CONF, "/etc/odoo/odoo.conf"),
            file_mount(
                host,
                plan,
                render::METRICS_TOKEN,
                render::METRICS_TOKEN_TARGET,
            ),
            // The directory and not its files: a newer agent's are there at the next start, and nothing is made anew.
            Mount {
                source: MountSource::File(host.addons_dir.join(ADDON_NAME).display().to_string()),
                target: format!("{}/{}", ADDONS_TARGET, ADDON_NAME),
            },
        ],
        network: plan.name.project(),
        aliases: vec!["odoo".to_owned()],
        ports: vec![
            PublishedPort {
                host_ip: host.advertise,
                host: plan.http_port,
                container: HTTP_PORT,
            },
            PublishedPort {
                host_ip: host.advertise,
                host: plan.websocket_port,
                container: GEVENT_PORT,
            },
        ],
        limits: limits(&plan.size, host, Role::Odoo),
        shm_bytes: None,
        cap_add: Vec::new(),
        init: true, // wkhtmltopdf and friends leave orphans
        // For whoever else stops it, a hand with docker compose above all: no request is cut.
        stop_grace_s: u32::try_from(render::request_seconds(plan) + ODOO_END_S).unwrap_or(u32::MAX),
        restart: true,
    }
}

/// The official entrypoint turns `odoo …` into a command line with the database password in it; any other command it
/// runs as it is. `env odoo` is another command. (A stand-in only knows the plain form.)
fn odoo_command(images: &Images, arguments: &[String]) -> Vec<String> {
    let program: &[&str] = if images.odoo.standin {
        &["odoo"]
    } else {
        &["/usr/bin/env", "odoo"]
    };
    program
        .iter()
        .map(|s| (*s).to_owned())
        .chain(arguments.iter().cloned())
        .collect()
}

fn init(plan: &TenantPlan, host: &HostFacts, images: &Images) -> ContainerSpec {
    let modules = std::iter::once("base")
        .chain(plan.modules.iter().map(|m| m.as_str()))
        .collect::<Vec<_>>()
        .join(",");
    let mut arguments = vec![
        "-d".to_owned(),
        plan.name.database(),
        "-i".to_owned(),
        modules,
    ];
    // `=True` is understood by 18 (any text means none) and 19 (a boolean). Limits off: it is one long request.
    for flag in [
        "--without-demo=True",
        "--stop-after-init",
        "--no-http",
        "--workers=0",
        "--max-cron-threads=0",
        "--limit-memory-soft=0",
        "--limit-memory-hard=0",
        "--limit-time-cpu=0",
        "--limit-time-real=0",
    ] {
        arguments.push(flag.to_owned());
    }
    if plan.language.as_str() != "en_US" {
        arguments.push(format!("--load-language={}", plan.language));
    }
    let mut spec = odoo(plan, host, images);
    spec.name = init_name(&plan.name);
    spec.command = odoo_command(images, &arguments);
    spec.labels = labels(plan, host, "init");
    spec.labels
        .insert("com.docker.compose.oneoff".to_owned(), "True".to_owned());
    spec.labels
        .insert("com.docker.compose.service".to_owned(), "odoo".to_owned());
    spec.aliases.clear();
    spec.ports.clear();
    spec.restart = false;
    spec
}

/// Hash over what a container cannot change while it lives: not limits, not tuning, which follow the size.
fn config_hash(spec: &ContainerSpec, contents: &str) -> String {
    let mut fixed = spec.clone();
    fixed.limits = Limits::default();
    fixed.shm_bytes = None;
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

fn with_hash(mut spec: ContainerSpec, contents: &str) -> ContainerSpec {
    let hash = config_hash(&spec, contents);
    spec.labels
        .insert("com.docker.compose.config-hash".to_owned(), hash.clone());
    spec.labels.insert(LABEL_CONFIG_HASH.to_owned(), hash);
    spec
}

/// Names the snapshot from which this tenant's database may be copied.
pub fn golden_key(plan: &TenantPlan, images: &Images) -> String {
    let modules: Vec<&str> = plan.modules.iter().map(|m| m.as_str()).collect();
    let text = format!(
        "2 {} {} {} {} {}",
        images.odoo.id,
        images.postgres.id,
        images.postgres.postgres_major,
        modules.join(","),
        plan.language
    );
    hex::encode(&Sha256::digest(text)[..12])
}

/// The whole stack. `master_hash` is the hashed master password (slow to make, so made elsewhere and kept).
pub fn stack(plan: &TenantPlan, host: &HostFacts, images: &Images, master_hash: &str) -> Stack {
    let conf = render::odoo_conf(plan, &images.odoo, master_hash);
    let postgres = with_hash(postgres(plan, host, images), "");
    // Mounted files are written anew beside the old: a container sees a change only when it is made anew as well.
    let odoo = with_hash(
        odoo(plan, host, images),
        &(conf.clone() + &sql::metrics_token(plan)),
    );
    let mut stack = Stack {
        network: named(plan, plan.name.project(), "network", "default"),
        subnet: plan.subnet.trunc().to_string(),
        postgres_volume: named(plan, plan.name.postgres_volume(), "volume", "pgdata"),
        odoo_volume: named(plan, plan.name.odoo_volume(), "volume", "odoo_data"),
        postgres,
        odoo,
        init: init(plan, host, images),
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
    use crate::plan::facts::ImageFacts;
    use crate::testing::tenant_plan;
    use proptest::prelude::*;

    fn host() -> HostFacts {
        HostFacts {
            advertise: "192.0.2.7".parse().unwrap(),
            cpus: 4,
            tenants_dir: "/var/lib/isyone/tenants".into(),
            addons_dir: "/var/lib/isyone/addons".into(),
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

    #[test]
    fn no_secret_is_in_a_container_spec() {
        let plan = tenant_plan("alfa");
        let stack = stack(&plan, &host(), &images(), "hash");
        for spec in [&stack.odoo, &stack.postgres, &stack.init] {
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
            let size = Size { memory_bytes: memory, cpu_millis: cpu, disk_bytes: 0, workers };
            let (odoo, postgres) = split_memory(memory);
            prop_assert_eq!(odoo + postgres, memory);
            prop_assert!(postgres >= 6 << 20 && odoo >= postgres);
            let processes = if workers == 0 { 1 } else { workers + CRON_THREADS + 1 };
            prop_assert!(processes * db_maxconn(&size) <= MAX_CONNECTIONS);
            for role in [Role::Odoo, Role::Postgres] {
                prop_assert!(limits(&size, &host(), role).nano_cpus <= 4_000_000_000);
            }
        }
    }
}
