//! The files that a person expects for a tenant's containers: `docker-compose-<t>.yml`, `.env.<t>`, `odoo.conf`. Pure:
//! sorted, without dates, pinned by golden files.
//!
//! The agent itself works through the Engine API; the compose file is for the day the agent is gone. Not here: writing
//! (tenant::execute).

use std::{collections::BTreeMap, path::PathBuf};

use isyone_proto::{ids::TenantName, plan::TenantPlan};
use serde::Serialize;

use crate::plan::{
    container::{ContainerSpec, DEFAULT_NOFILE, DeviceLimits, MountSource},
    facts::{HostFacts, ImageFacts, Images},
    postgres, sql,
    stack::{
        ADDON_NAME, ADDONS_TARGET, CRON_THREADS, GEVENT_PORT, POSTGRES_PORT, RenderedFile, Stack,
        db_maxconn, process_memory, process_soft_memory,
    },
};

/// Odoo's configuration, in the tenant's directory.
pub const ODOO_CONF: &str = "odoo.conf";
/// Superuser password for PostgreSQL's first start.
pub const PASSWORD_FILE: &str = "postgres_password";
/// Where PostgreSQL's entrypoint finds it.
pub const PASSWORD_TARGET: &str = "/run/secrets/postgres_password";

/// File with the token that a client of Odoo's metrics must present, in the tenant's directory.
pub const METRICS_TOKEN: &str = "metrics_token";
/// Where the module isyone_metrics looks for it.
pub const METRICS_TOKEN_TARGET: &str = "/etc/odoo/isyone_metrics_token";

/// Odoo's own defaults, of an image that our module does not get into.
const LIMIT_MEMORY_BYTES: u64 = 2560 << 20;
const LIMIT_MEMORY_SOFT_BYTES: u64 = 2048 << 20;
/// As agents of before wrote it.
const LIMIT_TIME_CPU_S: u64 = 60;
/// Odoo's own default for how long a request may take.
const LIMIT_TIME_S: u64 = 120;
/// Upload rate of an office's line: 12 Mbit/s. Odoo reads an upload within its request, so a request must be allowed to
/// take as long: 1 GiB in 716 s, just within the 720 s that the edge waits (`readTimeout` in traefik.yml).
const UPLOAD_BYTES_PER_S: u64 = 1_500_000;

/// The tenant's directory on the host.
pub fn directory(host: &HostFacts, tenant: &TenantName) -> PathBuf {
    host.tenants_dir.join(tenant.as_str())
}

/// `docker-compose-<t>.yml`.
pub fn compose_file(tenant: &TenantName) -> String {
    format!("docker-compose-{tenant}.yml")
}

/// `.env.<t>`.
pub fn env_file(tenant: &TenantName) -> String {
    format!(".env.{tenant}")
}

/// All files of a stack.
pub fn files(plan: &TenantPlan, stack: &Stack, images: &Images, conf: String) -> Vec<RenderedFile> {
    let plain = |name: String, content: String| RenderedFile {
        name,
        content,
        owner: None,
    };
    let owned = |name: &str, content: String, owner: (u32, u32)| RenderedFile {
        name: name.to_owned(),
        content,
        owner: Some(owner),
    };
    let odoo = (images.odoo.uid, images.odoo.gid);
    let postgres = postgres::files(plan, &stack.postgres, &images.postgres);
    let files = [
        plain(compose_file(&plan.name), compose(plan, stack)),
        plain(env_file(&plan.name), env(plan)),
        owned(ODOO_CONF, conf, odoo),
        owned(METRICS_TOKEN, sql::metrics_token(plan), odoo),
        owned(
            PASSWORD_FILE,
            sql::superuser_password(plan),
            (images.postgres.uid, images.postgres.gid),
        ),
    ];
    files.into_iter().chain(postgres).collect()
}

/// Escapes a name for a regular expression. Tenant names contain only letters, digits, `-` and `_`; they are escaped
/// all the same, so that a wider alphabet would not open other databases.
fn regex_escape(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            (!c.is_ascii_alphanumeric() && c != '_')
                .then_some('\\')
                .into_iter()
                .chain([c])
        })
        .collect()
}

/// How long a request may take: `limit_time_real`. Follows the limit configured for all tenants, so that a resize
/// restarts nothing.
pub(crate) fn request_seconds(plan: &TenantPlan) -> u64 {
    plan.upload_limit_bytes
        .div_ceil(UPLOAD_BYTES_PER_S)
        .max(LIMIT_TIME_S)
}

