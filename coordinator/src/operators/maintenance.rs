//! Announced work on a host, as operators ask for it.
//!
//! Not here: what it means (isyone_fleet::change), and moving tenants away (moving).

use isyone_fleet::change::Command;
use isyone_proto::{
    convert::{parse, unix_ms},
    error::FieldError,
    pb::v1,
    plan::UnixMs,
};

/// Shortest and longest maintenance, milliseconds: less is over before it is read, and a host that is away for more than a month is
/// none that comes back.
const LENGTH_MS: (i64, i64) = (60_000, 30 * 86_400_000);
/// Longest reason, in characters: it stands in an alert.
const MAX_REASON: usize = 200;

/// What a `BeginMaintenanceRequest` asks for.
pub(super) fn begin(
    asked: v1::BeginMaintenanceRequest,
    now: UnixMs,
) -> Result<Command, FieldError> {
    let host = parse("name", &asked.name)?;
    let reason = asked.reason.trim().to_owned();
    if reason.chars().count() > MAX_REASON || reason.chars().any(char::is_control) {
        let problem = format!("must be one line of at most {MAX_REASON} characters");
        return Err(FieldError::new("reason", problem));
    }
    let until = asked.until.as_ref().map(unix_ms).unwrap_or_default();
    let (least, most) = LENGTH_MS;
    if until < now + least || until > now + most {
        let problem = "must be a time from a minute to 30 days from now";
        return Err(FieldError::new("until", problem));
    }
    Ok(Command::BeginMaintenance {
        host,
        until,
        reason,
        leaves_tenants: asked.leaves_tenants,
    })
}

#[cfg(test)]
mod tests {
    use isyone_proto::convert::timestamp;

    use super::*;

    #[test]
    fn a_time_that_is_past_or_far_is_refused_and_so_is_a_reason_of_many_lines() {
        let asked = |until: i64, reason: &str| {
            let request = v1::BeginMaintenanceRequest {
                name: "h1".into(),
                until: Some(timestamp(until)),
                reason: reason.into(),
                leaves_tenants: false,
            };
            begin(request, 1_000_000).err().map(|e| e.field)
        };
        assert_eq!(asked(1_060_000, "a new disk"), None);
        assert_eq!(asked(1_059_999, ""), Some("until".into()));
        assert_eq!(asked(1_000_001 + 30 * 86_400_000, ""), Some("until".into()));
        assert_eq!(asked(2_000_000, "a\nb"), Some("reason".into()));
        assert_eq!(asked(2_000_000, &"x".repeat(201)), Some("reason".into()));
    }
}
