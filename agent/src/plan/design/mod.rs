//! Turns a tenant's plan into a stack: containers, network and volumes. Pure: the same inputs give the same stack.
//!
//! The stack is created through the Engine API; the files beside it (render) describe the same for people. Not here:
//! what exists already (diff).

mod containers;

pub use self::containers::{cluster_in_volume, default_pgdata, postgres_target};

use std::collections::BTreeMap;

use isyone_proto::plan::{Role, TenantPlan};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::plan::{
    conf,
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
    // As it was chosen, perhaps.
    odoo.env
        .entry(SOCKET_TIMEOUT.to_owned())
        .or_insert(SOCKET_TIMEOUT_S.to_string());
    odoo.labels
        .insert(LABEL_PORTS.to_owned(), PORTS_RELAYED.to_owned());
}

/// Names the snapshot from which this tenant's database may be copied.
pub fn golden_key(plan: &TenantPlan, images: &Images) -> String {
    let modules: Vec<&str> = plan.modules.iter().map(|m| m.as_str()).collect();
    // Modules are set up for their company. Without any, it gets its country with its keys.
    let company = match modules.is_empty() {
        true => String::new(),
        false => format!(" {} {}", plan.country, plan.time_zone),
    };
    // For good: a database sorts as it was made.
    let collation = plan.collation.as_ref();
    let collation = collation.map_or_else(String::new, |order| format!(" order {order}"));
    let text = format!(
        "5 {} {} {} {} {}{company}{collation}", // a new number: clusters are made differently
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
    let conf = conf::odoo_conf(plan, &images.odoo, master_hash);
    let mut postgres = with_hash(containers::postgres(plan, host, images), "");
    // After the hash: a container without it is made anew when PostgreSQL stops for another reason (diff).
    postgres
        .labels
        .insert(LABEL_SETTINGS.to_owned(), SETTINGS_IN_FILES.to_owned());
    // A changed file replaces the mounted one by a rename: a container only sees it when it is started again.
    let fixed = conf::fixed_conf(plan, &images.odoo, master_hash);
    let mut odoo = with_hash(
        containers::odoo(plan, host, images),
        &(fixed + &sql::metrics_token(plan)),
    );
    if host.relays {
        leave_ports(&mut odoo);
    }
    // Neither is that a reason to make them anew (diff: UpdateRestarts).
    for spec in [&mut postgres, &mut odoo] {
        spec.restart = !plan.asks_first;
    }
    let mut stack = Stack {
        network: named(plan, plan.name.project(), "network", "default"),
        subnet: plan.subnet.trunc().to_string(),
        mtu: host.mtu,
        postgres_volume: volume(plan, Role::Postgres),
        odoo_volume: volume(plan, Role::Odoo),
        postgres,
        odoo,
        init: containers::init(plan, host, images),
        install: containers::install(plan, host, images),
        finish: containers::finish(plan, host, images),
        neutralise: containers::neutralise(plan, host, images),
        files: Vec::new(),
        standin: images.odoo.standin || images.postgres.standin,
        golden_key: golden_key(plan, images),
    };
    stack.files = render::files(plan, &stack, images, conf);
    stack
}

#[cfg(test)]
mod tests;