type Lines = Vec<(&'static str, String)>;

/// Limits on a process. Without our module, which moves the limit on address space with what is mapped but not used, a
/// threaded server would end at it with a few dozen websockets: Odoo's defaults stay.
fn limits(plan: &TenantPlan, image: &ImageFacts) -> Lines {
    let (size, upload) = (&plan.size, plan.upload_limit_bytes);
    let (hard, soft) = match image.addons_path {
        Some(_) => (
            process_memory(size, upload),
            process_soft_memory(size, upload),
        ),
        None => (LIMIT_MEMORY_BYTES + upload, LIMIT_MEMORY_SOFT_BYTES),
    };
    // The installation of an app is one request, and half done is worse than slow.
    limit_lines(hard, soft, request_seconds(plan))
}

fn limit_lines(hard: u64, soft: u64, cpu_s: u64) -> Lines {
    vec![
        ("limit_memory_hard", hard.to_string()),
        ("limit_memory_soft", soft.to_string()),
        ("limit_time_cpu", cpu_s.to_string()),
    ]
}

/// `odoo.conf`. A container reads it at each start.
pub fn odoo_conf(plan: &TenantPlan, image: &ImageFacts, master_hash: &str) -> String {
    let mut lines = limits(plan, image);
    // `fixed_conf` has it not: no tenant stops for it, and databases of before have no such function.
    lines.push(("unaccent", "True".to_owned()));
    conf(plan, image, master_hash, lines)
}

/// What of `odoo.conf` decides whether a container is made anew. Not the limits on a process, which come with its next start: as
/// they were before, no tenant stops because an agent is upgraded or because memory is changed in flight.
pub fn fixed_conf(plan: &TenantPlan, image: &ImageFacts, master_hash: &str) -> String {
    let hard = LIMIT_MEMORY_BYTES + plan.upload_limit_bytes;
    let before = limit_lines(hard, LIMIT_MEMORY_SOFT_BYTES, LIMIT_TIME_CPU_S);
    conf(plan, image, master_hash, before)
}

/// Without `db_name` Odoo would run the crons of every database it can see.
fn conf(plan: &TenantPlan, image: &ImageFacts, master_hash: &str, limits: Lines) -> String {
    let database = plan.name.database();
    let filter = format!("^{}$", regex_escape(&database));
    let mut lines: Lines = vec![
        ("admin_passwd", master_hash.to_owned()),
        ("data_dir", "/var/lib/odoo".to_owned()),
        ("db_host", plan.name.postgres_container()),
        ("db_maxconn", db_maxconn(&plan.size).to_string()),
        ("db_name", database),
        (
            "db_password",
            plan.secrets.database_password.expose().to_owned(),
        ),
        ("db_port", POSTGRES_PORT.to_string()),
        ("db_user", "odoo".to_owned()),
        ("dbfilter", filter),
        ("gevent_port", GEVENT_PORT.to_string()),
        ("http_interface", "0.0.0.0".to_owned()),
        ("limit_time_real", request_seconds(plan).to_string()),
        ("list_db", "False".to_owned()),
        ("logfile", "False".to_owned()),
        ("max_cron_threads", CRON_THREADS.to_string()),
        ("proxy_mode", "True".to_owned()),
        ("without_demo", "True".to_owned()),
        ("workers", plan.size.workers.to_string()),
    ];
    lines.extend(limits);
    if request_seconds(plan) > LIMIT_TIME_S {
        lines.push(("limit_time_real_cron", LIMIT_TIME_S.to_string()));
    }
    // The image's own path and ours, because our file replaces the image's. An image that sets no path keeps Odoo's
    // default, without metrics: naming a path would drop the one that Odoo finds by itself.
    if let Some(path) = &image.addons_path {
        lines.push(("addons_path", format!("{path},{}", ADDONS_TARGET)));
        lines.push((
            "server_wide_modules",
            format!("{},{}", image.server_wide_modules, ADDON_NAME),
        ));
    }
    lines.sort_unstable();
    let body: String = lines
        .into_iter()
        .map(|(key, value)| format!("{key} = {value}\n"))
        .collect();
    format!("; Written by isy-agent, which writes it again on change.\n[options]\n{body}")
}

/// `.env.<t>`: what an operator needs to log in by hand. No program reads it.
fn env(plan: &TenantPlan) -> String {
    let secrets = &plan.secrets;
    let lines = [
        ("TENANT", plan.name.to_string()),
        ("TENANT_UID", plan.uid.to_string()),
        ("BASE_URL", plan.base_url.clone()),
        ("HTTP_PORT", plan.http_port.to_string()),
        ("WEBSOCKET_PORT", plan.websocket_port.to_string()),
        ("ODOO_IMAGE", plan.odoo_image.to_string()),
        ("POSTGRES_IMAGE", plan.postgres_image.to_string()),
        ("POSTGRES_DB", plan.name.database()),
        ("POSTGRES_USER", "odoo".to_owned()),
        (
            "POSTGRES_PASSWORD",
            secrets.database_password.expose().to_owned(),
        ),
        ("ODOO_ADMIN_LOGIN", plan.admin_login.to_string()),
        (
            "ODOO_ADMIN_INITIAL_PASSWORD",
            secrets.admin_password.expose().to_owned(),
        ),
        (
            "ODOO_MASTER_PASSWORD",
            secrets.master_password.expose().to_owned(),
        ),
    ];
    lines
        .into_iter()
        .map(|(key, value)| format!("{key}={value}\n"))
        .collect()
}

#[derive(Serialize)]
struct Compose<'a> {
    name: String,
    services: BTreeMap<&'static str, Service<'a>>,
    networks: BTreeMap<&'static str, NetworkEntry<'a>>,
    volumes: BTreeMap<&'a str, External<'a>>,
}

