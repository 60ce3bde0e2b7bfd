//! The containers of a stack: PostgreSQL, Odoo and the one-off `odoo -i`.
//!
//! Not here: network, volumes, files and the hash over a container (the parent).

use std::collections::BTreeMap;

use isyone_proto::{
    plan::{Role, TenantPlan},
    spec::Size,
};

use crate::plan::{
    conf,
    container::{
        ContainerSpec, DeviceLimits, LABEL_ROLE, LABEL_TENANT, LABEL_UID, Limits, Mount,
        MountSource, PublishedPort,
    },
    facts::{HostFacts, ImageFacts, Images},
    home, postgres, render,
    stack::{
        ADDON_NAME, ADDONS_TARGET, EXTRA_ADDONS_TARGET, GEVENT_PORT, HTTP_PORT, MAX_CONNECTIONS,
        POSTGRES_GRACE_S, default_pids, init_name, split_memory,
    },
};

/// Seconds that Odoo may need to stop, beyond its longest request.
const ODOO_END_S: u64 = 10;

pub(super) fn limits(size: &Size, host: &HostFacts, role: Role) -> Limits {
    let (odoo, postgres) = split_memory(size.memory_bytes);
    // CPU is shared, not split: Odoo may use all of it, and PostgreSQL half as much besides. The engine refuses more
    // than the host has.
    let most = u64::from(host.cpus.max(1)) * 1_000_000_000;
    let cpu = u64::from(size.cpu_millis) * 1_000_000;
    let least = 10_000_000; // Docker's minimum
    match role {
        Role::Odoo => Limits {
            memory_bytes: odoo,
            nano_cpus: cpu.clamp(least, most),
            pids: default_pids(size),
        },
        Role::Postgres => Limits {
            memory_bytes: postgres,
            nano_cpus: (cpu / 2).clamp(least, most),
            pids: MAX_CONNECTIONS + 100,
        },
    }
}

fn nofile(size: &Size) -> Option<u32> {
    Some(size.bounds.nofile).filter(|said| *said > 0)
}

/// Each of the two containers has them for itself, as with CPU: which of them reads and writes is the tenant's.
fn device(size: &Size, host: &HostFacts) -> Option<DeviceLimits> {
    let bounds = &size.bounds;
    let limits = DeviceLimits {
        device: host.data_device.clone()?,
        read_bps: bounds.device_read_bps,
        write_bps: bounds.device_write_bps,
        read_iops: bounds.device_read_iops,
        write_iops: bounds.device_write_iops,
    };
    size.limits_device().then_some(limits)
}

