//! What a request asks for, as a digest: the same idempotency key with another digest is another request.
//!
//! Not here: where it is compared (operations).

use isyone_types::ids::TenantName;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::Command;

/// How much of a digest is stored: it tells a mistake apart, it keeps nobody out.
const DIGEST_BYTES: usize = 16;

/// The digest of what a command asks for, if it carries an idempotency key. It leaves out what we add ourselves (identity,
/// secrets, what DNS said), and takes a spec after our configuration's defaults.
pub(super) fn digest(command: &Command) -> Option<String> {
    let asked = asked(command)?;
    let digest = Sha256::digest(asked.to_string());
    Some(hex::encode(&digest[..DIGEST_BYTES]))
}

fn asked(command: &Command) -> Option<Value> {
    let word = command.word();
    let of = |name: &TenantName, rest: Value| Some(json!([word, name, rest]));
    match command {
        Command::CreateTenant(c) => of(&c.name, json!([c.spec, c.force])),
        Command::RestartTenant { name, database, .. } => of(name, json!(database)),
        Command::SuspendTenant {
            name,
            cancel_running,
            ..
        } => of(name, json!(cancel_running)),
        Command::ResumeTenant { name, .. } | Command::UndeleteTenant { name, .. } => {
            of(name, Value::Null)
        }
        Command::ResizeTenant { name, plan, .. } => of(name, json!(plan)),
        Command::DeleteTenant {
            name,
            purge,
            cancel_running,
            ..
        } => of(name, json!([purge, cancel_running])),
        Command::MoveTenant { name, to, .. } => of(name, json!(to)),
        Command::AddDomains(add) => of(&add.name, json!([add.domains, add.primary])),
        Command::RemoveDomain { name, domain, .. } => of(name, json!(domain)),
        _ => None,
    }
}
