//! `isyctl version`: both versions, who we are to the coordinator, and its configuration.

use clap::Args;
use isyone_proto::pb::v1::{GetInfoRequest, Info, Size};
use serde::Serialize;

use crate::{
    app::App,
    client::Client,
    clock,
    exit::{Exit, Failure, Outcome},
    output::{
        format,
        table::{Cell, Table},
        wire::Wire,
    },
};

pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `isyctl version`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  isyctl version\n  isyctl version --client\n  isyctl version -o yaml          with the coordinator's plans and editions"
)]
pub struct Version {
    /// Do not ask the coordinator
    #[arg(long)]
    client: bool,
}

#[derive(Serialize)]
struct Versions {
    client: &'static str,
    coordinator: Option<Wire>,
}

impl Version {
    pub async fn run(self, app: &App) -> Outcome {
        // Our own version is always known: print it before reporting why the coordinator's is not.
        let asked = if self.client {
            Ok(None)
        } else {
            ask(app).await
        };
        let info = asked.as_ref().ok().and_then(Option::as_ref);
        let value = Versions {
            client: VERSION,
            coordinator: info.map(Wire::of),
        };
        app.ui.emit(
            &value,
            || vec![VERSION.to_owned()],
            |_| text(info, clock::now_ms()),
        )?;
        asked.map(|_| Exit::Done)
    }
}

async fn ask(app: &App) -> Result<Option<Info>, Failure> {
    get(&app.client()?).await.map(Some)
}

/// What the coordinator says about itself and about us.
pub async fn get(client: &Client) -> Result<Info, Failure> {
    let request = GetInfoRequest {};
    client
        .read(
            "ask the coordinator's version",
            request,
            |c, r| async move { c.system().get_info(r).await },
        )
        .await
}

fn text(info: Option<&Info>, now_ms: i64) -> String {
    let mut pairs: Vec<(&str, Cell)> = vec![("isyctl", VERSION.into())];
    if let Some(info) = info {
        let up = format::age(now_ms, info.start_time.as_ref());
        pairs.push((
            "Coordinator",
            format!("{}, up for {up}", info.version).into(),
        ));
        pairs.push((
            "You are",
            format!("{} ({})", info.caller_name, format::role(info.caller_role)).into(),
        ));
        pairs.push(("Base domain", info.base_domain.as_str().into()));
        pairs.push(("Plans", plans(info).into()));
        let mut editions: Vec<&str> = info.editions.keys().map(String::as_str).collect();
        editions.sort_unstable();
        pairs.push(("Editions", format::or_dash(&editions.join(", ")).into()));
    }
    Table::pairs(pairs)
}

fn plans(info: &Info) -> String {
    let mut plans: Vec<(&String, &Size)> = info.plans.iter().collect();
    plans.sort_by_key(|(name, size)| (size.memory_bytes, *name));
    let words: Vec<String> = plans
        .into_iter()
        .map(|(name, size)| {
            let default = if *name == info.default_plan {
                ", the default"
            } else {
                ""
            };
            format!(
                "{name} ({}, {} CPU{default})",
                format::bytes(size.memory_bytes),
                format::cpus(size.cpu_millis)
            )
        })
        .collect();
    format::or_dash(&words.join("; ")).to_owned()
}
