//! What becomes of requests that come to a copy whose Odoo does not run.
//!
//! Not here: who decides that (isyone-fleet), and who holds or passes them on (the agent's relay).

use super::{parse, port};
use crate::{
    error::FieldError,
    pb::agent::v1::{self as agent, tenant_plan},
    plan::Callers,
};

/// `None` where they are refused.
pub(super) fn to_wire(callers: &Callers) -> Option<tenant_plan::Callers> {
    match callers {
        Callers::Refused => None,
        Callers::Held { most_ms } => Some(tenant_plan::Callers::HoldMs(*most_ms)),
        Callers::PassedOn {
            address,
            http_port,
            websocket_port,
        } => Some(tenant_plan::Callers::PassOn(agent::Callers {
            address: address.to_string(),
            http_port: u32::from(*http_port),
            websocket_port: websocket_port.map_or(0, u32::from),
        })),
    }
}

/// Parses the wire form.
pub(super) fn from_wire(wire: Option<tenant_plan::Callers>) -> Result<Callers, FieldError> {
    Ok(match wire {
        None => Callers::Refused,
        Some(tenant_plan::Callers::HoldMs(most_ms)) => Callers::Held { most_ms },
        Some(tenant_plan::Callers::PassOn(to)) => Callers::PassedOn {
            address: parse("pass_on.address", &to.address)?,
            http_port: port("pass_on.http_port", to.http_port)?,
            websocket_port: match to.websocket_port {
                0 => None,
                number => Some(port("pass_on.websocket_port", number)?),
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_survives_the_wire_and_a_bad_port_is_named() {
        let passed_on = |websocket_port| Callers::PassedOn {
            address: "192.0.2.8".parse().unwrap(),
            http_port: 20_000,
            websocket_port,
        };
        for callers in [
            Callers::Refused,
            Callers::Held { most_ms: 5_001 },
            passed_on(None),
            passed_on(Some(20_001)),
        ] {
            assert_eq!(from_wire(to_wire(&callers)).unwrap(), callers);
        }
        let mut wire = to_wire(&passed_on(None));
        if let Some(tenant_plan::Callers::PassOn(to)) = &mut wire {
            to.http_port = 70_000;
        }
        assert_eq!(from_wire(wire).unwrap_err().field, "pass_on.http_port");
    }
}
