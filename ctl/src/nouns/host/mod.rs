//! `isyctl host`: the fleet's machines.

mod drain;
mod failover;
mod maintenance;
mod orphans;
mod token;

use clap::{Args, Subcommand};
use isyone_proto::pb::v1::{
    ApproveHostRequest, CordonHostRequest, GetHostRequest, Host, HostResources, HostState,
    ListHostsRequest, RemoveHostRequest, UncordonHostRequest,
};

use crate::{
    app::App,
    client::Client,
    clock,
    exit::{Exit, Failure, Outcome},
    options,
    output::{
        format, host as sheet,
        table::{Cell, Table, clean},
        wire::Wire,
    },
};

/// `isyctl host …`.
#[derive(Debug, Subcommand)]
pub enum HostCommand {
    /// Print a single-use token with which one machine joins the fleet; list those there are, take one back
    Token(token::Token),
    /// List hosts
    #[command(alias = "ls")]
    List(List),
    /// Show one host
    #[command(after_help = "Examples:\n  isyctl host show h1\n  isyctl host show h1 -o json")]
    Show(Name),
    /// Let a machine into the fleet that joined by a token for any name
    #[command(after_help = "Examples:\n  isyctl host approve h9")]
    Approve(Name),
    /// Place no new tenants on a host; those there stay
    #[command(after_help = "Examples:\n  isyctl host cordon h1")]
    Cordon(Name),
    /// Let tenants be placed on a host again
    #[command(after_help = "Examples:\n  isyctl host uncordon h1")]
    Uncordon(Name),
    /// Move all tenants of a host elsewhere, and place no new ones on it
    Drain(drain::Drain),
    /// Announce work on a host until a stated time, and move its tenants away or leave them
    Maintenance(maintenance::Maintenance),
    /// Say what would be lost with a lost host, and let its tenants go on where their standbys are
    Failover(failover::Failover),
    /// Copies on a host of tenants that live elsewhere now
    Orphans(orphans::Orphans),
    /// Forget an empty host and refuse its agent from now on
    Remove(Remove),
}

/// Names one host.
#[derive(Debug, Args)]
pub struct Name {
    /// The host's name
    name: String,
}

/// `isyctl host list`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  isyctl host list\n  isyctl host list -o wide\n  isyctl host list -o json | jq '.[] | select(.state != \"ready\")'"
)]
pub struct List {
    /// At most this many
    #[arg(long, value_name = "N", value_parser = options::count)]
    limit: Option<usize>,
}

/// `isyctl host remove`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  isyctl host remove h1\n  isyctl host remove h1 --yes")]
pub struct Remove {
    /// The host's name
    name: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl HostCommand {
    pub async fn run(self, app: &App) -> Outcome {
        match self {
            Self::Token(command) => command.run(app).await,
            Self::List(command) => command.run(app).await,
            Self::Show(Name { name }) => show(app, &name).await,
            Self::Approve(Name { name }) => approve(app, name).await,
            Self::Cordon(Name { name }) => cordon(app, name).await,
            Self::Uncordon(Name { name }) => uncordon(app, name).await,
            Self::Drain(command) => command.run(app).await,
            Self::Maintenance(command) => command.run(app).await,
            Self::Failover(command) => command.run(app).await,
            Self::Orphans(command) => command.run(app).await,
            Self::Remove(command) => command.run(app).await,
        }
    }
}

impl List {
    async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let hosts = client
            .pages(self.limit, |page_size, page_token| {
                let request = ListHostsRequest {
                    page_size,
                    page_token,
                };
                let client = &client;
                async move {
                    let page = client
                        .read("list hosts", request, |c, r| async move {
                            c.hosts().list_hosts(r).await
                        })
                        .await?;
                    Ok((page.hosts, page.next_page_token))
                }
            })
            .await?;
        let names = || hosts.iter().map(|h| h.name.clone()).collect();
        app.ui.emit(&Wire::all(&hosts), names, |wide| {
            list(&hosts, wide, clock::now_ms())
        })?;
        if app.ui.for_people() {
            tell_of_pending(app, &hosts);
        }
        Ok(Exit::Done)
    }
}

/// Most hosts that the hint below a list names.
const MAX_NAMED: usize = 3;

/// What to do about hosts that wait for approval.
fn tell_of_pending(app: &App, hosts: &[Host]) {
    let pending = hosts.iter().filter(|h| h.state() == HostState::Pending);
    let names: Vec<String> = pending.map(|h| clean(&h.name)).collect();
    for name in names.iter().take(MAX_NAMED) {
        app.ui.note(&format!(
            "{name} waits for approval: `isyctl host approve {name}` lets it in, `isyctl host remove {name}` forgets it"
        ));
    }
    if names.len() > MAX_NAMED {
        app.ui
            .note(&format!("and {} more", names.len() - MAX_NAMED));
    }
}