/// `shared_buffers` follows the memory when the container is created; a resize does not change it, because that would
/// restart PostgreSQL.
fn postgres_tuning(limits: &Limits) -> Vec<String> {
    let buffers_mib = ((limits.memory_bytes / 4) >> 20).clamp(16, 1024);
    [
        postgres::config_option(),
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

/// Since 18, the official image keeps its clusters one level higher, in one directory per major version.
pub fn postgres_target(image: &ImageFacts) -> &'static str {
    if has_levels(&image.postgres_major) {
        "/var/lib/postgresql"
    } else {
        "/var/lib/postgresql/data"
    }
}

/// Where in its volume an image's PostgreSQL has its cluster; `None`: not in it.
pub fn cluster_in_volume(image: &ImageFacts) -> Option<String> {
    let place = image.pgdata.as_deref()?;
    let within = place.strip_prefix(postgres_target(image))?;
    match within.strip_prefix('/') {
        Some(within) => Some(within.to_owned()),
        None => within.is_empty().then(String::new),
    }
}

fn has_levels(major: &str) -> bool {
    major.parse::<u32>().is_ok_and(|major| major >= 18)
}

/// Where the cluster is that an image's PostgreSQL opens, where the image does not say.
pub fn default_pgdata(major: &str) -> String {
    if has_levels(major) {
        format!("/var/lib/postgresql/{major}/docker")
    } else {
        "/var/lib/postgresql/data".to_owned()
    }
}

/// What came after the first agents: the directory of PostgreSQL's settings, and its spool. The first is a directory, so that a
/// reload sees files that were replaced.
fn postgres_extras(plan: &TenantPlan, host: &HostFacts) -> Vec<Mount> {
    let settings = file_mount(host, plan, postgres::DIRECTORY, postgres::TARGET);
    let spool = host.home.as_ref().map(|home| Mount {
        source: MountSource::Directory(home::spool(home).display().to_string()),
        target: postgres::SPOOL_TARGET.to_owned(),
    });
    std::iter::once(settings).chain(spool).collect()
}

pub(super) fn postgres(plan: &TenantPlan, host: &HostFacts, images: &Images) -> ContainerSpec {
    let limits = limits(&plan.size, host, Role::Postgres);
    let mut command = vec!["postgres".to_owned()];
    command.extend(postgres_tuning(&limits));
    let mut mounts = vec![
        Mount {
            source: MountSource::Volume(plan.name.postgres_volume()),
            target: postgres_target(&images.postgres).to_owned(),
        },
        file_mount(host, plan, render::PASSWORD_FILE, render::PASSWORD_TARGET),
    ];
    mounts.extend(postgres_extras(plan, host));
    ContainerSpec {
        name: plan.name.postgres_container(),
        image: plan.postgres_image.to_string(),
        command,
        user: String::new(),
        env: BTreeMap::from(
            [
                ("POSTGRES_PASSWORD_FILE", render::PASSWORD_TARGET),
                (postgres::INITDB_ARGS_VARIABLE, postgres::INITDB_ARGS),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
        ),
        labels: labels(plan, host, "postgres"),
        mounts,
        network: plan.name.project(),
        aliases: vec!["postgres".to_owned()],
        ports: Vec::new(),
        limits,
        // Parallel queries exchange data through it; Docker's default of 64 MiB fills up quickly.
        shm_bytes: Some((limits.memory_bytes / 2).max(64 << 20)),
        // The entrypoint changes the volume's owner and drops from root.
        cap_add: ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"]
            .map(str::to_owned)
            .to_vec(),
        init: false,
        stop_grace_s: POSTGRES_GRACE_S,
        restart: true,
        nofile: nofile(&plan.size),
        device: device(&plan.size, host),
    }
}

pub(super) fn odoo(plan: &TenantPlan, host: &HostFacts, images: &Images) -> ContainerSpec {
    ContainerSpec {
        name: plan.name.odoo_container(),
        image: plan.odoo_image.to_string(),
        command: odoo_command(images, &[]),
        user: String::new(),
        env: conf::environment(plan),
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
            // Mounts the directory, not its files: a newer agent's files then appear at the next start without a new
            // container.
            Mount {
                source: MountSource::File(host.addons_dir.join(ADDON_NAME).display().to_string()),
                target: format!("{}/{}", ADDONS_TARGET, ADDON_NAME),
            },
            Mount {
                source: MountSource::Image,
                target: EXTRA_ADDONS_TARGET.to_owned(),
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
        // For whoever else stops it, mainly a person with docker compose: no request is cut off.
        stop_grace_s: u32::try_from(conf::request_seconds(plan) + ODOO_END_S).unwrap_or(u32::MAX),
        restart: true,
        nofile: nofile(&plan.size),
        device: device(&plan.size, host),
    }
}

/// The official entrypoint turns `odoo …` into a command line with the database password in it, but runs any other
/// command unchanged. `env odoo` is another command. (A stand-in only knows the plain form.)
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

pub(super) fn init(plan: &TenantPlan, host: &HostFacts, images: &Images) -> ContainerSpec {
    let mut arguments = loading(plan, "base".to_owned());
    arguments.push("--without-demo=True".to_owned());
    if plan.language.as_str() != "en_US" {
        arguments.push(format!("--load-language={}", plan.language));
    }
    one_off(plan, host, images, ("init", &arguments))
}

/// Installs the modules that were asked for, if any, into a database whose company has its country. They bring the languages'
/// texts that the database has.
pub(super) fn install(
    plan: &TenantPlan,
    host: &HostFacts,
    images: &Images,
) -> Option<ContainerSpec> {
    let modules: Vec<&str> = plan.modules.iter().map(|m| m.as_str()).collect();
    if modules.is_empty() {
        return None;
    }
    let mut arguments = loading(plan, modules.join(","));
    arguments.push("--without-demo=True".to_owned());
    Some(one_off(plan, host, images, ("install", &arguments)))
}

/// Loads all modules anew, which does what is left to do of them. With its memory and CPU, beside Odoo's.
pub(super) fn finish(plan: &TenantPlan, host: &HostFacts, images: &Images) -> ContainerSpec {
    let arguments = loading(plan, "base".to_owned());
    one_off(plan, host, images, ("finish", &arguments))
}

/// Runs each installed module's statements that keep a copy from reaching anybody.
pub(super) fn neutralise(plan: &TenantPlan, host: &HostFacts, images: &Images) -> ContainerSpec {
    let arguments = ["neutralize", "-d", &plan.name.database()].map(str::to_owned);
    one_off(plan, host, images, ("neutralise", &arguments))
}

/// Both 18 (any text means none) and 19 (a boolean) understand `=True`. Limits are off: this is one long request.
fn loading(plan: &TenantPlan, modules: String) -> Vec<String> {
    let mut arguments = vec![
        "-d".to_owned(),
        plan.name.database(),
        "-i".to_owned(),
        modules,
    ];
    for flag in [
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
    arguments
}

fn one_off(
    plan: &TenantPlan,
    host: &HostFacts,
    images: &Images,
    (role, arguments): (&str, &[String]),
) -> ContainerSpec {
    let mut spec = odoo(plan, host, images);
    spec.name = init_name(&plan.name);
    spec.command = odoo_command(images, arguments);
    spec.labels = labels(plan, host, role);
    spec.labels
        .insert("com.docker.compose.oneoff".to_owned(), "True".to_owned());
    spec.labels
        .insert("com.docker.compose.service".to_owned(), "odoo".to_owned());
    spec.aliases.clear();
    spec.ports.clear();
    spec.restart = false;
    spec
}
