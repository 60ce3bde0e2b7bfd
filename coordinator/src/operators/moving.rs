//! Moves as operators order them: where to, for how long the tenant may pause, or only where it would go.
//!
//! Not here: what a move means (isyone_fleet::change), its stages (isyone_fleet's procedures).

use isyone_fleet::change::{Command, Outcome, Stamp, Whither};
use isyone_proto::{convert::parse, error::FieldError, pb::v1};
use tonic::{Response, Status};
use uuid::Uuid;

use super::{Api, now, request_id, steady, tenant_name, tenants::unexpected};
use crate::wire::status;

/// Shortest and longest pause that a move may be allowed, milliseconds. Agents never estimate less than 2 s, plus a pass over the files.
const PAUSE_MS: (u32, u32) = (3_000, 600_000);

impl Api {
    pub(super) async fn order_move(
        &self,
        actor: String,
        asked: v1::MoveTenantRequest,
    ) -> Result<Response<v1::Operation>, Status> {
        let command = Command::MoveTenant {
            name: tenant_name(&asked.name)?,
            to: whither(&asked)?,
            max_pause_ms: max_pause(asked.max_pause_ms)?,
            request_id: request_id(asked.request_id)?.filter(|_| !asked.dry_run),
        };
        if !asked.dry_run {
            return self.operation(actor, command).await;
        }
        let stamp = Stamp {
            now: now(),
            steady: steady(),
            id: Uuid::now_v7(),
            actor,
        };
        let rehearsed = self.parts.handle.rehearse(&stamp, command);
        match rehearsed.map_err(status::submit)? {
            Outcome::Operation(operation) => Ok(Response::new(
                self.shown_operation(&self.state(), &operation),
            )),
            other => Err(unexpected(&other)),
        }
    }
}

/// Where a tenant is to move: one of three fields says it.
fn whither(asked: &v1::MoveTenantRequest) -> Result<Whither, FieldError> {
    let twice = |field| FieldError::new(field, "another field says already where it is to go");
    let (to, live) = (asked.to_host.as_str(), asked.to_host_live.as_str());
    match (to, live, asked.away_from_host.as_str()) {
        (to, "", "") => Ok(Whither::Host(parse("to_host", to)?)),
        ("", live, "") => Ok(Whither::Host(parse("to_host_live", live)?)),
        ("", "", from) => Ok(Whither::AwayFrom(parse("away_from_host", from)?)),
        (_, _, "") => Err(twice("to_host_live")),
        _ => Err(twice("away_from_host")),
    }
}

/// How long it may pause: less is what no move can promise, more is what nobody waits for.
fn max_pause(asked: Option<u32>) -> Result<Option<u32>, FieldError> {
    let (least, most) = PAUSE_MS;
    match asked {
        Some(ms) if ms < least || ms > most => {
            let problem = format!("must be {least} to {most}");
            Err(FieldError::new("max_pause_ms", problem))
        }
        asked => Ok(asked),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_field_says_where_a_tenant_goes() {
        let asked = |to_host: &str, to_host_live: &str, away_from_host: &str| {
            whither(&v1::MoveTenantRequest {
                to_host: to_host.into(),
                to_host_live: to_host_live.into(),
                away_from_host: away_from_host.into(),
                ..v1::MoveTenantRequest::default()
            })
        };
        let is_h2 = |there: Result<Whither, FieldError>| matches!(there, Ok(Whither::Host(host)) if host.as_str() == "h2");
        assert!(is_h2(asked("h2", "", "")) && is_h2(asked("", "h2", "")));
        assert!(matches!(asked("", "", "h1"), Ok(Whither::AwayFrom(_))));
        for wrong in [
            ("", "", ""),
            ("h2", "h2", ""),
            ("h2", "", "h1"),
            ("", "h2", "h1"),
        ] {
            assert!(asked(wrong.0, wrong.1, wrong.2).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_pause_that_no_move_can_promise_is_refused() {
        assert!(max_pause(Some(2_999)).is_err() && max_pause(Some(600_001)).is_err());
        assert!(matches!(max_pause(Some(3_000)), Ok(Some(3_000))));
        assert!(matches!(max_pause(None), Ok(None)));
    }
}
