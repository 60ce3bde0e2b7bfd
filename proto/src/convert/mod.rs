//! The border: wire messages to checked types and back. A wire value that does not fit becomes a [`FieldError`] naming
//! the field; nothing half-parsed gets past this module.
//!
//! Not here: whether a named thing exists; the coordinator and the agent check that.

mod backup;
mod callers;
mod condition;
mod hosts;
mod jobs;
mod leases;
mod mail;
mod network;
mod odoo;
mod report;
mod secrets;
mod size;
mod store;

use std::{collections::BTreeMap, str::FromStr};

use uuid::Uuid;

pub use self::hosts::{HostsPart, MAX_ADDRESSES_PER_PART, host_addresses};
pub use self::report::{LeftOut, MAX_MESSAGE, containers, parse_report, shortened};
pub use self::store::{
    MAX_CHUNK_BYTES, MAX_LIST_PAGE, MAX_OTHER_BYTES, MAX_PACK_BYTES, PutHead, StoreFile,
    StoreFileKind, repository, repository_to_wire, store_file, store_file_to_wire, store_kind,
    store_kind_to_wire,
};
pub use self::{mail::mail, odoo::settings};
use crate::{
    backup::BackupPlan,
    echo::{echo, harmless},
    error::FieldError,
    ids::TenantName,
    pb::{agent::v1 as agent, v1},
    plan::{DesiredState, HostPlan, ImagesAsked, TenantPlan, UnixMs},
    spec::{LabelKey, LabelValue, MAX_LABELS},
};

/// Largest number of tenants in one host's plan: far more than a machine carries, far below a message's limit.
pub const MAX_TENANTS_PER_HOST: usize = 2_000;

/// Parses `text` as a `T`; the error names `field` and repeats the value, so no secret is parsed here.
pub fn parse<T: FromStr>(field: &str, text: &str) -> Result<T, FieldError>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|e: T::Err| {
        // Other people's errors (a uuid's) repeat what they were given as it is.
        let (shown, problem) = (echo(text), harmless(&e.to_string()));
        // Some errors say it themselves, and of nothing there is nothing to repeat.
        if text.is_empty() || problem.contains(&shown) {
            FieldError::new(field, problem)
        } else {
            FieldError::new(field, format!("`{shown}`: {problem}"))
        }
    })
}

/// Like [`parse`], with `None` for an empty text.
pub fn parse_optional<T: FromStr>(field: &str, text: &str) -> Result<Option<T>, FieldError>
where
    T::Err: std::fmt::Display,
{
    if text.is_empty() {
        Ok(None)
    } else {
        parse(field, text).map(Some)
    }
}

/// Parses labels of a host, or labels required of one.
pub fn parse_labels<'a>(
    field: &str,
    labels: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Result<BTreeMap<LabelKey, LabelValue>, FieldError> {
    let mut parsed = BTreeMap::new();
    for (key, value) in labels {
        let at = format!("{field}[{}]", echo(key));
        parsed.insert(parse(&at, key)?, parse(&at, value)?);
        if parsed.len() > MAX_LABELS {
            return Err(FieldError::new(
                field,
                format!("more than {MAX_LABELS} labels"),
            ));
        }
    }
    Ok(parsed)
}

/// Converts a time in milliseconds to its wire form.
pub fn timestamp(ms: UnixMs) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: ms.div_euclid(1000),
        nanos: (ms.rem_euclid(1000) * 1_000_000) as i32,
    }
}

/// Converts a wire time to milliseconds; out-of-range values saturate.
pub fn unix_ms(time: &prost_types::Timestamp) -> UnixMs {
    time.seconds
        .saturating_mul(1000)
        .saturating_add(i64::from(time.nanos) / 1_000_000)
}

fn port(field: &str, value: u32) -> Result<u16, FieldError> {
    match u16::try_from(value) {
        Ok(0) | Err(_) => Err(FieldError::new(
            field,
            format!("{value} is not a port (1..=65535)"),
        )),
        Ok(port) => Ok(port),
    }
}

impl From<DesiredState> for v1::DesiredState {
    fn from(state: DesiredState) -> Self {
        match state {
            DesiredState::Running => Self::Running,
            DesiredState::Suspended => Self::Suspended,
            DesiredState::Quarantined => Self::Quarantined,
            DesiredState::Purged => Self::Purged,
            DesiredState::Standby => Self::Standby,
            DesiredState::Fenced => Self::Fenced,
        }
    }
}

