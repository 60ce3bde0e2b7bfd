//! Sample plans for tests, here and in the workspace's `tests/`. Not used by the program.

pub mod fake_docker;
pub mod world;

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use isyone_proto::{
    plan::{Callers, DesiredState, Firewall, HostPlan, Secret, Seed, TenantPlan, TenantSecrets},
    report::TenantProgress,
    spec::{Bounds, Size},
};
use uuid::Uuid;

use crate::host::board::TenantStatus;

/// Parses a constant of this file.
fn known<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect("test data is valid")
}

/// A small running tenant; uid, subnet and ports are derived from the name, so that several fit on one host.
pub fn tenant_plan(name: &str) -> TenantPlan {
    let n = name
        .bytes()
        .fold(7u32, |n, b| n.wrapping_mul(31).wrapping_add(u32::from(b)));
    let slot = n % 4096;
    let base = u32::from(Ipv4Addr::new(10, 240, 0, 0));
    TenantPlan {
        name: known(name),
        uid: Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 | u128::from(n)),
        epoch: 1,
        generation: 1,
        desired: DesiredState::Running,
        operation: Some(Uuid::from_u128(
            0x0190_0000_0000_7000_8000_0001_0000_0000 | u128::from(n),
        )),
        odoo_image: known("odoo:19.0"),
        postgres_image: known("postgres:15"),
        size: Size {
            memory_bytes: 1 << 30,
            cpu_millis: 1000,
            disk_bytes: 5 << 30,
            workers: 2,
            bounds: Bounds::default(),
        },
        subnet: Ipv4Net::new_assert((base + slot * 16).into(), 28),
        http_port: 20_000 + 2 * slot as u16,
        websocket_port: 20_001 + 2 * slot as u16,
        base_url: format!("https://{name}.isy.one"),
        language: known("pt_BR"),
        country: known("BR"),
        time_zone: known("America/Sao_Paulo"),
        modules: Vec::new(),
        admin_login: known("admin"),
        secrets: TenantSecrets {
            database_password: Secret::new("DatabasePassword0123456789abcdef"),
            admin_password: Secret::new("AdminPassword0123456789"),
            master_password: Secret::new("MasterPassword0123456789abcdefgh"),
            mail_password: Secret::default(),
        },
        odoo_restarts: 0,
        images_asked: Default::default(),
        postgres_restarts: 0,
        settings_asked: 0,
        quarantine_until: None,
        purge_now: false,
        leftover: false,
        before: None,
        seed: Seed::Fresh,
        upload_limit_bytes: 1 << 30,
        wal_spool: None,
        backup: None,
        signup: false,
        collation: None,
        mail: None,
        odoo: Default::default(),
        follows: false,
        as_it_is: false,
        asks_first: false,
        lease: None,
        callers: Callers::Refused,
    }
}

/// A plan with a firewall around [`tenant_plan`]'s addresses.
pub fn host_plan(generation: u64, tenants: Vec<TenantPlan>) -> HostPlan {
    HostPlan {
        generation: generation.into(),
        tenants,
        firewall: Firewall {
            tenant_range: known("10.240.0.0/14"),
            first_port: 20_000,
            last_port: 29_999,
            edges: vec![known("192.0.2.1/32")],
            edge_ports: vec![80, 443],
            protected_addresses: vec![known("192.0.2.9")],
            protected_names: Vec::new(),
            public_addresses: Vec::new(),
            closed: Vec::new(),
            mail_relays: Vec::new(),
            policies: Vec::new(),
            mtu: None,
        },
        jobs: Vec::new(),
        grants: Vec::new(),
    }
}

/// A status of a tenant whose database is its own, and of which nothing more is known.
pub fn tenant_status(plan: &TenantPlan) -> TenantStatus {
    TenantStatus {
        uid: plan.uid,
        epoch: plan.epoch,
        generation: plan.generation,
        progress: TenantProgress::Converged,
        message: String::new(),
        blocked: false,
        unfit: false,
        containers: Vec::new(),
        operation: plan.operation,
        steps: Vec::new(),
        own_database: true,
        absent: false,
        volumes: Vec::new(),
        volume_repairs: 0,
        modules_cut_off: 0,
        installs_finished: 0,
    }
}

/// Compares `text` with `agent/golden/<name>`; with `ISY_UPDATE_GOLDEN=1` writes it there instead.
#[cfg(test)]
pub(crate) fn check_golden(name: &str, text: &str) {
    // A leading dot would hide the file from git, which ignores `.env.*`.
    let file = name
        .strip_prefix('.')
        .map_or(name.to_owned(), |rest| format!("dot-{rest}"));
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("golden")
        .join(file);
    if std::env::var_os("ISY_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        golden, text,
        "{name} differs; if that is meant, run the test once with ISY_UPDATE_GOLDEN=1"
    );
}
