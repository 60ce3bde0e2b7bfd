//! `isyctl doctor`: everything that the coordinator knows to be wrong with the fleet, and what can be seen from here, each as a check
//! with what was found, why it matters and the remedy. What hosts find out about themselves is among it.
//!
//! Asks at once and gives up soon: it is to be quick when things are bad. Not here: judging (judge), looks at one tenant
//! (`tenant verify`), a host without the coordinator (`isy-agent doctor`).

mod buckets;
mod judge;

use std::{net::ToSocketAddrs as _, time::Duration};

use clap::Args;
use isyone_proto::{
    finding::{self, Finding, Level, sorted},
    pb::v1::{
        BackupBucket, Certificate, Domain, Host, ListCertificatesRequest, ListDomainsRequest,
        ListEdgesRequest, ListEdgesResponse, ListHostsRequest, ListProtectionsRequest,
        ListTenantsRequest, TenantPhase,
    },
};
use tokio::time::timeout;

use self::judge::{Looked, Seen};
use crate::{
    app::App,
    client::Client,
    clock,
    exit::{Exit, Failure, Outcome},
    nouns::version::{self, VERSION},
    output::table::clean,
};

/// One page of each: whoever has more in trouble begins with these.
const PAGE: u32 = 1_000;
/// For all questions to the coordinator together, which are asked at once.
const PATIENCE: Duration = Duration::from_secs(4);
/// A name below the base domain that no tenant can have: tenants' have 32 characters at most.
const NOBODY: &str = "isyone-doctor-looks-whether-all-names-lead-here";

/// `isyctl doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
The worst comes first. On a host itself `isy-agent doctor` looks without the coordinator, on the coordinator's machine \
`isy-coordinator doctor`. Exit code: 0 nothing bad, 1 something is.

Examples:
  isyctl doctor
  isyctl doctor -o json | jq '.[] | select(.level == \"bad\")'")]
pub struct Doctor {}

impl Doctor {
    pub async fn run(self, app: &App) -> Outcome {
        let found = sorted(look(app).await);
        let bad = found.iter().filter(|f| f.level == Level::Bad).count();
        let troubles = || {
            let wrong = found.iter().filter(|f| f.is_trouble());
            wrong.map(|f| f.check.to_string()).collect()
        };
        app.ui.emit(&found, troubles, |_| {
            let lines = finding::text(&found);
            lines.lines().map(|line| clean(line) + "\n").collect()
        })?;
        Ok(match bad {
            0 => Exit::Done,
            _ => Exit::Failed,
        })
    }
}

async fn look(app: &App) -> Vec<Finding> {
    let client = match app.client() {
        Ok(client) => client,
        Err(failure) => return vec![judge::no_context(&failure.to_string())],
    };
    let seen = match timeout(PATIENCE, ask(&client)).await {
        Ok(Ok(seen)) => seen,
        Ok(Err(failure)) => return vec![judge::no_coordinator(&failure.to_string())],
        Err(_) => {
            let why = format!("no answer within {} s", PATIENCE.as_secs());
            return vec![judge::no_coordinator(&why)];
        }
    };
    let names = looked_up(&seen.info.base_domain).await;
    judge::all(&seen, &names, VERSION, clock::now_ms())
}

/// All lists, asked for at once.
async fn ask(client: &Client) -> Result<Seen, Failure> {
    let tenants = |phase: TenantPhase| {
        let request = ListTenantsRequest {
            page_size: PAGE,
            show_deleted: true,
            phase: phase.into(),
            ..ListTenantsRequest::default()
        };
        client.read("list tenants", request, |c, r| async move {
            c.tenants().list_tenants(r).await
        })
    };
    let (info, hosts, edges, (certificates, domains), failing, unknown, buckets) = tokio::try_join!(
        version::get(client),
        hosts(client),
        edges(client),
        names(client),
        tenants(TenantPhase::Failing),
        tenants(TenantPhase::Unknown),
        buckets_seen(client)
    )?;
    Ok(Seen {
        info,
        hosts,
        edges,
        certificates,
        domains,
        failing: failing.tenants,
        unknown: unknown.tenants,
        buckets,
    })
}

/// They come with any page of what tenants would lose.
async fn buckets_seen(client: &Client) -> Result<Vec<BackupBucket>, Failure> {
    let request = ListProtectionsRequest {
        page_size: 1,
        ..ListProtectionsRequest::default()
    };
    let page = client.read("list buckets", request, |c, r| async move {
        c.backups().list_protections(r).await
    });
    Ok(page.await?.buckets)
}

async fn hosts(client: &Client) -> Result<Vec<Host>, Failure> {
    let request = ListHostsRequest {
        page_size: PAGE,
        ..ListHostsRequest::default()
    };
    let page = client.read("list hosts", request, |c, r| async move {
        c.hosts().list_hosts(r).await
    });
    Ok(page.await?.hosts)
}

async fn edges(client: &Client) -> Result<ListEdgesResponse, Failure> {
    let request = ListEdgesRequest {
        page_size: PAGE,
        ..ListEdgesRequest::default()
    };
    client
        .read("list edges", request, |c, r| async move {
            c.edges().list_edges(r).await
        })
        .await
}

/// Certificates, and customers' domains.
async fn names(client: &Client) -> Result<(Vec<Certificate>, Vec<Domain>), Failure> {
    let request = ListCertificatesRequest {
        page_size: PAGE,
        ..ListCertificatesRequest::default()
    };
    let certificates = client.read("list certificates", request, |c, r| async move {
        c.certificates().list_certificates(r).await
    });
    let request = ListDomainsRequest {
        page_size: PAGE,
        ..ListDomainsRequest::default()
    };
    let domains = client.read("list domains", request, |c, r| async move {
        c.domains().list_domains(r).await
    });
    let (certificates, domains) = tokio::try_join!(certificates, domains)?;
    Ok((certificates.certificates, domains.domains))
}

/// Where names below the base domain lead, as this machine sees it.
async fn looked_up(base_domain: &str) -> Looked {
    let name = format!("{NOBODY}.{base_domain}");
    let asked = (name.clone(), 0);
    let found = tokio::task::spawn_blocking(move || asked.to_socket_addrs());
    match timeout(PATIENCE, found).await {
        Ok(Ok(Ok(addresses))) => Looked::Leads(addresses.map(|a| a.ip().to_string()).collect()),
        Ok(Ok(Err(_))) => Looked::Nowhere(name),
        Ok(Err(_)) | Err(_) => Looked::Silent(name),
    }
}
