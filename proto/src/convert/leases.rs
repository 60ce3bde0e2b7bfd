//! Leases of tenants in plans.
//!
//! Not here: what they mean (isyone-types), and asking for them (the agents' peer service).

use super::{parse, parse_optional};
use crate::{
    error::FieldError,
    pb::agent::v1::{self as agent, tenant_lease},
    plan::Lease,
};

pub(super) fn to_wire(lease: &Lease) -> agent::TenantLease {
    let one = match lease {
        Lease::Needed {
            for_ms,
            renewer,
            address,
        } => tenant_lease::Lease::Needed(agent::NeededLease {
            for_ms: *for_ms,
            renewer: renewer.to_string(),
            address: address.map(|a| a.to_string()).unwrap_or_default(),
        }),
        Lease::Granted { to } => {
            tenant_lease::Lease::Granted(agent::GrantedLease { to: to.to_string() })
        }
        Lease::Over { after_ms } => tenant_lease::Lease::OverAfterMs(*after_ms),
    };
    agent::TenantLease { lease: Some(one) }
}

/// Parses the wire form. One that says nothing is of a version to come, whose tenant must not run as if it needed none.
pub(super) fn from_wire(wire: agent::TenantLease) -> Result<Lease, FieldError> {
    Ok(match wire.lease {
        Some(tenant_lease::Lease::Needed(needed)) => Lease::Needed {
            for_ms: needed.for_ms,
            renewer: parse("lease.renewer", &needed.renewer)?,
            address: parse_optional("lease.address", &needed.address)?,
        },
        Some(tenant_lease::Lease::Granted(granted)) => Lease::Granted {
            to: parse("lease.to", &granted.to)?,
        },
        Some(tenant_lease::Lease::OverAfterMs(after_ms)) => Lease::Over { after_ms },
        None => return Err(FieldError::new("lease", "is of no kind that is known")),
    })
}

#[cfg(test)]
pub(super) fn sample() -> Lease {
    Lease::Needed {
        for_ms: 52_500,
        renewer: "h2".parse().unwrap(),
        address: Some("192.0.2.8:7483".parse().unwrap()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_survives_the_wire_and_what_is_bad_is_named() {
        let to = "h1".parse().unwrap();
        for lease in [
            sample(),
            Lease::Granted { to },
            Lease::Over { after_ms: 60_000 },
        ] {
            assert_eq!(from_wire(to_wire(&lease)).unwrap(), lease);
        }
        let mut wire = to_wire(&sample());
        if let Some(tenant_lease::Lease::Needed(needed)) = &mut wire.lease {
            needed.address = "nowhere".to_owned();
        }
        assert_eq!(from_wire(wire).unwrap_err().field, "lease.address");
        let none = agent::TenantLease { lease: None };
        assert_eq!(from_wire(none).unwrap_err().field, "lease");
    }
}
