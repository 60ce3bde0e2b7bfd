//! `isyctl tenant logs`: what the containers wrote, all on standard output, because here it is the data; what a terminal
//! would act on is escaped, unless `--raw`.

use clap::Args;
use isyone_proto::pb::v1::StreamLogsRequest;

use crate::{
    app::App,
    client::Interrupt,
    exit::{Exit, Outcome},
    nouns::tenant::Container,
    output::harmless::Harmless,
};

/// `isyctl tenant logs`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isyctl tenant logs alfa
  isyctl tenant logs alfa -f --tail 20
  isyctl tenant logs alfa --container postgres --timestamps

Needs the role operator: Odoo logs links that reset passwords.

Escape sequences and other control characters are shown as text, so that a tenant's programs cannot drive your terminal.")]
pub struct Logs {
    /// The tenant's name
    name: String,
    /// Go on with new lines until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// How many lines from the end
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    tail: u32,
    /// Put the time before each line
    #[arg(long)]
    timestamps: bool,
    /// As it is, even what drives a terminal
    #[arg(long)]
    raw: bool,
    /// Whose lines
    #[arg(long, value_enum, default_value_t)]
    container: Container,
}

impl Logs {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let doing = format!("read the logs of tenant `{}`", self.name);
        let request = StreamLogsRequest {
            name: self.name.clone(),
            container: self.container.role().into(),
            follow: self.follow,
            tail: self.tail,
            timestamps: self.timestamps,
        };
        let copy = async {
            let mut stream = client
                .open_again(&doing, || {
                    let (mut tenants, request) = (client.tenants(), request.clone());
                    async move { tenants.stream_logs(request).await }
                })
                .await?;
            // Standard output and error, each with its own broken characters.
            let mut streams = [Harmless::default(), Harmless::default()];
            while let Some(chunk) = stream
                .message()
                .await
                .map_err(|status| client.failure(&doing, &status))?
            {
                if self.raw {
                    app.ui.raw(&chunk.data)?;
                } else {
                    let stream = &mut streams[usize::from(chunk.stderr)];
                    app.ui.raw(stream.next(&chunk.data).as_bytes())?;
                }
            }
            for stream in &mut streams {
                app.ui.raw(stream.end().as_bytes())?;
            }
            Ok(Exit::Done)
        };
        tokio::select! {
            outcome = copy => outcome,
            stopped = Interrupt::listen().came() => Err(stopped),
        }
    }
}
