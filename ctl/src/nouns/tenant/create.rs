//! `isyctl tenant create`: sends the request, explains the placement, watches the steps, and ends with URL, login and
//! password.

use clap::Args;
use isyone_proto::pb::v1::{
    CreateTenantRequest, CreateTenantResponse, Credentials, GetCredentialsRequest, Operation,
    TenantSpec,
};
use serde::Serialize;

use crate::{
    app::App,
    client::Client,
    clock,
    exit::{Exit, Failure, Outcome},
    options::{self, Waiting},
    output::{
        placement,
        table::{Cell, Table, clean},
        wire::Wire,
    },
    status, wait,
};

/// `isyctl tenant create`.
#[derive(Debug, Args)]
#[command(after_help = "\
Repeating the command with the same options is safe: it answers with the tenant that is there.
Ctrl-C stops waiting, not the work.

Examples:
  isyctl tenant create alfa
  isyctl tenant create alfa --plan large --domain erp.example.com --lang pt_BR --country BR --tz America/Sao_Paulo
  isyctl tenant create alfa --modules crm,sale_management --label zone=eu
  isyctl tenant create alfa --dry-run              where would it go, and why?
  isyctl tenant create alfa -o json | jq -r .credentials.password")]
pub struct Create {
    /// Name: a DNS label, part of its address
    name: String,
    /// Size by name (`isyctl version -o yaml` lists the coordinator's)
    #[arg(long)]
    plan: Option<String>,
    /// Domain besides the platform's own; may be repeated
    #[arg(long = "domain", value_name = "DOMAIN", value_delimiter = ',')]
    domains: Vec<String>,
    /// Odoo language, e.g. pt_BR; one of those that Odoo has
    #[arg(long, value_name = "LANGUAGE")]
    lang: Option<String>,
    /// The company's country by ISO 3166, e.g. BR: chooses currency, chart of accounts and the like
    #[arg(long)]
    country: Option<String>,
    /// Time zone, e.g. America/Sao_Paulo
    #[arg(long, value_name = "ZONE")]
    tz: Option<String>,
    /// How its database sorts, for good: c, by bytes (Zeca before Álvaro), or a language's order, e.g. pt-BR
    #[arg(long)]
    collation: Option<String>,
    /// Odoo modules to install, e.g. crm,sale_management; the create fails for one that the image does not have
    #[arg(long, value_delimiter = ',')]
    modules: Vec<String>,
    /// Pair of images by name (`isyctl version -o yaml` lists them)
    #[arg(long)]
    edition: Option<String>,
    /// Odoo image in place of the edition's
    #[arg(long, value_name = "IMAGE")]
    odoo_image: Option<String>,
    /// PostgreSQL image in place of the edition's
    #[arg(long, value_name = "IMAGE")]
    postgres_image: Option<String>,
    /// Only this host
    #[arg(long)]
    host: Option<String>,
    /// Only hosts with this label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = options::label)]
    labels: Vec<(String, String)>,
    /// Login of Odoo's administrator
    #[arg(long)]
    login: Option<String>,
    /// Let visitors make accounts for themselves; otherwise people are invited
    #[arg(long)]
    signup: bool,
    #[command(flatten)]
    waiting: Waiting,
    /// Give an existing tenant these options; its data is kept
    #[arg(long, conflicts_with = "dry_run")]
    force: bool,
    /// Decide and explain, change nothing
    #[arg(long)]
    dry_run: bool,
}

/// The output for programs.
#[derive(Serialize)]
struct Created {
    tenant: Option<Wire>,
    operation: Option<Wire>,
    placement: Option<Wire>,
    existed: bool,
    credentials: Option<Wire>,
}

impl Create {
    fn request(&self, request_id: String) -> Result<CreateTenantRequest, Failure> {
        let host_labels = options::labels(&self.labels)?;
        let text = |option: &Option<String>| option.clone().unwrap_or_default();
        let spec = TenantSpec {
            plan: text(&self.plan),
            domains: self.domains.clone(),
            language: text(&self.lang),
            country: text(&self.country),
            time_zone: text(&self.tz),
            modules: self.modules.clone(),
            edition: text(&self.edition),
            odoo_image: text(&self.odoo_image),
            postgres_image: text(&self.postgres_image),
            host: text(&self.host),
            host_labels,
            admin_login: text(&self.login),
            signup: self.signup,
            collation: text(&self.collation),
        };
        Ok(CreateTenantRequest {
            name: self.name.clone(),
            spec: Some(spec),
            request_id,
            force: self.force,
            dry_run: self.dry_run,
        })
    }

