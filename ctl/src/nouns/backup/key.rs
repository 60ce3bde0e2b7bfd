//! `isyctl backup key`: what stock restic needs to read a tenant's repositories.
//!
//! Not here: reading them.

use clap::Args;
use isyone_proto::pb::v1::{GetRepositoryKeyRequest, RepositoryKey};

use crate::{
    app::App,
    exit::{Exit, Outcome},
    output::{
        table::{Table, clean},
        wire::Wire,
    },
};

/// `isyctl backup key`.
#[derive(Debug, Args)]
#[command(after_help = "\
Whoever has it reads all that was ever backed up of the tenant: for the day on which nothing of isyone is at hand. Needs the role \
admin, and is recorded (event backup.key_read).

Examples:
  isyctl backup key alfa
  RESTIC_PASSWORD=$(isyctl backup key alfa -o json | jq -r .password) restic -r /var/lib/isyone/backups/UID snapshots")]
pub struct Key {
    /// Whose: a tenant's name, also of one that was deleted, or its uid
    tenant: String,
}

impl Key {
    pub async fn run(self, app: &App) -> Outcome {
        let doing = format!("show the key of the backups of `{}`", clean(&self.tenant));
        let request = GetRepositoryKeyRequest {
            tenant: self.tenant,
        };
        let key = app
            .client()?
            .read(&doing, request, |c, r| async move {
                c.backups().get_repository_key(r).await
            })
            .await?;
        let sheet = |_| sheet(&key);
        app.ui
            .emit(&Wire::of(&key), || vec![key.tenant.clone()], sheet)?;
        Ok(Exit::Done)
    }
}

fn sheet(key: &RepositoryKey) -> String {
    let places = key.places.iter().map(|place| {
        let (name, path) = (clean(&place.destination), clean(&place.path));
        (format!("Repository at {name}"), path)
    });
    let mut pairs = vec![
        ("Tenant".to_owned(), clean(&key.tenant)),
        ("Uid".to_owned(), clean(&key.tenant_uid)),
        ("RESTIC_PASSWORD".to_owned(), clean(&key.password)),
    ];
    pairs.extend(places);
    Table::pairs(
        pairs
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str().into())),
    )
}
