//! `isyctl tenant domain`: the host names by which visitors reach a tenant.

use clap::{Args, Subcommand};
use isyone_proto::pb::v1::{
    AddDomainRequest, Domain, DomainState, ListDomainsRequest, RemoveDomainRequest,
};

use super::change;
use crate::{
    app::App,
    clock,
    exit::{Exit, Outcome},
    options::{self, Waiting},
    output::{
        format,
        table::{Cell, Paint, Table, clean},
        tenant::domain_name,
        wire::Wire,
    },
};

/// `isyctl tenant domain …`.
#[derive(Debug, Subcommand)]
pub enum DomainCommand {
    /// Let a domain lead to a tenant, or make one of its domains the primary
    Add(Add),
    /// Take a domain away from a tenant
    #[command(alias = "rm")]
    Remove(Remove),
    /// List a tenant's domains, or everybody's, and where they lead
    #[command(alias = "ls")]
    List(List),
}

/// `isyctl tenant domain add`.
#[derive(Debug, Args)]
#[command(after_help = "\
The domain must lead to the edges already: the coordinator asks DNS, and says what to set when it does not. \
Said again for a domain that is there, it asks again. With --primary and the platform's own name for the tenant, no domain is the \
primary any more.

Examples:
  isyctl tenant domain add alfa erp.customer.com --primary
  isyctl tenant domain add alfa alfa.isy.one --primary               back to the platform's name
  isyctl tenant domain add alfa customer.com --www
  isyctl tenant domain add alfa bücher.example
  isyctl tenant domain add alfa erp.customer.com --skip-dns-check    before the move of its DNS")]
pub struct Add {
    /// The tenant's name
    name: String,
    /// The domain, as people write it
    domain: String,
    /// Send browsers that come by another name here, and let Odoo write links with it
    #[arg(long)]
    primary: bool,
    /// `www.` before it as well (for a domain that begins with it: the one without)
    #[arg(long)]
    www: bool,
    /// Do not ask DNS
    #[arg(long)]
    skip_dns_check: bool,
    #[command(flatten)]
    waiting: Waiting,
}

/// `isyctl tenant domain remove`.
#[derive(Debug, Args)]
#[command(after_help = "\
When it was the primary, the platform's sub-domain is the primary again.

Examples:
  isyctl tenant domain remove alfa erp.customer.com")]
pub struct Remove {
    /// The tenant's name
    name: String,
    /// The domain
    domain: String,
    #[command(flatten)]
    waiting: Waiting,
}

/// `isyctl tenant domain list`.
#[derive(Debug, Args)]
#[command(after_help = "\
States: ok, unknown (DNS was not asked yet, or does not answer), doubtful (it did not lead to the edges when it was last \
looked at), unreachable (several times in a row: nobody is redirected to it).

Examples:
  isyctl tenant domain list alfa
  isyctl tenant domain list
  isyctl tenant domain list -o json")]
pub struct List {
    /// Only this tenant's, with the platform's sub-domain
    name: Option<String>,
    /// At most this many
    #[arg(long, value_name = "N", value_parser = options::count)]
    limit: Option<usize>,
}

impl DomainCommand {
    pub async fn run(self, app: &App) -> Outcome {
        match self {
            Self::Add(command) => command.run(app).await,
            Self::Remove(command) => command.run(app).await,
            Self::List(command) => command.run(app).await,
        }
    }
}