fn list(hosts: &[Host], wide: bool, now_ms: i64) -> String {
    if hosts.is_empty() {
        return String::new();
    }
    let mut header = vec![
        "NAME", "STATE", "TENANTS", "CPU", "MEMORY", "DISK", "RESERVED", "REPORT",
    ];
    if wide {
        header.extend(["ADDRESS", "LABELS", "AGENT", "DOCKER", "MESSAGE"]);
    }
    let mut table = Table::new(header);
    for host in hosts {
        let used = |show: &dyn Fn(&HostResources) -> String| {
            host.resources.as_ref().map_or("-".to_owned(), show)
        };
        let mut row: Vec<Cell> = vec![
            host.name.as_str().into(),
            sheet::state(host),
            host.tenants.to_string().into(),
            used(&|r| format!("{} of {}", format::percent(r.cpu_used_permille), r.cpus)).into(),
            used(&sheet::memory).into(),
            used(&sheet::disk).into(),
            format::bytes(host.reserved_memory_bytes).into(),
            format::age(now_ms, host.report_time.as_ref()).into(),
        ];
        if wide {
            row.extend([
                format::or_dash(&host.advertise_address).into(),
                format::labels(&host.labels).into(),
                format::or_dash(&host.agent_version).into(),
                format::or_dash(&host.docker_version).into(),
                host.message.as_str().into(),
            ]);
        }
        table.row(row);
    }
    table.render()
}

async fn get(client: &Client, name: &str) -> Result<Host, Failure> {
    let request = GetHostRequest {
        name: name.to_owned(),
    };
    client
        .read(&format!("show host `{name}`"), request, |c, r| async move {
            c.hosts().get_host(r).await
        })
        .await
}

async fn show(app: &App, name: &str) -> Outcome {
    let host = get(&app.client()?, name).await?;
    app.ui.emit(
        &Wire::of(&host),
        || vec![host.name.clone()],
        |_| sheet::details(&host, clock::now_ms()),
    )?;
    Ok(Exit::Done)
}

async fn approve(app: &App, name: String) -> Outcome {
    let client = app.client()?;
    let request = ApproveHostRequest { name: name.clone() };
    let host = client
        .read(
            &format!("approve host `{name}`"),
            request,
            |c, r| async move { c.hosts().approve_host(r).await },
        )
        .await?;
    let done = changed(app, &host, "is let in, and may get tenants");
    if app.ui.for_people() && !host.findings.is_empty() {
        app.ui.note(&format!(
            "before it gets tenants, look at what its agent has found:\n{}",
            sheet::findings(&host)
        ));
    }
    done
}

async fn cordon(app: &App, name: String) -> Outcome {
    let client = app.client()?;
    let request = CordonHostRequest { name: name.clone() };
    let host = client
        .read(
            &format!("cordon host `{name}`"),
            request,
            |c, r| async move { c.hosts().cordon_host(r).await },
        )
        .await?;
    changed(app, &host, "gets no new tenants; those there stay")
}

async fn uncordon(app: &App, name: String) -> Outcome {
    let client = app.client()?;
    let request = UncordonHostRequest { name: name.clone() };
    let host = client
        .read(
            &format!("uncordon host `{name}`"),
            request,
            |c, r| async move { c.hosts().uncordon_host(r).await },
        )
        .await?;
    changed(app, &host, "takes new tenants again")
}

fn changed(app: &App, host: &Host, what: &str) -> Outcome {
    if app.ui.for_people() {
        app.ui.note(&format!("host {} {what}", clean(&host.name)));
    } else {
        app.ui.emit(
            &Wire::of(host),
            || vec![host.name.clone()],
            |_| String::new(),
        )?;
    }
    Ok(Exit::Done)
}

impl Remove {
    async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let name = &self.name;
        let question = format!(
            "Forget the host {} and refuse its agent from now on?",
            clean(name)
        );
        let doing = format!("remove host `{}`", clean(name));
        if !self.yes && !app.ui.confirm(&doing, &question)? {
            app.ui.note("nothing was changed");
            return Ok(Exit::Failed);
        }
        let request = client.request(RemoveHostRequest { name: name.clone() });
        client
            .call(&doing, client.hosts().remove_host(request))
            .await?;
        app.ui.note(&format!("host {} is removed", clean(name)));
        Ok(Exit::Done)
    }
}
