//! `isyctl host drain`: cordons a host and orders a move away for each of its tenants. The coordinator queues moves, two at a time for each
//! host, and goes on with them whatever becomes of this program; typed again, the command finds those under way and orders the rest. What
//! cannot be moved is listed with the reason.
//!
//! Not here: where a tenant goes (placement), the stages of a move.

use std::time::Duration;

use clap::Args;
use isyone_proto::pb::v1::{
    CordonHostRequest, ListOperationsRequest, ListTenantsRequest, MoveStandbysRequest,
    MoveTenantRequest, Operation, OperationKind, OperationState, StandbyMove, Tenant,
};

use crate::{
    app::App,
    client::Client,
    clock,
    exit::{Exit, Failure, Outcome},
    options::{Waiting, duration},
    output::{
        format,
        table::{Table, clean},
    },
    wait,
};

/// `isyctl host drain`.
#[derive(Debug, Args)]
#[command(after_help = "\
The host is cordoned first. Then each of its tenants is moved to wherever there is most room. A tenant that runs is \
stopped while its data is copied; with `--max-pause` it runs meanwhile, and pauses for so long at most. Two at a time \
are moved; the others run on until it is their turn. Ctrl-C only stops waiting: what was ordered goes on. A tenant that has \
a standby goes over to it with `--max-pause`, and stays without. Standbys of others that the host keeps up are made anew elsewhere.

What cannot be moved is listed with the reason, and the exit code is 1 then. Make room (or delete it), and type the \
command again: it goes on with the rest.

Examples:
  isyctl host drain h1
  isyctl host drain h1 --max-pause 5s --yes
  isyctl host drain h1 --no-wait               follow it with `isyctl op list`")]
pub struct Drain {
    /// The host's name
    name: String,
    /// Let tenants run while their data is copied, and pause for so long at most (3s to 10m); while the estimate is longer, none is stopped
    #[arg(long, value_name = "TIME", value_parser = duration)]
    max_pause: Option<Duration>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    waiting: Waiting,
}

/// Most pages of operations under way that are read.
const MAX_PAGES: usize = 1_000;

/// What has become of a tenant.
enum Fate {
    /// It is being moved, by this operation.
    Moves(Box<Operation>),
    Blocked(String),
}

