//! Fetches what is on the screen from the coordinator, and follows logs.

use isyone_proto::pb::v1::{ContainerRole, GetHostRequest, GetTenantRequest, StreamLogsRequest};
use tokio::{sync::mpsc, task::JoinHandle};

use super::model::{Answer, Event, Query};
use crate::{
    client::Client,
    exit::{Exit, Failure},
    output::table::clean,
};

/// Old lines to start a log with: a screen or two.
const TAIL: u32 = 200;
/// Longer lines are cut: nobody reads a line wider than any screen.
const MAX_LINE: usize = 1_000;
/// Chunks of a log queued for the screen. When the queue is full, the log stream waits.
const LOG_QUEUE: usize = 16;

pub async fn ask(client: &Client, query: Query) -> Result<Answer, Failure> {
    let doing = "follow the fleet";
    let (mut tenants, mut hosts) = (client.top(), client.top());
    let (tenants, hosts, tenant, host) = tokio::try_join!(
        client.call(
            doing,
            tenants.top_tenants(client.request(query.tenants.clone()))
        ),
        client.call(doing, hosts.top_hosts(client.request(query.hosts.clone()))),
        async {
            let Some(name) = query.tenant.clone() else {
                return Ok(None);
            };
            let (doing, request) = (
                format!("show tenant `{name}`"),
                client.request(GetTenantRequest { name }),
            );
            or_gone(
                client
                    .call(&doing, client.tenants().get_tenant(request))
                    .await,
            )
        },
        async {
            let Some(name) = query.host.clone() else {
                return Ok(None);
            };
            let (doing, request) = (
                format!("show host `{name}`"),
                client.request(GetHostRequest { name }),
            );
            or_gone(client.call(&doing, client.hosts().get_host(request)).await)
        },
    )?;
    Ok(Answer {
        query,
        tenants,
        hosts,
        tenant,
        host,
    })
}

/// The object may be gone by now: that is a valid answer.
fn or_gone<T>(answer: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(failure) if failure.exit == Exit::NotFound => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// A log that is followed until this is dropped.
#[derive(Debug)]
pub struct Following {
    task: JoinHandle<()>,
    news: mpsc::Receiver<Event>,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Following {
    pub fn open(client: &Client, name: String, role: ContainerRole) -> Self {
        let (to, news) = mpsc::channel(LOG_QUEUE);
        let client = client.clone();
        let task = tokio::spawn(async move {
            let why = match follow(&client, name, role, &to).await {
                Ok(()) => "the log has ended".to_owned(),
                Err(failure) => clean(&failure.message),
            };
            // If nobody is looking any more, it does not matter.
            let _ = to.send(Event::LogEnded(why)).await;
        });
        Self { task, news }
    }

    /// The next lines; waits forever after the end.
    pub async fn next(&mut self) -> Event {
        match self.news.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }
}

async fn follow(
    client: &Client,
    name: String,
    role: ContainerRole,
    to: &mpsc::Sender<Event>,
) -> Result<(), Failure> {
    let doing = format!("read the log of tenant `{name}`");
    let request = StreamLogsRequest {
        name,
        container: role.into(),
        follow: true,
        tail: TAIL,
        timestamps: false,
    };
    let mut tenants = client.tenants();
    let opened = client.open(&doing, tenants.stream_logs(request)).await?;
    let mut stream = opened.map_err(|status| client.failure(&doing, &status))?;
    let mut lines = Lines::default();
    while let Some(chunk) = stream
        .message()
        .await
        .map_err(|status| client.failure(&doing, &status))?
    {
        let whole = lines.add(&chunk.data);
        if !whole.is_empty() && to.send(Event::LogLines(whole)).await.is_err() {
            return Ok(());
        }
    }
    let rest = lines.rest();
    if !rest.is_empty() {
        let _ = to.send(Event::LogLines(rest)).await;
    }
    Ok(())
}

/// Assembles lines from the chunks of a log.
#[derive(Debug, Default)]
struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// The lines that this chunk completes, cleaned and cut to the maximum length.
    fn add(&mut self, data: &[u8]) -> Vec<String> {
        let mut whole = Vec::new();
        for byte in data {
            match byte {
                b'\n' => whole.push(line(&std::mem::take(&mut self.begun))),
                // Drop what exceeds the maximum length.
                _ if self.begun.len() < MAX_LINE => self.begun.push(*byte),
                _ => {}
            }
        }
        whole
    }

    /// The unfinished last line, if there is one.
    fn rest(&mut self) -> Vec<String> {
        let rest = std::mem::take(&mut self.begun);
        if rest.is_empty() {
            Vec::new()
        } else {
            vec![line(&rest)]
        }
    }
}

fn line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    clean(&text.trim_end_matches('\r').replace('\t', "    "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_become_lines() {
        let mut lines = Lines::default();
        assert_eq!(lines.add(b"one\r\ntw"), ["one"]);
        assert_eq!(
            lines.add("o\n\tthree \u{1b}[2J\nrest".as_bytes()),
            ["two", "    three \\u{1b}[2J"]
        );
        assert_eq!(
            (lines.rest(), lines.rest()),
            (vec!["rest".to_owned()], vec![])
        );
        let long = lines.add(&[b"x".repeat(5_000), b"\ny\n".to_vec()].concat());
        assert_eq!((long[0].len(), long[1].as_str()), (MAX_LINE, "y"));
    }
}
