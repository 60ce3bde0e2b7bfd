//! `isyctl events`: the coordinator's journal, and with `-f` what happens next.
//!
//! Following prints one line (or one JSON object, or one YAML document) per event, so that a pipe can act on each.

use std::time::Duration;

use clap::Args;
use isyone_proto::pb::v1::{Event, StreamEventsRequest};
use tokio::time::Instant;

use crate::{
    app::App,
    client::{Client, Interrupt},
    clock,
    exit::{Exit, Failure, Outcome},
    output::{
        Format, format,
        table::{Table, clean},
        wire::Wire,
    },
    retry, status,
};

/// How long the coordinator may be unreachable while we follow.
const MAX_SILENCE: Duration = Duration::from_secs(120);

/// `isyctl events`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isyctl events
  isyctl events -f --tenant alfa
  isyctl events --tail 1000 -o json | jq '.[] | select(.kind == \"credentials.read\")'
  isyctl events -f -o json                 one object per line")]
pub struct Events {
    /// Go on with new events until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Only events on this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Only events on this host
    #[arg(long)]
    host: Option<String>,
    /// How many old events, at most 10000
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    tail: u32,
    /// Only events after this sequence number
    #[arg(
        long,
        value_name = "SEQUENCE",
        default_value_t = 0,
        hide_default_value = true
    )]
    after: u64,
}

impl Events {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        if !self.follow {
            let events = self.stored(&client).await?;
            if events.is_empty() && app.ui.for_people() {
                app.ui.note("no events");
            }
            let names = || events.iter().map(|e| e.sequence.to_string()).collect();
            app.ui
                .emit(&Wire::all(&events), names, |_| table(&events))?;
            return Ok(Exit::Done);
        }
        tokio::select! {
            ended = self.follow(app, &client) => ended,
            stopped = Interrupt::listen().came() => Err(stopped),
        }
    }

    fn request(&self, after: u64, follow: bool) -> StreamEventsRequest {
        StreamEventsRequest {
            after_sequence: after,
            follow,
            tenant: self.tenant.clone().unwrap_or_default(),
            host: self.host.clone().unwrap_or_default(),
            tail: self.tail,
        }
    }

    async fn stored(&self, client: &Client) -> Result<Vec<Event>, Failure> {
        let doing = "read events";
        let request = client.request(self.request(self.after, false));
        let mut stream = client
            .call(doing, client.events().stream_events(request))
            .await?;
        let mut events = Vec::new();
        while let Some(event) = stream
            .message()
            .await
            .map_err(|status| client.failure(doing, &status))?
        {
            events.push(event);
        }
        Ok(events)
    }

    async fn follow(&self, app: &App, client: &Client) -> Outcome {
        let doing = "follow events";
        let (mut after, mut heard, mut lost_before) = (self.after, Instant::now(), 0);
        loop {
            let heard_before = heard;
            let mut service = client.events();
            let lost = match client
                .open(doing, service.stream_events(self.request(after, true)))
                .await?
            {
                Ok(mut stream) => loop {
                    match stream.message().await {
                        Ok(Some(event)) => {
                            (after, heard) = (event.sequence, Instant::now());
                            print(app, &event)?;
                        }
                        Ok(None) => break tonic::Status::unavailable("the stream ended"),
                        Err(status) => break status,
                    }
                },
                Err(status) => status,
            };
            if !status::passing(&lost) || heard.elapsed() > MAX_SILENCE {
                return Err(client.failure(doing, &lost));
            }
            app.ui
                .detail(|| format!("connection lost ({lost}), going on after event {after}"));
            lost_before = if heard > heard_before {
                1
            } else {
                lost_before + 1
            };
            tokio::time::sleep(retry::stream_pause(lost_before, &lost, clock::chance())).await;
        }
    }
}

/// Prints one event of an endless list.
fn print(app: &App, event: &Event) -> Result<(), Failure> {
    match app.ui.format {
        Format::Table | Format::Wide => app.ui.data(&format!("{}\n", line(event))),
        Format::Name => app.ui.data(&format!("{}\n", event.sequence)),
        Format::Json => {
            let json = serde_json::to_string(&Wire::of(event))
                .map_err(|e| Failure::failed(format!("cannot write JSON: {e}")))?;
            app.ui.data(&format!("{json}\n"))
        }
        Format::Yaml => {
            app.ui.data("---\n")?;
            app.ui.emit(&Wire::of(event), Vec::new, |_| String::new())
        }
    }
}

fn subject(event: &Event) -> String {
    match (event.tenant.as_str(), event.host.as_str()) {
        ("", "") => "-".to_owned(),
        (tenant, "") => tenant.to_owned(),
        ("", host) => host.to_owned(),
        (tenant, host) => format!("{tenant} on {host}"),
    }
}

/// Columns have fixed widths because later events are not known yet.
fn line(event: &Event) -> String {
    let (kind, subject, actor) = (
        clean(&event.kind),
        clean(&subject(event)),
        clean(&event.actor),
    );
    format!(
        "{}  {kind:<20}  {subject:<16}  {actor:<12}  {}",
        format::local(event.time.as_ref()),
        clean(&event.message)
    )
}

fn table(events: &[Event]) -> String {
    if events.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["TIME", "KIND", "SUBJECT", "ACTOR", "MESSAGE"]);
    for event in events {
        table.row([
            format::local(event.time.as_ref()).into(),
            event.kind.as_str().into(),
            subject(event).into(),
            format::or_dash(&event.actor).into(),
            event.message.as_str().into(),
        ]);
    }
    table.render()
}
