//! `isyctl tenant list`, `show`, `explain`, `credentials`: the read-only commands.

use clap::{Args, builder::PossibleValuesParser};
use isyone_proto::pb::v1::{ExplainTenantRequest, ListTenantsRequest, Tenant, TenantPhase};

use super::create;
use crate::{
    app::App,
    clock,
    exit::{Exit, Outcome},
    options,
    output::{
        format, placement,
        table::{Cell, Paint, Table},
        tenant as sheet,
        wire::Wire,
    },
};

const PHASES: [&str; 9] = [
    "pending",
    "creating",
    "running",
    "failing",
    "suspended",
    "deleting",
    "quarantined",
    "unknown",
    "updating",
];

/// `isyctl tenant list`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isyctl tenant list
  isyctl tenant list --host h2 -o wide
  isyctl tenant list --phase failing
  isyctl tenant list -o name | xargs -n1 isyctl tenant verify")]
pub struct List {
    /// Only tenants on this host
    #[arg(long)]
    host: Option<String>,
    /// Only tenants in this phase
    #[arg(long, value_parser = PossibleValuesParser::new(PHASES))]
    phase: Option<String>,
    /// Also deleted tenants, while their volumes are kept
    #[arg(long)]
    deleted: bool,
    /// At most this many
    #[arg(long, value_name = "N", value_parser = options::count)]
    limit: Option<usize>,
}

impl List {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let phase = self.phase.and_then(|word| {
            TenantPhase::from_str_name(&format!("TENANT_PHASE_{}", word.to_uppercase()))
        });
        let tenants = client
            .pages(self.limit, |page_size, page_token| {
                let request = ListTenantsRequest {
                    page_size,
                    page_token,
                    host: self.host.clone().unwrap_or_default(),
                    show_deleted: self.deleted,
                    phase: phase.unwrap_or_default().into(),
                };
                let client = &client;
                async move {
                    let page = client
                        .read("list tenants", request, |c, r| async move {
                            c.tenants().list_tenants(r).await
                        })
                        .await?;
                    Ok((page.tenants, page.next_page_token))
                }
            })
            .await?;
        let names = || tenants.iter().map(|t| t.name.clone()).collect();
        app.ui.emit(&Wire::all(&tenants), names, |wide| {
            list(&tenants, wide, clock::now_ms())
        })?;
        Ok(Exit::Done)
    }
}

fn list(tenants: &[Tenant], wide: bool, now_ms: i64) -> String {
    if tenants.is_empty() {
        return String::new();
    }
    let mut header = vec!["NAME", "PHASE", "HOST", "PLAN", "URL", "AGE"];
    if wide {
        header.extend(["CPU", "MEMORY", "DISK", "VERIFIED", "ODOO IMAGE", "MESSAGE"]);
    }
    let mut table = Table::new(header);
    for tenant in tenants {
        let spec = tenant.spec.clone().unwrap_or_default();
        let mut row: Vec<Cell> = vec![
            tenant.name.as_str().into(),
            Paint::word(&format::tenant_phase(tenant)),
            format::or_dash(&tenant.host).into(),
            format::or_dash(&spec.plan).into(),
            tenant.url.as_str().into(),
            format::age(now_ms, tenant.create_time.as_ref()).into(),
        ];
        if wide {
            let usage = tenant.usage.as_ref();
            let used = |show: &dyn Fn(&isyone_proto::pb::v1::Usage) -> String| {
                usage.map_or("-".to_owned(), show)
            };
            row.extend([
                used(&|u| format::cpus(u.cpu_millis)).into(),
                used(&|u| format::bytes(u.memory_bytes)).into(),
                format::measured_disk(usage)
                    .map_or("-".to_owned(), format::bytes)
                    .into(),
                verified(tenant, now_ms).into(),
                format::or_dash(&spec.odoo_image).into(),
                tenant.message.as_str().into(),
            ]);
        }
        table.row(row);
    }
    table.render()
}

/// When its backups were last proven.
fn verified(tenant: &Tenant, now_ms: i64) -> String {
    let Some(verified) = &tenant.verified else {
        return "-".to_owned(); // none are made
    };
    let found = (verified.damaged, verified.incomplete);
    format::verified(now_ms, verified.time.as_ref(), found)
}

pub async fn show(app: &App, name: &str) -> Outcome {
    let tenant = super::get(&app.client()?, name).await?;
    app.ui.emit(
        &Wire::of(&tenant),
        || vec![tenant.name.clone()],
        |wide| sheet::details(&tenant, wide, clock::now_ms()),
    )?;
    Ok(Exit::Done)
}

pub async fn explain(app: &App, name: &str) -> Outcome {
    let client = app.client()?;
    let request = ExplainTenantRequest {
        name: name.to_owned(),
    };
    let found = client
        .read(
            &format!("explain tenant `{name}`"),
            request,
            |c, r| async move { c.tenants().explain_tenant(r).await },
        )
        .await?;
    app.ui.emit(
        &Wire::of(&found),
        || vec![found.host.clone()],
        |wide| placement::explained(&found, wide),
    )?;
    Ok(Exit::Done)
}

pub async fn credentials(app: &App, name: &str) -> Outcome {
    let found = create::get_credentials(&app.client()?, name).await?;
    let text = |wide| {
        let mut pairs = create::login(&found).to_vec();
        if wide {
            pairs.extend([
                ("Master password", found.master_password.as_str().into()),
                ("Database", found.database.as_str().into()),
                ("Database user", found.database_user.as_str().into()),
                ("Database password", found.database_password.as_str().into()),
            ]);
        }
        Table::pairs(pairs)
    };
    app.ui
        .emit(&Wire::of(&found), || vec![name.to_owned()], text)?;
    Ok(Exit::Done)
}
