//! Passwords of a tenant's cluster that are derived and stored nowhere, and Odoo's password hashes. Pure.
//!
//! Not here: the roles that have them (mod).

use base64::Engine as _;
use isyone_proto::plan::TenantPlan;
use sha2::{Digest as _, Sha256, Sha512};
use uuid::Uuid;

/// Passwords are random with at least 128 bits, so stretching adds nothing; Odoo re-hashes at the first login anyway.
const ROUNDS: u32 = 25_000;

/// Hashes a password in passlib's format, as Odoo stores it. The salt is derived from tenant and purpose: the same
/// input gives the same text, so a rendered file does not change by itself.
pub fn password_hash(password: &str, uid: Uuid, purpose: &str) -> String {
    let salt = &Sha256::digest(format!("isyone {purpose} {uid}"))[..16];
    let mut key = [0u8; 64];
    pbkdf2::pbkdf2_hmac::<Sha512>(password.as_bytes(), salt, ROUNDS, &mut key);
    let ab64 = |bytes: &[u8]| {
        base64::engine::general_purpose::STANDARD_NO_PAD
            .encode(bytes)
            .replace('+', ".")
    };
    format!("$pbkdf2-sha512${ROUNDS}${}${}", ab64(salt), ab64(&key))
}

/// The cluster's superuser has this password from its creation until [`super::rekey`] removes it: after that, nobody can log
/// in as superuser over the network. Odoo cannot compute it, because it knows only a hash of the master password.
pub fn superuser_password(tenant: &TenantPlan) -> String {
    derived(tenant, "superuser")
}

/// Derives a separate password for one purpose from the secret that neither Odoo nor PostgreSQL knows: nothing more to
/// store, and the same after a lost disk.
fn derived(tenant: &TenantPlan, purpose: &str) -> String {
    let secret = tenant.secrets.master_password.expose();
    hex::encode(Sha256::digest(format!(
        "isyone {purpose} {} {secret}",
        tenant.uid
    )))
}

/// [`super::MONITOR_ROLE`]'s password. It is in no file of the host: PostgreSQL keeps its hash, the agent derives it.
pub fn monitor_password(tenant: &TenantPlan) -> String {
    derived(tenant, "monitor")
}

/// The token that Odoo's module isyone_metrics requires before it answers; in a file that only Odoo and we can read.
pub fn metrics_token(tenant: &TenantPlan) -> String {
    derived(tenant, "metrics")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_as_passlib_makes_them() {
        // Computed with passlib 1.7.4: pbkdf2_sha512.using(rounds=25000, salt=…).hash('secret').
        let hash = password_hash("secret", Uuid::nil(), "test");
        assert_eq!(hash, include_str!("../../../golden/passlib.txt").trim());
        assert_eq!(hash, password_hash("secret", Uuid::nil(), "test"));
        assert_ne!(hash, password_hash("secret", Uuid::nil(), "other"));
    }
}