#[derive(Serialize)]
struct Service<'a> {
    container_name: &'a str,
    image: &'a str,
    command: &'a [String],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    environment: &'a BTreeMap<String, String>,
    labels: BTreeMap<&'a str, &'a str>,
    volumes: Vec<Volume<'a>>,
    networks: BTreeMap<&'static str, Aliases<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    depends_on: BTreeMap<&'static str, Condition>,
    mem_limit: String,
    memswap_limit: String,
    cpus: String,
    pids_limit: u32,
    ulimits: BTreeMap<&'static str, u32>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    blkio_config: BTreeMap<&'static str, [Throttle<'a>; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shm_size: Option<String>,
    cap_drop: [&'static str; 1],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    cap_add: &'a [String],
    security_opt: [&'static str; 1],
    init: bool,
    restart: &'static str,
    stop_grace_period: String,
    logging: Logging,
}

#[derive(Serialize)]
struct Throttle<'a> {
    path: &'a str,
    rate: u64,
}

#[derive(Serialize)]
struct Volume<'a> {
    r#type: &'static str,
    source: &'a str,
    target: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    read_only: bool,
}

#[derive(Serialize)]
struct Aliases<'a> {
    aliases: &'a [String],
}

#[derive(Serialize)]
struct Condition {
    condition: &'static str,
}

#[derive(Serialize)]
struct Logging {
    driver: &'static str,
    options: BTreeMap<&'static str, &'static str>,
}

#[derive(Serialize)]
struct NetworkEntry<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    driver_opts: BTreeMap<&'static str, String>,
    ipam: Ipam<'a>,
    labels: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Ipam<'a> {
    config: [Subnet<'a>; 1],
}

#[derive(Serialize)]
struct Subnet<'a> {
    subnet: &'a str,
}

#[derive(Serialize)]
struct External<'a> {
    name: &'a str,
    external: bool,
}

fn throttles(limits: &DeviceLimits) -> BTreeMap<&'static str, [Throttle<'_>; 1]> {
    let path = &limits.device;
    [
        ("device_read_bps", limits.read_bps),
        ("device_read_iops", limits.read_iops.into()),
        ("device_write_bps", limits.write_bps),
        ("device_write_iops", limits.write_iops.into()),
    ]
    .into_iter()
    .filter(|(_, rate)| *rate > 0)
    .map(|(key, rate)| (key, [Throttle { path, rate }]))
    .collect()
}

