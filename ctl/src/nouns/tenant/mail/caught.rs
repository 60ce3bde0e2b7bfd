//! What a tenant's host has caught of its mail: `isyctl tenant mail read`, and its part of the list.
//!
//! What a message says is the tenant's word. Not here: what waits or has failed in Odoo (the parent).

use clap::Args;
use isyone_proto::pb::v1::{CaughtMail, ReadMailRequest};

use crate::{
    app::App,
    client::Client,
    exit::{Exit, Failure, Outcome},
    output::harmless::Harmless,
};

/// Most messages of a list; the host keeps no more.
const MAX_LISTED: usize = 200;
/// Most bytes of one; the host takes no more.
const MAX_BYTES: usize = 16 << 20;

/// `isyctl tenant mail read`.
#[derive(Debug, Args)]
#[command(after_help = "\
The message as it came, after two lines that say whom its envelope names. What is read is recorded.

Examples:
  isyctl tenant mail read staging 1764460800000-0000
  isyctl tenant mail read staging 1764460800000-0000 --raw > message.eml")]
pub struct Read {
    /// The tenant's name
    name: String,
    /// The message, as `isyctl tenant mail list` names it
    id: String,
    /// As it is, even what drives a terminal
    #[arg(long)]
    raw: bool,
}

/// What was caught, the newest first.
pub(super) async fn list(
    client: &Client,
    doing: &str,
    name: &str,
) -> Result<Vec<CaughtMail>, Failure> {
    let mut found = Vec::new();
    fetch(client, doing, (name, ""), |mail| {
        found.push(mail);
        found.len() < MAX_LISTED
    })
    .await?;
    Ok(found)
}

async fn fetch(
    client: &Client,
    doing: &str,
    (name, id): (&str, &str),
    mut each: impl FnMut(CaughtMail) -> bool,
) -> Result<(), Failure> {
    let request = ReadMailRequest {
        name: name.to_owned(),
        id: id.to_owned(),
    };
    let mut tenants = client.tenants();
    let call = tenants.read_mail(client.request(request));
    let mut stream = client.call(doing, call).await?;
    let failed = |status| client.failure(doing, &status);
    while let Some(mail) = stream.message().await.map_err(failed)? {
        if !each(mail) {
            break;
        }
    }
    Ok(())
}

impl Read {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let doing = format!("read a message of tenant `{}`", self.name);
        let mut text = Vec::new();
        fetch(&client, &doing, (&self.name, &self.id), |mail| {
            text.extend_from_slice(&mail.data);
            text.len() < MAX_BYTES
        })
        .await?;
        match self.raw {
            true => app.ui.raw(&text)?,
            false => {
                // Its lines end as mail's do; a terminal's do not.
                text.retain(|byte| *byte != b'\r');
                let mut harmless = Harmless::default();
                let shown = harmless.next(&text) + &harmless.end();
                app.ui.raw(shown.as_bytes())?;
            }
        }
        Ok(Exit::Done)
    }
}
