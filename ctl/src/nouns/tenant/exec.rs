//! `isyctl tenant shell`, `exec` and `psql`: a remote command with our standard streams; its exit code becomes ours.

use std::{
    io::{IsTerminal as _, Read as _},
    thread,
};

use clap::Args;
use isyone_proto::pb::v1::{
    ExecKind, ExecRequest, ExecResize, ExecResponse, ExecStart, exec_request::Message as In,
    exec_response::Message as Out,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::{
    app::App,
    client::Client,
    exit::{Exit, Failure, Outcome},
    nouns::tenant::Container,
    terminal::{self, RawMode},
};

/// Bytes of standard input per message: a quarter of what the protocol allows, plenty for a keyboard or a pipe.
const CHUNK_BYTES: usize = 16 << 10;
/// Messages queued for the coordinator; when the queue is full, reading standard input pauses.
const QUEUE: usize = 16;

/// `isyctl tenant shell`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isyctl tenant shell alfa                          a shell in the Odoo container
  isyctl tenant shell alfa --odoo                   Odoo's own Python shell on the tenant's database
  isyctl tenant shell alfa -- ls /var/lib/odoo      one command; its exit code is ours
  isyctl tenant shell alfa --root                   as the container's root, for admins")]
pub struct Shell {
    /// The tenant's name
    name: String,
    /// Odoo's Python shell on the tenant's database
    #[arg(long, conflicts_with = "command")]
    odoo: bool,
    /// As the container's root; needs the role admin
    #[arg(long, conflicts_with = "odoo")]
    root: bool,
    /// A command in place of an interactive shell
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// `isyctl tenant exec`.
#[derive(Debug, Args)]
#[command(after_help = "\
The command runs as the service's own user (odoo, postgres) and without capabilities. --root needs the role admin; who asked \
for it, where, and the command's first word are recorded.

Examples:
  isyctl tenant exec alfa -- id
  isyctl tenant exec alfa --container postgres -- du -sh /var/lib/postgresql/data
  isyctl tenant exec alfa --container postgres --root -- sh")]
pub struct Exec {
    /// The tenant's name
    name: String,
    /// Where it runs
    #[arg(long, value_enum, default_value_t)]
    container: Container,
    /// As the container's root; needs the role admin
    #[arg(long)]
    root: bool,
    /// The command and its arguments; its exit code is ours
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// `isyctl tenant psql`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isyctl tenant psql alfa
  isyctl tenant psql alfa -- -c 'select count(*) from res_users'
  isyctl tenant psql alfa < report.sql")]
pub struct Psql {
    /// The tenant's name
    name: String,
    /// psql's own arguments
    #[arg(last = true, value_name = "ARGUMENT")]
    arguments: Vec<String>,
}

impl Shell {
    pub async fn run(self, app: &App) -> Outcome {
        // A coordinator of before knows no root, and refuses what it does not know.
        let kind = match (self.odoo, self.root) {
            (true, _) => ExecKind::OdooShell,
            (false, true) => ExecKind::Command,
            (false, false) => ExecKind::Shell,
        };
        let start = ExecStart {
            root: self.root,
            ..start(self.name, kind, self.command)
        };
        exec(app, start).await
    }
}

impl Exec {
    pub async fn run(self, app: &App) -> Outcome {
        let start = ExecStart {
            container: self.container.role().into(),
            root: self.root,
            ..start(self.name, ExecKind::Command, self.command)
        };
        exec(app, start).await
    }
}

impl Psql {
    pub async fn run(self, app: &App) -> Outcome {
        exec(app, start(self.name, ExecKind::Psql, self.arguments)).await
    }
}

fn start(name: String, kind: ExecKind, arguments: Vec<String>) -> ExecStart {
    ExecStart {
        name,
        kind: kind.into(),
        arguments,
        ..ExecStart::default()
    }
}

async fn exec(app: &App, start: ExecStart) -> Outcome {
    let client = app.client()?;
    let doing = format!("run a command in tenant `{}`", start.name);
    let tty = terminal::interactive();
    let (columns, rows) = terminal::size();
    let (to_remote, queue) = mpsc::channel(QUEUE);
    let start = ExecStart {
        tty,
        columns,
        rows,
        ..start
    };
    // The queue is empty, so this cannot block or fail.
    let _ = to_remote.try_send(message(In::Start(start)));
    let mut service = client.tenants();
    let opened = client
        .open(&doing, service.exec(ReceiverStream::new(queue)))
        .await?;
    let remote = opened.map_err(|status| client.failure(&doing, &status))?;
    let signals = Signals::new()?;
    let raw = if tty {
        Some(
            RawMode::enter()
                .map_err(|e| Failure::failed(format!("cannot use the terminal: {e}")))?,
        )
    } else {
        None
    };
    if !tty && std::io::stdin().is_terminal() {
        // `… -- cat report | less`: the keyboard belongs to `less`. The queue has room for this message.
        let _ = to_remote.try_send(message(In::StdinEof(true)));
    } else {
        forward_stdin(to_remote.clone());
    }
    let outcome = converse(app, &client, &doing, remote, to_remote, signals).await;
    drop(raw);
    outcome
}

fn message(message: In) -> ExecRequest {
    ExecRequest {
        message: Some(message),
    }
}

/// Standard input has no asynchronous API: a thread reads it, and dies with the process if it is stuck in a read.
fn forward_stdin(to_remote: mpsc::Sender<ExecRequest>) {
    thread::spawn(move || {
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut stdin = std::io::stdin().lock();
        loop {
            let next = match stdin.read(&mut buffer) {
                Ok(0) | Err(_) => In::StdinEof(true),
                Ok(count) => In::Stdin(buffer[..count].to_vec()),
            };
            let last = matches!(next, In::StdinEof(_));
            if to_remote.blocking_send(message(next)).is_err() || last {
                return;
            }
        }
    });
}

/// Signals that end us or report a resized window. In raw mode Ctrl-C is a byte for the remote program, not a signal.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    window: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|e| Failure::failed(format!("cannot listen to signals: {e}")))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            window: listen(SignalKind::window_change())?,
        })
    }
}