impl Drain {
    /// Of a host that somebody names otherwise than on this command's line.
    pub(super) fn of(
        name: String,
        max_pause: Option<Duration>,
        yes: bool,
        waiting: Waiting,
    ) -> Self {
        Self {
            name,
            max_pause,
            yes,
            waiting,
        }
    }

    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let name = clean(&self.name);
        let tenants = self.tenants(&client).await?;
        let question = format!(
            "Move {} away from {name}?",
            format::plural(tenants.len(), "tenant")
        );
        let doing = format!("drain host `{name}`");
        if !self.yes && !tenants.is_empty() && !app.ui.confirm(&doing, &question)? {
            app.ui.note("nothing was changed");
            return Ok(Exit::Failed);
        }
        let request = CordonHostRequest {
            name: self.name.clone(),
        };
        client
            .read(&doing, request, |c, r| async move {
                c.hosts().cordon_host(r).await
            })
            .await?;
        let mut fates = Vec::new();
        for tenant in &tenants {
            fates.push((clean(&tenant.name), self.order(&client, tenant).await));
        }
        for operation in self.arriving(&client).await? {
            let tenant = clean(&operation.tenant);
            if fates.iter().all(|(known, _)| *known != tenant) {
                fates.push((tenant, Fate::Blocked(ARRIVES.to_owned())));
            }
        }
        let standbys = self.standbys(&client).await?;
        if self.waiting.wanted() {
            for (_, fate) in &mut fates {
                await_end(app, &client, fate).await?;
            }
        }
        self.tell(app, &fates, &standbys)
    }

    /// All that are placed there, also deleted ones, which keep the host from being removed.
    async fn tenants(&self, client: &Client) -> Result<Vec<Tenant>, Failure> {
        client
            .pages(None, |page_size, page_token| {
                let request = ListTenantsRequest {
                    page_size,
                    page_token,
                    host: self.name.clone(),
                    show_deleted: true,
                    phase: 0,
                };
                async move {
                    let page = client
                        .read("list tenants", request, |c, r| async move {
                            c.tenants().list_tenants(r).await
                        })
                        .await?;
                    Ok((page.tenants, page.next_page_token))
                }
            })
            .await
    }

    /// Moves that were ordered before and lead here: their tenants are not listed as the host's yet.
    async fn arriving(&self, client: &Client) -> Result<Vec<Operation>, Failure> {
        let (mut all, mut page_token) = (Vec::new(), String::new());
        for _ in 0..MAX_PAGES {
            let request = ListOperationsRequest {
                page_size: 500,
                page_token,
                tenant: String::new(),
                active_only: true,
            };
            let page = client
                .read("list operations", request, |c, r| async move {
                    c.operations().list_operations(r).await
                })
                .await?;
            all.extend(page.operations);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        all.retain(|operation| leads_to(operation, &self.name));
        Ok(all)
    }

    /// Standbys that the host keeps up are made anew elsewhere.
    async fn standbys(&self, client: &Client) -> Result<Vec<StandbyMove>, Failure> {
        let request = MoveStandbysRequest {
            name: self.name.clone(),
        };
        let doing = format!("move standbys away from host `{}`", clean(&self.name));
        let moved = client
            .change(&doing, request, |c, r| async move {
                c.hosts().move_standbys(r).await
            })
            .await?;
        Ok(moved.standbys)
    }

    /// Orders its move, or finds the one under way.
    async fn order(&self, client: &Client, tenant: &Tenant) -> Fate {
        match moving(client, &tenant.name).await {
            Ok(Some(operation)) if leads_to(&operation, &self.name) => {
                return Fate::Blocked(ARRIVES.to_owned());
            }
            Ok(Some(operation)) => return Fate::Moves(Box::new(operation)),
            Ok(None) => {}
            Err(failure) => return Fate::Blocked(failure.message),
        }
        let message = MoveTenantRequest {
            name: tenant.name.clone(),
            request_id: clock::request_id(),
            away_from_host: self.name.clone(),
            max_pause_ms: self.max_pause.map(format::milliseconds),
            ..MoveTenantRequest::default()
        };
        let doing = format!("move tenant `{}`", clean(&tenant.name));
        let ordered = client
            .change(&doing, message, |c, r| async move {
                c.tenants().move_tenant(r).await
            })
            .await;
        match ordered {
            Ok(operation) => Fate::Moves(Box::new(operation)),
            Err(failure) => Fate::Blocked(failure.message),
        }
    }

    fn tell(&self, app: &App, fates: &[(String, Fate)], standbys: &[StandbyMove]) -> Outcome {
        let name = clean(&self.name);
        let mut blocked: Vec<_> = fates
            .iter()
            .filter_map(|(tenant, fate)| match fate {
                Fate::Blocked(why) => Some((tenant.clone(), why.clone())),
                Fate::Moves(_) => None,
            })
            .collect();
        let gone = format::plural(fates.len() - blocked.len(), "tenant");
        let verb = if self.waiting.wanted() {
            "moved"
        } else {
            "to be moved"
        };
        app.ui
            .note(&format!("host {name} is cordoned; {gone} {verb}"));
        for standby in standbys {
            let tenant = clean(&standby.tenant);
            match standby.to_host.as_str() {
                "" => blocked.push((format!("{tenant} (standby)"), clean(&standby.message))),
                host => app.ui.note(&format!(
                    "the standby of {tenant} is made anew on {}: until `isyctl tenant show {tenant}` says that it has all, there is none",
                    clean(host)
                )),
            }
        }
        if blocked.is_empty() {
            return Ok(Exit::Done);
        }
        let mut table = Table::new(vec!["TENANT", "STAYS BECAUSE"]);
        for (tenant, why) in &blocked {
            table.row(vec![tenant.as_str().into(), why.as_str().into()]);
        }
        app.ui.note(table.render().trim_end());
        app.ui.note(&format!(
            "{} left on {name}: type the command again when that has changed",
            format::plural(blocked.len(), "tenant")
        ));
        Ok(Exit::Failed)
    }
}

/// Why a tenant whose move here has not ended stays.
const ARRIVES: &str = "it is just moving here: type the command again when it has";

/// Whether it is a move to this host.
fn leads_to(operation: &Operation, host: &str) -> bool {
    operation.kind() == OperationKind::Move && operation.host == host
}

/// The move of a tenant that is under way.
async fn moving(client: &Client, tenant: &str) -> Result<Option<Operation>, Failure> {
    let request = ListOperationsRequest {
        page_size: 1,
        page_token: String::new(),
        tenant: tenant.to_owned(),
        active_only: true,
    };
    let page = client
        .read("list operations", request, |c, r| async move {
            c.operations().list_operations(r).await
        })
        .await?;
    let mut operations = page.operations.into_iter();
    Ok(operations.find(|operation| operation.kind() == OperationKind::Move))
}

/// Waits until it has moved, or cannot.
async fn await_end(app: &App, client: &Client, fate: &mut Fate) -> Result<(), Failure> {
    let Fate::Moves(operation) = &*fate else {
        return Ok(());
    };
    let last = wait::ended(client, &app.ui, (**operation).clone(), app.wait_limit()).await?;
    if last.state() != OperationState::Succeeded {
        *fate = Fate::Blocked(match last.error.as_str() {
            "" => "its move was cancelled".to_owned(),
            why => clean(why),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_to_the_host_is_none_away_from_it() {
        let to = |kind: OperationKind, host: &str| Operation {
            kind: kind.into(),
            host: host.to_owned(),
            ..Operation::default()
        };
        assert!(leads_to(&to(OperationKind::Move, "h1"), "h1"));
        assert!(!leads_to(&to(OperationKind::Move, "h2"), "h1"));
        assert!(!leads_to(&to(OperationKind::Create, "h1"), "h1"));
    }
}
