//! `isyctl host orphans`: copies on a host of tenants that live elsewhere now.
//!
//! Not here: how a copy came to be left behind (moves, fail-overs).

use clap::Args;
use isyone_proto::pb::v1::{DeleteOrphanRequest, ListOrphansRequest, Orphan};

use crate::{
    app::App,
    exit::{Exit, Outcome},
    output::{
        format,
        table::{Table, clean},
        wire::Wire,
    },
};

/// `isyctl host orphans`.
#[derive(Debug, Args)]
#[command(after_help = "\
What a move or a fail-over has left behind: kept aside, fenced, and never started. Each goes by itself when a deleted tenant's volumes \
would. After a fail-over it may hold what was written last and nowhere else: look before that time is over, if it matters.

Examples:
  isyctl host orphans h1
  isyctl host orphans h1 --delete alfa     before its time; asks first")]
pub struct Orphans {
    /// The host's name
    name: String,
    /// Delete the copy of this tenant now
    #[arg(long, value_name = "TENANT")]
    delete: Option<String>,
    /// Do not ask
    #[arg(long, short, requires = "delete")]
    yes: bool,
}

impl Orphans {
    pub async fn run(self, app: &App) -> Outcome {
        if let Some(tenant) = self.delete.clone() {
            return self.delete(app, tenant).await;
        }
        let client = app.client()?;
        let request = ListOrphansRequest {
            host: self.name.clone(),
        };
        let doing = format!("list what is kept aside on host `{}`", clean(&self.name));
        let orphans = client
            .read(&doing, request, |c, r| async move {
                c.hosts().list_orphans(r).await
            })
            .await?
            .orphans;
        let names = || orphans.iter().map(|o| o.tenant.clone()).collect();
        app.ui
            .emit(&Wire::all(&orphans), names, |_| table(&orphans))?;
        Ok(Exit::Done)
    }

    async fn delete(self, app: &App, tenant: String) -> Outcome {
        let (host, name) = (clean(&self.name), clean(&tenant));
        let doing = format!("delete the copy of tenant `{name}` on host `{host}`");
        let question = format!("Delete the copy of {name} on {host} for good?");
        if !self.yes && !app.ui.confirm(&doing, &question)? {
            app.ui.note("nothing was changed");
            return Ok(Exit::Failed);
        }
        let client = app.client()?;
        let request = DeleteOrphanRequest {
            host: self.name,
            tenant,
        };
        client
            .change(&doing, request, |c, r| async move {
                c.hosts().delete_orphan(r).await
            })
            .await?;
        app.ui
            .note(&format!("the copy of {name} on {host} is being deleted"));
        Ok(Exit::Done)
    }
}

fn table(orphans: &[Orphan]) -> String {
    let mut table = Table::new(vec!["TENANT", "LIVES ON", "SINCE", "KEPT UNTIL", "FENCED"]);
    for orphan in orphans {
        table.row(vec![
            clean(&orphan.tenant).into(),
            clean(&orphan.lives_on).into(),
            format::local(orphan.left_time.as_ref()).into(),
            match &orphan.expire_time {
                Some(time) => format::local(Some(time)),
                None => "its tenant is well".to_owned(),
            }
            .into(),
            match orphan.confirmed {
                true => "yes",
                false => "not confirmed yet",
            }
            .into(),
        ]);
    }
    table.render()
}