    pub async fn run(self, app: &App) -> Outcome {
        let message = self.request(clock::request_id())?;
        let client = app.client()?;
        let doing = format!("create tenant `{}`", self.name);
        let mut answer: CreateTenantResponse = client
            .change(&doing, message, |c, r| async move {
                c.tenants().create_tenant(r).await
            })
            .await?;
        if self.dry_run {
            return dry_run(app, &doing, &answer);
        }
        self.tell(app, &answer);
        let mut credentials = None;
        if self.waiting.wanted() {
            // A tenant that existed already may have no operation any more.
            if let Some(operation) = answer.operation.take() {
                answer.operation =
                    Some(wait::finished(&client, &app.ui, operation, app.wait_limit()).await?);
            }
            let found = get_credentials(&client, &self.name).await?;
            // Its present state; if that cannot be read, the answer to the create will do.
            if let Ok(now) = super::get(&client, &self.name).await {
                answer.tenant = Some(now);
            }
            credentials = Some(found);
        }
        self.finish(app, &answer, credentials.as_ref())
    }

    /// Reports the decision before the waiting begins.
    fn tell(&self, app: &App, answer: &CreateTenantResponse) {
        let name = clean(&self.name);
        if answer.existed {
            app.ui
                .note(&format!("tenant {name} is there already, as asked"));
        }
        if let Some(placement) = answer.placement.as_ref().filter(|p| !p.host.is_empty()) {
            app.ui.note(&format!(
                "tenant {name} is placed on {}",
                clean(&placement::chosen(&placement.host, &placement.reason))
            ));
        }
    }

    fn finish(
        &self,
        app: &App,
        answer: &CreateTenantResponse,
        credentials: Option<&Credentials>,
    ) -> Outcome {
        let value = Created {
            tenant: answer.tenant.as_ref().map(Wire::of),
            operation: answer.operation.as_ref().map(Wire::of),
            placement: answer.placement.as_ref().map(Wire::of),
            existed: answer.existed,
            credentials: credentials.map(Wire::of),
        };
        let text = |_| match (credentials, &answer.operation) {
            (Some(found), _) => Table::pairs(login(found)),
            (None, Some(operation)) => Table::pairs(pending(&self.name, operation)),
            (None, None) => Table::pairs([("Tenant", self.name.as_str().into())]),
        };
        app.ui.emit(&value, || vec![self.name.clone()], text)?;
        if let (None, Some(operation)) = (credentials, &answer.operation) {
            app.ui.note(&format!(
                "follow it with `isyctl op watch {}`",
                clean(&operation.id)
            ));
        }
        Ok(Exit::Done)
    }
}

fn pending<'a>(name: &str, operation: &Operation) -> [(&'a str, Cell); 2] {
    [
        ("Tenant", name.into()),
        ("Operation", operation.id.as_str().into()),
    ]
}

fn dry_run(app: &App, doing: &str, answer: &CreateTenantResponse) -> Outcome {
    let missing = || Failure::failed(format!("cannot {doing}: the coordinator gave no placement"));
    let found = answer.placement.as_ref().ok_or_else(missing)?;
    if found.host.is_empty() {
        let failure = Failure::failed(format!("cannot {doing}: {}", clean(&found.reason)));
        return Err(status::no_host_fits_with(failure, Some(found)));
    }
    app.ui.emit(
        &Wire::of(found),
        || vec![found.host.clone()],
        |wide| placement::explained(found, wide),
    )?;
    Ok(Exit::Done)
}

/// A tenant's secrets. The coordinator audits each read.
pub async fn get_credentials(client: &Client, name: &str) -> Result<Credentials, Failure> {
    let request = GetCredentialsRequest {
        name: name.to_owned(),
    };
    client
        .read(
            &format!("read the credentials of tenant `{name}`"),
            request,
            |c, r| async move { c.tenants().get_credentials(r).await },
        )
        .await
}

/// What a person needs to log in.
pub fn login(credentials: &Credentials) -> [(&'static str, Cell); 3] {
    [
        ("URL", credentials.url.as_str().into()),
        ("Login", credentials.login.as_str().into()),
        ("Password", credentials.password.as_str().into()),
    ]
}