fn desired_state(field: &str, value: i32) -> Result<DesiredState, FieldError> {
    match v1::DesiredState::try_from(value) {
        Ok(v1::DesiredState::Running) => Ok(DesiredState::Running),
        Ok(v1::DesiredState::Suspended) => Ok(DesiredState::Suspended),
        Ok(v1::DesiredState::Quarantined) => Ok(DesiredState::Quarantined),
        Ok(v1::DesiredState::Purged) => Ok(DesiredState::Purged),
        Ok(v1::DesiredState::Standby) => Ok(DesiredState::Standby),
        Ok(v1::DesiredState::Fenced) => Ok(DesiredState::Fenced),
        Ok(v1::DesiredState::Unspecified) | Err(_) => Err(FieldError::new(
            field,
            format!("unknown desired state {value}"),
        )),
    }
}

impl From<&HostPlan> for agent::Plan {
    fn from(plan: &HostPlan) -> Self {
        Self {
            generation: plan.generation.get(),
            tenants: plan.tenants.iter().map(Into::into).collect(),
            firewall: Some((&plan.firewall).into()),
            traces: Default::default(),
            more: false,
            jobs: plan.jobs.iter().map(Into::into).collect(),
            grants: plan.grants.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<agent::Plan> for HostPlan {
    type Error = FieldError;
    fn try_from(wire: agent::Plan) -> Result<Self, FieldError> {
        if wire.tenants.len() > MAX_TENANTS_PER_HOST {
            return Err(FieldError::new(
                "tenants",
                format!("more than {MAX_TENANTS_PER_HOST}"),
            ));
        }
        let firewall = wire
            .firewall
            .ok_or_else(|| FieldError::new("firewall", "must be set"))?;
        let mut tenants = wire
            .tenants
            .into_iter()
            .enumerate()
            .map(|(i, t)| TenantPlan::try_from(t).map_err(|e| e.within(&format!("tenants[{i}]"))))
            .collect::<Result<Vec<_>, _>>()?;
        tenants.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = tenants.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(FieldError::new(
                "tenants",
                format!("`{}` is there twice", pair[0].name),
            ));
        }
        Ok(Self {
            generation: wire.generation.into(),
            tenants,
            firewall: firewall
                .try_into()
                .map_err(|e: FieldError| e.within("firewall"))?,
            jobs: jobs::orders(wire.jobs)?,
            grants: jobs::grants(wire.grants)?,
        })
    }
}

impl From<&TenantPlan> for agent::TenantPlan {
    fn from(t: &TenantPlan) -> Self {
        Self {
            name: t.name.to_string(),
            uid: t.uid.to_string(),
            epoch: t.epoch,
            generation: t.generation,
            desired_state: v1::DesiredState::from(t.desired).into(),
            operation_id: t.operation.map(|id| id.to_string()).unwrap_or_default(),
            odoo_image: t.odoo_image.to_string(),
            postgres_image: t.postgres_image.to_string(),
            size: Some(t.size.into()),
            subnet: t.subnet.to_string(),
            http_port: t.http_port.into(),
            websocket_port: t.websocket_port.into(),
            base_url: t.base_url.clone(),
            language: t.language.to_string(),
            country: t.country.to_string(),
            time_zone: t.time_zone.to_string(),
            modules: t.modules.iter().map(ToString::to_string).collect(),
            admin_login: t.admin_login.to_string(),
            secrets: Some((&t.secrets).into()),
            odoo_restarts: t.odoo_restarts,
            postgres_restarts: t.postgres_restarts,
            settings_asked: t.settings_asked,
            odoo_image_asked_ms: t.images_asked.odoo,
            postgres_image_asked_ms: t.images_asked.postgres,
            quarantine_expire_time: t.quarantine_until.map(timestamp),
            purge_now: t.purge_now,
            leftover: t.leftover,
            before: t.before.map(jobs::before_to_wire),
            activated: !t.seed.may_fill(),
            upload_limit_bytes: t.upload_limit_bytes,
            seed: jobs::seed_to_wire(&t.seed),
            wal_spool: t.wal_spool.map(jobs::spool_to_wire),
            backup: t.backup.as_ref().map(Into::into),
            signup: t.signup,
            collation: t
                .collation
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            mail: t.mail.as_ref().map(Into::into),
            odoo_settings: odoo::texts(&t.odoo),
            follows: t.follows,
            as_it_is: t.as_it_is,
            asks_first: t.asks_first,
            lease: t.lease.as_ref().map(leases::to_wire),
            callers: callers::to_wire(&t.callers),
        }
    }
}

impl TryFrom<agent::TenantPlan> for TenantPlan {
    type Error = FieldError;
    fn try_from(wire: agent::TenantPlan) -> Result<Self, FieldError> {
        let size = wire
            .size
            .ok_or_else(|| FieldError::new("size", "must be set"))?;
        let secrets = wire
            .secrets
            .ok_or_else(|| FieldError::new("secrets", "must be set"))?;
        Ok(Self {
            name: parse::<TenantName>("name", &wire.name)?,
            uid: parse::<Uuid>("uid", &wire.uid)?,
            epoch: wire.epoch,
            generation: wire.generation,
            desired: desired_state("desired_state", wire.desired_state)?,
            operation: parse_optional("operation_id", &wire.operation_id)?,
            odoo_image: parse("odoo_image", &wire.odoo_image)?,
            postgres_image: parse("postgres_image", &wire.postgres_image)?,
            size: size.into(),
            subnet: parse("subnet", &wire.subnet)?,
            http_port: port("http_port", wire.http_port)?,
            websocket_port: port("websocket_port", wire.websocket_port)?,
            base_url: network::base_url("base_url", wire.base_url)?,
            language: parse("language", &wire.language)?,
            country: parse("country", &wire.country)?,
            time_zone: parse("time_zone", &wire.time_zone)?,
            modules: wire
                .modules
                .iter()
                .map(|m| parse("modules", m))
                .collect::<Result<_, _>>()?,
            admin_login: parse("admin_login", &wire.admin_login)?,
            secrets: secrets.try_into()?,
            odoo_restarts: wire.odoo_restarts,
            postgres_restarts: wire.postgres_restarts,
            settings_asked: wire.settings_asked,
            images_asked: ImagesAsked {
                odoo: wire.odoo_image_asked_ms,
                postgres: wire.postgres_image_asked_ms,
            },
            quarantine_until: wire.quarantine_expire_time.as_ref().map(unix_ms),
            purge_now: wire.purge_now,
            leftover: wire.leftover,
            before: wire.before.map(jobs::before).transpose()?,
            seed: jobs::seed(wire.seed, wire.activated)?,
            upload_limit_bytes: wire.upload_limit_bytes,
            wal_spool: wire.wal_spool.map(jobs::spool),
            backup: wire
                .backup
                .map(BackupPlan::try_from)
                .transpose()
                .map_err(|e| e.within("backup"))?,
            signup: wire.signup,
            collation: parse_optional("collation", &wire.collation)?,
            mail: mail::optional("mail", wire.mail)?,
            odoo: odoo::planned(wire.odoo_settings),
            follows: wire.follows,
            as_it_is: wire.as_it_is,
            asks_first: wire.asks_first,
            lease: wire.lease.map(leases::from_wire).transpose()?,
            callers: callers::from_wire(wire.callers)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        mail::{Mail, Via},
        network::{Egress, NetworkPolicy, NetworkRules},
        plan::{
            Callers, Firewall, JobOrder, JobWork, PeerGrant, Secret, Seed, TenantSecrets, WalSpool,
        },
        spec::{Bounds, Size},
    };

    #[test]
    fn an_error_of_others_repeats_no_control_character() {
        let error = parse::<Uuid>("uid", "01900000-0000\u{3}7000").unwrap_err();
        assert!(!error.to_string().contains('\u{3}'), "{error}");
        assert!(error.to_string().contains("\\u{3}"), "{error}");
    }

    fn firewall() -> Firewall {
        Firewall {
            tenant_range: "10.200.0.0/14".parse().unwrap(),
            first_port: 20_000,
            last_port: 29_999,
            edges: vec!["192.0.2.1/32".parse().unwrap()],
            edge_ports: vec![80, 443],
            protected_addresses: vec!["192.0.2.9".parse().unwrap()],
            protected_names: vec!["coordinator.example.com".parse().unwrap()],
            public_addresses: vec!["203.0.113.80".parse().unwrap()],
            closed: vec!["10.0.0.0/8".parse().unwrap()],
            mail_relays: vec!["host:25".parse().unwrap()],
            policies: vec![NetworkPolicy {
                tenants: vec!["alfa".parse().unwrap()],
                rules: NetworkRules {
                    egress: Egress::Listed,
                    allow: vec![
                        "203.0.113.0/24".parse().unwrap(),
                        "api.example.com".parse().unwrap(),
                    ],
                    smtp: true,
                    ..NetworkRules::default()
                },
            }],
            mtu: Some(1400),
        }
    }

    fn size() -> Size {
        Size {
            memory_bytes: 1 << 30,
            cpu_millis: 1000,
            disk_bytes: 1 << 30,
            workers: 2,
            bounds: Bounds {
                pids: 500,
                nofile: 4_096,
                device_read_bps: 100 << 20,
                ..Bounds::default()
            },
        }
    }

    fn secrets() -> TenantSecrets {
        TenantSecrets {
            database_password: Secret::new("a".repeat(32)),
            admin_password: Secret::new("b".repeat(24)),
            master_password: Secret::new("c".repeat(32)),
            mail_password: Secret::new("a b;#%"),
        }
    }

    fn caught() -> Mail {
        Mail {
            per_day: 1_000,
            ..Mail::by(Via::Catcher)
        }
    }

    fn chosen() -> crate::odoo::OdooSettings {
        settings("x", [("log_level".into(), "warn".into())].into()).unwrap()
    }

    fn tenant(name: &str) -> TenantPlan {
        TenantPlan {
            name: name.parse().unwrap(),
            uid: Uuid::from_u128(1),
            epoch: 1,
            generation: 2,
            desired: DesiredState::Running,
            operation: Some(Uuid::from_u128(7)),
            odoo_image: "odoo:18.0".parse().unwrap(),
            postgres_image: "postgres:15".parse().unwrap(),
            size: size(),
            subnet: "10.200.0.0/28".parse().unwrap(),
            http_port: 20_000,
            websocket_port: 20_001,
            base_url: "https://alfa.isy.one".into(),
            language: "pt_BR".parse().unwrap(),
            country: "BR".parse().unwrap(),
            time_zone: "America/Sao_Paulo".parse().unwrap(),
            modules: vec!["crm".parse().unwrap()],
            admin_login: "admin".parse().unwrap(),
            secrets: secrets(),
            odoo_restarts: 0,
            postgres_restarts: 0,
            settings_asked: 3,
            images_asked: ImagesAsked {
                odoo: 2,
                postgres: 1,
            },
            quarantine_until: Some(5),
            purge_now: false,
            leftover: true,
            before: Some(crate::plan::Before::Return(Uuid::from_u128(9))),
            seed: Seed::Peer("h7".parse().unwrap()),
            upload_limit_bytes: 1 << 30,
            wal_spool: Some(WalSpool {
                limit_bytes: 1 << 29,
                switch_s: 60,
            }),
            backup: Some(backup::sample()),
            signup: true,
            collation: Some("de-u-co-phonebk".parse().unwrap()),
            mail: Some(caught()),
            odoo: chosen(),
            follows: true,
            as_it_is: true,
            asks_first: true,
            lease: Some(leases::sample()),
            callers: Callers::Held { most_ms: 7 },
        }
    }

    fn plan() -> HostPlan {
        HostPlan {
            generation: 3.into(),
            tenants: vec![tenant("alfa"), tenant("beta")],
            firewall: firewall(),
            jobs: vec![JobOrder {
                id: Uuid::from_u128(3),
                operation: Uuid::from_u128(7),
                tenant: "alfa".parse().unwrap(),
                uid: Uuid::from_u128(1),
                work: JobWork::Fetch {
                    from: "h7".parse().unwrap(),
                    address: Some("192.0.2.7:7483".parse().unwrap()),
                },
                rate_bytes_per_s: 32 << 20,
            }],
            grants: vec![PeerGrant {
                operation: Uuid::from_u128(7),
                tenant: "beta".parse().unwrap(),
                uid: Uuid::from_u128(1),
                peer: "h8".parse().unwrap(),
                expires_at: 9_000,
                live: true,
            }],
        }
    }

    #[test]
    fn a_plan_survives_the_wire() {
        let wire = agent::Plan::from(&plan());
        let back = HostPlan::try_from(wire).unwrap();
        assert_eq!(back, plan());
        assert_eq!(back.digest(), plan().digest());
    }

    #[test]
    fn a_bad_field_is_named() {
        let mut wire = agent::Plan::from(&plan());
        wire.tenants[1].base_url = "https://x/'; drop".into();
        assert_eq!(
            HostPlan::try_from(wire).unwrap_err().field,
            "tenants[1].base_url"
        );
        let mut wire = agent::Plan::from(&plan());
        wire.tenants[1].name = "alfa".into();
        assert!(
            HostPlan::try_from(wire)
                .unwrap_err()
                .problem
                .contains("twice")
        );
    }
}
