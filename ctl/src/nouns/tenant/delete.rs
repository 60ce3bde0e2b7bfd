//! `isyctl tenant delete`: says what will happen, asks for confirmation, and says until when it can be undone.

use clap::Args;
use isyone_proto::pb::v1::{DeleteTenantRequest, DesiredState, Tenant};

use super::{change, get};
use crate::{
    app::App,
    clock,
    exit::{Exit, Failure, Outcome},
    options::Waiting,
    output::{
        format,
        table::{Table, clean},
    },
};

/// `isyctl tenant delete`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isyctl tenant delete alfa                    asks first; `tenant undelete alfa` undoes it in time
  isyctl tenant delete alfa --yes              for scripts
  isyctl tenant delete alfa --cancel-running   also while it is being created, resized, …
  isyctl tenant delete alfa --purge            removes a deleted tenant's volumes for good, now")]
pub struct Delete {
    /// The tenant's name
    name: String,
    /// Remove the volumes of an already deleted tenant for good; nothing brings them back
    #[arg(long)]
    purge: bool,
    /// If an operation is under way on the tenant, cancel it for this one instead of being refused
    #[arg(long)]
    cancel_running: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    waiting: Waiting,
}

impl Delete {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let tenant = get(&client, &self.name).await?;
        let deleted = [DesiredState::Quarantined, DesiredState::Purged]
            .iter()
            .any(|s| tenant.desired_state == i32::from(*s));
        if self.purge && !deleted {
            return Err(Failure::failed(format!(
                "cannot purge tenant `{}`: it is not deleted",
                self.name
            ))
            .hint(format!(
                "delete it first: `isyctl tenant delete {}`",
                self.name
            )));
        }
        if !self.yes && !self.confirmed(app, &tenant)? {
            app.ui.note("nothing was changed");
            return Ok(Exit::Failed);
        }
        let message = DeleteTenantRequest {
            name: self.name.clone(),
            request_id: clock::request_id(),
            purge: self.purge,
            cancel_running: self.cancel_running,
        };
        let operation = client
            .change(
                &format!("delete tenant `{}`", self.name),
                message,
                |c, r| async move { c.tenants().delete_tenant(r).await },
            )
            .await?;
        let exit = change::settle(
            app,
            &client,
            operation,
            self.waiting,
            if self.purge { "purged" } else { "deleted" },
        )
        .await?;
        if !self.purge {
            // Only for the message; the deletion stands whatever this call returns.
            if let Ok(Tenant {
                quarantine_expire_time: Some(until),
                ..
            }) = get(&client, &self.name).await
            {
                let (until, name) = (format::local(Some(&until)), clean(&self.name));
                app.ui.note(&format!(
                    "its data is kept until {until}; `isyctl tenant undelete {name}` brings it back"
                ));
            }
        }
        Ok(exit)
    }

    fn confirmed(&self, app: &App, tenant: &Tenant) -> Result<bool, Failure> {
        let name = clean(&self.name);
        let until = tenant.quarantine_expire_time.as_ref();
        let facts = Table::pairs([
            ("Tenant", name.as_str().into()),
            ("URL", tenant.url.as_str().into()),
            ("Host", format::or_dash(&tenant.host).into()),
            ("Phase", format::phase(tenant.phase).into()),
            ("Created", format::local(tenant.create_time.as_ref()).into()),
        ]);
        app.ui.note(facts.trim_end());
        if self.cancel_running {
            app.ui
                .note("An operation that is under way on it is cancelled.");
        }
        if self.purge {
            let kept = match until {
                Some(_) => format!("until {}", format::local(until)),
                None => "until somebody decides".to_owned(),
            };
            app.ui.note(&format!(
                "This removes its database and files for good, now (they would be kept {kept})."
            ));
            return app.ui.confirm_by_typing(
                &format!("purge tenant `{name}`"),
                "There is no way back.",
                &self.name,
            );
        }
        app.ui.note(
            "This stops it and removes its containers and its address. Its volumes go into quarantine:",
        );
        app.ui.note(&match until {
            Some(_) => {
                format!("`isyctl tenant undelete {name}` brings it back until {}.", format::local(until))
            }
            None => format!(
                "`isyctl tenant undelete {name}` brings it back until the quarantine ends; the date follows."
            ),
        });
        app.ui.confirm(
            &format!("delete tenant `{name}`"),
            &format!("Delete {name}?"),
        )
    }
}
