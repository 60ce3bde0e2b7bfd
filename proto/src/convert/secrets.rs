//! A tenant's passwords: wire to checked types and back.
//!
//! Not here: opening them (the coordinator).

use super::mail;
use crate::{
    error::FieldError,
    pb::agent::v1 as agent,
    plan::{Secret, TenantSecrets},
};

impl From<&TenantSecrets> for agent::TenantSecrets {
    fn from(secrets: &TenantSecrets) -> Self {
        let text = |secret: &Secret| secret.expose().to_owned();
        Self {
            database_password: text(&secrets.database_password),
            admin_password: text(&secrets.admin_password),
            master_password: text(&secrets.master_password),
            mail_password: text(&secrets.mail_password),
        }
    }
}

impl TryFrom<agent::TenantSecrets> for TenantSecrets {
    type Error = FieldError;
    fn try_from(wire: agent::TenantSecrets) -> Result<Self, FieldError> {
        let checked = |field: &str, text: String| {
            if (16..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric()) {
                Ok(Secret::new(text))
            } else {
                Err(FieldError::new(
                    field,
                    "must be 16 to 128 letters and digits",
                ))
            }
        };
        Ok(Self {
            database_password: checked("secrets.database_password", wire.database_password)?,
            admin_password: checked("secrets.admin_password", wire.admin_password)?,
            master_password: checked("secrets.master_password", wire.master_password)?,
            mail_password: mail::password("secrets.mail_password", wire.mail_password)?,
        })
    }
}
