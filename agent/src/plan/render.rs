//! The files that a person expects for a tenant's containers: `docker-compose-<t>.yml`, `.env.<t>`, `odoo.conf`. Pure:
//! sorted, without dates, pinned by golden files.
//!
//! The agent itself works through the Engine API; the compose file is for the day the agent is gone. Not here: odoo.conf's
//! text (conf), writing (tenant::execute).

use std::{collections::BTreeMap, path::PathBuf};

use isyone_proto::{ids::TenantName, plan::TenantPlan};
use serde::Serialize;

use crate::plan::{
    container::{ContainerSpec, DEFAULT_NOFILE, DeviceLimits, MountSource},
    facts::{HostFacts, Images},
    postgres, sql,
    stack::{RenderedFile, Stack},
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
        restart: if spec.restart { "unless-stopped" } else { "no" },
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
    use crate::{
        plan::{design::stack, facts::ImageFacts},
        testing::tenant_plan,
    };

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
    }
}