async fn converse(
    app: &App,
    client: &Client,
    doing: &str,
    mut remote: Streaming<ExecResponse>,
    to_remote: mpsc::Sender<ExecRequest>,
    mut signals: Signals,
) -> Outcome {
    loop {
        tokio::select! {
            next = remote.message() => match next {
                Ok(Some(ExecResponse { message: Some(Out::Stdout(bytes)) })) => app.ui.raw(&bytes)?,
                Ok(Some(ExecResponse { message: Some(Out::Stderr(bytes)) })) => app.ui.raw_error(&bytes),
                Ok(Some(ExecResponse { message: Some(Out::ExitCode(code)) })) => return Ok(Exit::Remote(code)),
                // A message from a newer protocol.
                Ok(Some(ExecResponse { message: None })) => {}
                Ok(None) => {
                    return Err(Failure::new(Exit::Unavailable, format!("cannot {doing}: it ended without an exit code"))
                        .hint("was the container stopped? `isyctl tenant show` tells"));
                }
                Err(status) => return Err(client.failure(doing, &status)),
            },
            _ = signals.window.recv() => {
                let (columns, rows) = terminal::size();
                // A full queue means that nobody is drawing now; the next resize sends the size again.
                let _ = to_remote.try_send(message(In::Resize(ExecResize { columns, rows })));
            }
            _ = signals.interrupt.recv() => return Ok(Exit::Interrupted),
            // The code a shell reports for death by a signal.
            _ = signals.terminate.recv() => return Ok(Exit::Remote(128 + 15)),
            _ = signals.hangup.recv() => return Ok(Exit::Remote(128 + 1)),
        }
    }
}
