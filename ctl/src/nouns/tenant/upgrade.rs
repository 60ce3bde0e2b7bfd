//! `isyctl tenant upgrade`: gives a tenant other images of its edition, and says when it had them already.
//!
//! Not here: waiting for the operation (change).

use clap::Args;
use isyone_proto::pb::v1::{Operation, OperationState, UpgradeTenantRequest};

use super::change;
use crate::{app::App, clock, exit::Outcome, options::Waiting};

/// Steps that a host reports when it gets an image, or makes a container of one.
const CHANGES: [&str; 4] = ["image-odoo", "image-postgres", "odoo", "postgres"];

/// `isyctl tenant upgrade`.
#[derive(Debug, Args)]
#[command(after_help = "\
Its host has the images before anything stops; requests are held while Odoo starts again. If an \
image cannot be had or does not fit, or the tenant does not come up with it, everything is taken \
back, and the reason is said. A tenant that was created with images of its own gets its edition's \
when none is named.

Examples:
  isyctl tenant upgrade alfa     what its edition is now; a tag is looked up again
  isyctl tenant upgrade alfa --odoo-image odoo:18.0-20261101
  isyctl tenant upgrade alfa --postgres-image postgres:15.9     PostgreSQL restarts, too")]
pub struct Upgrade {
    /// The tenant's name
    name: String,
    /// Another Odoo of the same edition: a tag or a digest. An image that is no edition's is for admins
    #[arg(long, value_name = "REF")]
    odoo_image: Option<String>,
    /// Another PostgreSQL of the same major version
    #[arg(long, value_name = "REF")]
    postgres_image: Option<String>,
    #[command(flatten)]
    waiting: Waiting,
}

impl Upgrade {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let message = UpgradeTenantRequest {
            name: self.name.clone(),
            odoo_image: self.odoo_image.unwrap_or_default(),
            postgres_image: self.postgres_image.unwrap_or_default(),
            request_id: clock::request_id(),
        };
        let operation = client
            .change(
                &format!("upgrade tenant `{}`", self.name),
                message,
                |c, r| async move { c.tenants().upgrade_tenant(r).await },
            )
            .await?;
        change::settle_as(app, &client, operation, self.waiting, done).await
    }
}

/// What has become of the tenant.
fn done(operation: &Operation) -> String {
    let changed = operation.steps.iter().any(|step| {
        CHANGES.contains(&step.name.as_str()) && step.state() == OperationState::Succeeded
    });
    // A host that knows of this says at least that it looked.
    let looked = operation
        .steps
        .iter()
        .any(|step| step.name.starts_with("image-"));
    match (changed, looked) {
        (true, _) => "upgraded".to_owned(),
        (false, true) => "has these images already: nothing was changed".to_owned(),
        (false, false) => {
            "is to have these images, and its host has not looked for them: upgrade the agent there, \
             which then makes the tenant's containers anew"
                .to_owned()
        }
    }
}
