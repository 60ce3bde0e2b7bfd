//! A tenant's copies on other hosts in terms of the public protocol.
//!
//! Not here: what is said of one that is kept up (standby), the tenant itself (shown).

use isyone_fleet::{
    desired::{CopyRole, Tenant, TenantCopy},
    settings::Settings,
    state::State,
};
use isyone_proto::{convert::timestamp, pb::v1, plan::UnixMs};

use super::standby;

pub(super) fn shown(
    state: &State,
    settings: &Settings,
    tenant: &Tenant,
    now: UnixMs,
) -> Vec<v1::TenantCopy> {
    let shown = |copy: &TenantCopy| match &copy.role {
        CopyRole::Standby(standby) => {
            standby::shown((state, settings, now), &copy.place.host, standby)
        }
        _ => self::copy(copy),
    };
    tenant.copies.iter().map(shown).collect()
}

fn copy(copy: &TenantCopy) -> v1::TenantCopy {
    let (role, until) = match copy.role {
        CopyRole::Incoming => (v1::CopyRole::Incoming, None),
        CopyRole::Fenced { until } => (v1::CopyRole::Fenced, until),
        CopyRole::Discarded => (v1::CopyRole::Removing, None),
        CopyRole::Standby(_) => (v1::CopyRole::Standby, None),
    };
    v1::TenantCopy {
        host: copy.place.host.to_string(),
        role: role.into(),
        expire_time: until.map(timestamp),
        ..v1::TenantCopy::default()
    }
}
