//! What a request asks for, as a digest: the same idempotency key with another digest is another request.
//!
//! Not here: where it is compared (operations).

use isyone_types::ids::TenantName;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{Command, Whither};

/// How much of a digest is stored: it tells a mistake apart, it keeps nobody out.
const DIGEST_BYTES: usize = 16;

/// The digest of what a command asks for, if it carries an idempotency key: without one nobody compares it. It leaves out
/// what we add ourselves (identity, secrets, what DNS said), and takes a spec after our configuration's defaults.
pub(super) fn digest(command: &Command) -> Option<String> {
    let asked = asked(command)?;
    let digest = Sha256::digest(asked.to_string());
    Some(hex::encode(&digest[..DIGEST_BYTES]))
}

fn asked(command: &Command) -> Option<Value> {
    let word = command.word();
    let of = |key: &Option<String>, name: &TenantName, rest: &dyn Fn() -> Value| {
        key.as_ref().map(|_| json!([word, name, rest()]))
    };
    match command {
        Command::CreateTenant(c) => of(&c.request_id, &c.name, &|| json!([c.spec, c.force])),
        Command::RestartTenant {
            name,
            database,
            settings,
            request_id,
        } => of(request_id, name, &|| match settings {
            true => json!([database, settings]),
            false => json!(database),
        }),
        Command::SuspendTenant {
            name,
            cancel_running,
            request_id,
        } => of(request_id, name, &|| json!(cancel_running)),
        Command::ResumeTenant { name, request_id }
        | Command::ReturnTenant { name, request_id }
        | Command::UndeleteTenant { name, request_id } => of(request_id, name, &|| Value::Null),
        Command::ResizeTenant {
            name,
            plan,
            request_id,
        } => of(request_id, name, &|| json!(plan)),
        Command::UpgradeTenant {
            name,
            odoo,
            postgres,
            request_id,
        } => of(request_id, name, &|| json!([odoo, postgres])),
        Command::DeleteTenant {
            name,
            purge,
            cancel_running,
            request_id,
        } => of(request_id, name, &|| json!([purge, cancel_running])),
        Command::MoveTenant {
            name,
            to,
            max_pause_ms,
            request_id,
        } => of(request_id, name, &|| moved(to, *max_pause_ms)),
        Command::FailOver {
            name,
            is_down,
            from_backup,
            request_id,
        } => of(request_id, name, &|| json!([is_down, from_backup])),
        Command::SetMail(set) => of(&set.request_id, &set.name, &|| {
            json!([set.mail, set.secrets.is_some()])
        }),
        Command::SetOdoo(set) => of(&set.request_id, &set.name, &|| json!([set.set, set.unset])),
        Command::RestoreTenant(r) => of(&r.request_id, &r.name, &|| {
            let (source, to) = (&r.source, format!("{:?}", r.wanted));
            json!([source, to, r.destination, r.host, r.live, r.as_new])
        }),
        Command::AddDomains(add) => of(&add.request_id, &add.name, &|| {
            json!([add.domains, add.primary])
        }),
        Command::RemoveDomain {
            name,
            domain,
            request_id,
        } => of(request_id, name, &|| json!(domain)),
        _ => None,
    }
}

/// As a version before wrote it, which may be asked again by whoever asked that.
fn moved(to: &Whither, max_pause_ms: Option<u32>) -> Value {
    match (to, max_pause_ms) {
        (Whither::Host(to), None) => json!(to),
        (Whither::Host(to), most) => json!([to, most]),
        (Whither::AwayFrom(from), most) => json!([null, from, most]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_carries_a_key_has_a_digest() {
        let restart = |database, key: Option<&str>| {
            digest(&Command::RestartTenant {
                name: crate::testing::name("alfa"),
                database,
                settings: false,
                request_id: key.map(ToOwned::to_owned),
            })
        };
        assert_eq!(restart(false, None), None);
        assert!(restart(false, Some("r1")).is_some());
        assert_eq!(restart(false, Some("r1")), restart(false, Some("r2")));
        assert_ne!(restart(false, Some("r1")), restart(true, Some("r1")));
        let settings = digest(&Command::RestartTenant {
            name: crate::testing::name("alfa"),
            database: false,
            settings: true,
            request_id: Some("r1".to_owned()),
        });
        assert_ne!(settings, restart(false, Some("r1")));
        assert_eq!(digest(&Command::Tick), None);
    }
}