fn service<'a>(spec: &'a ContainerSpec) -> Service<'a> {
    let volumes = spec.mounts.iter().filter_map(|mount| {
        let (kind, source, read_only) = match &mount.source {
            MountSource::Volume(name) => ("volume", name, false),
            MountSource::File(path) => ("bind", path, true),
            MountSource::Directory(path) => ("bind", path, false),
            // The engine makes one by itself for what an image declares as a volume.
            MountSource::Image => return None,
        };
        Some(Volume {
            r#type: kind,
            source,
            target: &mount.target,
            read_only,
        })
    });
    let own = |label: &&String| label.starts_with("one.isy.");
    Service {
        container_name: &spec.name,
        image: &spec.image,
        command: &spec.command,
        environment: &spec.env,
        labels: spec
            .labels
            .iter()
            .filter(|(key, _)| own(key))
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect(),
        volumes: volumes.collect(),
        networks: BTreeMap::from([(
            "default",
            Aliases {
                aliases: &spec.aliases,
            },
        )]),
        ports: spec
            .ports
            .iter()
            .map(|p| format!("{}:{}:{}/tcp", bracketed(p.host_ip), p.host, p.container))
            .collect(),
        depends_on: BTreeMap::new(),
        mem_limit: format!("{}b", spec.limits.memory_bytes),
        memswap_limit: format!("{}b", spec.limits.memory_bytes),
        cpus: format!("{:.2}", spec.limits.nano_cpus as f64 / 1e9),
        pids_limit: spec.limits.pids,
        ulimits: BTreeMap::from([("nofile", spec.nofile.unwrap_or(DEFAULT_NOFILE))]),
        blkio_config: spec.device.as_ref().map(throttles).unwrap_or_default(),
        shm_size: spec.shm_bytes.map(|b| format!("{b}b")),
        cap_drop: ["ALL"],
        cap_add: &spec.cap_add,
        security_opt: ["no-new-privileges:true"],
        init: spec.init,
        restart: "unless-stopped",
        stop_grace_period: format!("{}s", spec.stop_grace_s),
        logging: Logging {
            driver: "json-file",
            options: BTreeMap::from([("max-file", "3"), ("max-size", "10m")]),
        },
    }
}

fn bracketed(address: std::net::IpAddr) -> String {
    if address.is_ipv6() {
        format!("[{address}]")
    } else {
        address.to_string()
    }
}

fn compose(plan: &TenantPlan, stack: &Stack) -> String {
    let mut odoo = service(&stack.odoo);
    odoo.depends_on.insert(
        "postgres",
        Condition {
            condition: "service_started",
        },
    ); // Odoo itself waits for PostgreSQL
    let document = Compose {
        name: plan.name.project(),
        services: BTreeMap::from([("odoo", odoo), ("postgres", service(&stack.postgres))]),
        networks: BTreeMap::from([(
            "default",
            NetworkEntry {
                name: &stack.network.name,
                driver_opts: stack.network_options(),
                ipam: Ipam {
                    config: [Subnet {
                        subnet: &stack.subnet,
                    }],
                },
                labels: &stack.network.labels,
            },
        )]),
        // External: compose neither creates nor removes data.
        volumes: [&stack.postgres_volume.name, &stack.odoo_volume.name]
            .into_iter()
            .map(|name| {
                (
                    name.as_str(),
                    External {
                        name,
                        external: true,
                    },
                )
            })
            .collect(),
    };
    let head = format!(
        "# Written by isy-agent, which writes it again on change. It runs the same containers by itself; without it:\n\
         #   docker compose -f {} up -d\n",
        compose_file(&plan.name)
    );
    // Plain structs with string keys: serialising cannot fail.
    head + &serde_saphyr::to_string(&document).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{plan::design::stack, testing::tenant_plan};

    #[test]
    fn the_files_are_as_the_golden_ones() {
        let mut plan = tenant_plan("my-co");
        plan.modules = vec!["crm".parse().unwrap(), "sale_management".parse().unwrap()];
        let host = HostFacts {
            tenants_dir: "/var/lib/isyone/tenants".into(),
            addons_dir: "/var/lib/isyone/addons".into(),
            home: Some("/var/lib/docker/isyone/tenants/my-co".into()),
            ..crate::testing::world::host()
        };
        let images = Images {
            odoo: ImageFacts {
                id: "sha256:o".into(),
                uid: 100,
                gid: 101,
                addons_path: Some("/mnt/extra-addons".into()),
                server_wide_modules: "base,web".into(),
                ..Default::default()
            },
            postgres: ImageFacts {
                id: "sha256:p".into(),
                uid: 999,
                gid: 999,
                postgres_major: "15".into(),
                pgdata: Some("/var/lib/postgresql/data".into()),
                ..Default::default()
            },
        };
        let stack = stack(&plan, &host, &images, "$pbkdf2-sha512$25000$c2FsdA$aGFzaA");
        for file in &stack.files {
            crate::testing::check_golden(&file.name, &file.content);
        }
        assert_eq!(stack.files[2].owner, Some((100, 101)));
        // A filter matches only its own database.
        assert_eq!(regex_escape("odoo_my-co.x"), "odoo_my\\-co\\.x");
    }
}