impl Add {
    async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let message = AddDomainRequest {
            name: self.name.clone(),
            domain: self.domain.clone(),
            primary: self.primary,
            with_www: self.www,
            skip_dns_check: self.skip_dns_check,
            request_id: clock::request_id(),
        };
        let doing = format!(
            "add domain `{}` to tenant `{}`",
            clean(&self.domain),
            clean(&self.name)
        );
        let mut answer = client
            .change(&doing, message, |c, r| async move {
                c.domains().add_domain(r).await
            })
            .await?;
        let names = answer
            .domains
            .iter()
            .map(domain_name)
            .collect::<Vec<_>>()
            .join(" and ");
        let leads = if answer.domains.len() == 1 {
            "leads"
        } else {
            "lead"
        };
        app.ui.note(&format!(
            "{} {leads} to tenant {}",
            clean(&names),
            clean(&self.name)
        ));
        if !answer.warning.is_empty() {
            app.ui.note(&format!("warning: {}", clean(&answer.warning)));
        }
        if let Some(operation) = answer.operation.take() {
            let done = "has its new address";
            answer.operation =
                Some(change::outcome(app, &client, operation, self.waiting, done).await?);
        }
        if !app.ui.for_people() {
            let names = || {
                answer
                    .domains
                    .iter()
                    .map(|domain| domain.name.clone())
                    .collect()
            };
            app.ui.emit(&Wire::of(&answer), names, |_| String::new())?;
        }
        Ok(Exit::Done)
    }
}

impl Remove {
    async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let doing = format!(
            "remove domain `{}` from tenant `{}`",
            clean(&self.domain),
            clean(&self.name)
        );
        // No retry: after a lost answer, a second attempt would report the domain as missing.
        let request = client.request(RemoveDomainRequest {
            name: self.name.clone(),
            domain: self.domain.clone(),
            request_id: clock::request_id(),
        });
        let mut answer = client
            .call(&doing, client.domains().remove_domain(request))
            .await?;
        app.ui.note(&format!(
            "{} leads to tenant {} no more",
            clean(&self.domain),
            clean(&self.name)
        ));
        if let Some(operation) = answer.operation.take() {
            let done = "has its platform address";
            answer.operation =
                Some(change::outcome(app, &client, operation, self.waiting, done).await?);
        }
        if !app.ui.for_people() {
            app.ui.emit(
                &Wire::of(&answer),
                || vec![self.domain.clone()],
                |_| String::new(),
            )?;
        }
        Ok(Exit::Done)
    }
}

impl List {
    async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let name = self.name.clone().unwrap_or_default();
        let domains = client
            .pages(self.limit, |page_size, page_token| {
                let request = ListDomainsRequest {
                    name: name.clone(),
                    page_size,
                    page_token,
                };
                let client = &client;
                async move {
                    let page = client
                        .read("list domains", request, |c, r| async move {
                            c.domains().list_domains(r).await
                        })
                        .await?;
                    Ok((page.domains, page.next_page_token))
                }
            })
            .await?;
        let names = || domains.iter().map(|domain| domain.name.clone()).collect();
        app.ui.emit(&Wire::all(&domains), names, |_| {
            table(&domains, self.name.is_none(), clock::now_ms())
        })?;
        Ok(Exit::Done)
    }
}

fn table(domains: &[Domain], everybodys: bool, now_ms: i64) -> String {
    if domains.is_empty() {
        return String::new();
    }
    let mut header = vec!["DOMAIN", "PRIMARY", "STATE", "SINCE", "CHECKED", "FOUND"];
    if everybodys {
        header.insert(1, "TENANT");
    }
    let mut table = Table::new(header);
    for domain in domains {
        let ago = |time: Option<&prost_types::Timestamp>| match time {
            Some(time) => format!("{} ago", format::age(now_ms, Some(time))),
            None => "-".to_owned(),
        };
        let mut row: Vec<Cell> = vec![
            domain_name(domain).into(),
            if domain.primary { "yes" } else { "-" }.into(),
            if domain.platform {
                "platform".into()
            } else {
                Paint::word(state(domain.state))
            },
            ago(domain.since_time.as_ref()).into(),
            ago(domain.check_time.as_ref()).into(),
            format::or_dash(&domain.found).into(),
        ];
        if everybodys {
            row.insert(1, domain.tenant.as_str().into());
        }
        table.row(row);
    }
    table.render()
}

fn state(wire: i32) -> &'static str {
    match DomainState::try_from(wire) {
        Ok(DomainState::Ok) => "ok",
        Ok(DomainState::Doubtful) => "doubtful",
        Ok(DomainState::Unreachable) => "unreachable",
        Ok(DomainState::Unknown | DomainState::Unspecified) | Err(_) => "unknown",
    }
}
