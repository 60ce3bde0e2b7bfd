//! Logs, interactive commands and other hosts' connections, on streams of their own that the agent opens when asked.
//!
//! A command whose client goes away is ended in the container, not left behind. Not here: how (host::ended), which command
//! (command), who may do this (coordinator), what another host's connection may have (peer).

use std::{io, sync::Arc, time::Duration};

use bytes::{Buf as _, Bytes};
use futures_util::StreamExt as _;
use isyone_proto::{
    ids::TenantName,
    pb::{
        agent::v1::{
            AttachDown, AttachUp, OpenStream, agent_service_client::AgentServiceClient,
            attach_down, attach_up, open_stream,
        },
        v1::{
            CaughtMail, ContainerRole, ExecRequest, ExecResponse, ExecStart, LogChunk,
            ReadMailRequest, StreamLogsRequest, exec_request, exec_response,
        },
    },
    tls::MAX_MESSAGE_BYTES,
};
use tokio::{
    io::AsyncWriteExt as _,
    sync::{SemaphorePermit, mpsc},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use crate::{
    base::{
        bulk::{AnyConnection, Pieces},
        fsutil::blocking,
    },
    docker::{DockerError, ExecSession, LogQuery},
    host::{Host, catcher, ended::end_command},
    link::command::Wanted,
    plan::container::LABEL_UID,
};

/// Largest piece of data in one message.
const CHUNK: usize = 64 << 10;
/// Most pieces queued for a slow client; beyond that the container's output waits.
const OUTBOX: usize = 8;
/// The coordinator forgets a stream id after 10 s.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the coordinator may take to read the last messages and close its side.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);
/// Log lines shown by default, and at most.
const TAIL: (u32, u32) = (200, 100_000);

type Up = mpsc::Sender<AttachUp>;
type Input = std::pin::Pin<Box<dyn tokio::io::AsyncWrite + Send>>;

/// Who serves other hosts' connections, if anybody does.
pub type ToPeers = Option<mpsc::Sender<AnyConnection>>;

/// Serves one request; reports failures to the client. `turn` is kept for as long as the stream is open.
pub async fn serve(
    host: Arc<Host>,
    channel: Channel,
    open: OpenStream,
    peers: ToPeers,
    turn: SemaphorePermit<'static>,
) {
    let mut client = AgentServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let (up, messages) = mpsc::channel(OUTBOX);
    // The channel is empty and has room: this cannot fail.
    let _ = up.try_send(AttachUp {
        message: Some(attach_up::Message::StreamId(open.stream_id)),
    });
    let mut down = match timeout(OPEN_TIMEOUT, client.attach(ReceiverStream::new(messages))).await {
        Ok(Ok(answer)) => answer.into_inner(),
        Ok(Err(status)) => return tracing::warn!("a stream could not be opened: {status}"),
        Err(_) => return tracing::warn!("a stream could not be opened in time"),
    };
    let outcome = match open.target {
        Some(open_stream::Target::Logs(request)) => logs(&host, request, &up, &mut down).await,
        Some(open_stream::Target::Exec(start)) => exec(&host, start, &up, &mut down).await,
        Some(open_stream::Target::Mail(asked)) => mail(&host, asked, &up).await,
        Some(open_stream::Target::Peer(caller)) => match room(&peers) {
            Ok(place) => {
                tracing::info!(peer = %caller.host.escape_debug(), "connects through the coordinator");
                return place.send(connection(up, down, (client, turn)));
            }
            Err(why) => Err(why.to_owned()),
        },
        None => Err("the request names nothing that this version knows".to_owned()),
    };
    if let Err(why) = outcome {
        let _ = up
            .send(AttachUp {
                message: Some(attach_up::Message::Error(why)),
            })
            .await; // the client may be gone
    }
    drop(up);
    // Dropping our receiving half at once would cancel the call while the last messages are still on their way.
    let _ = timeout(CLOSE_TIMEOUT, async {
        while let Ok(Some(_)) = down.message().await {}
    })
    .await;
}

/// A place for another host's connection among those that wait to be greeted.
fn room(peers: &ToPeers) -> Result<mpsc::Permit<'_, AnyConnection>, &'static str> {
    let peers = peers.as_ref().ok_or("it serves no other agents")?;
    peers
        .try_reserve()
        .map_err(|_| "too many connections at once")
}

/// A stream as a connection; `held` is kept for as long.
fn connection(up: Up, down: Streaming<AttachDown>, held: impl Send + 'static) -> AnyConnection {
    let pieces = down.map(|message| match message {
        Ok(AttachDown {
            message: Some(attach_down::Message::Data(data)),
        }) => Ok(data),
        Ok(_) => Err(io::ErrorKind::InvalidData.into()),
        Err(status) => Err(io::Error::new(
            io::ErrorKind::ConnectionAborted,
            status.message(),
        )),
    });
    let message = |data| AttachUp {
        message: Some(attach_up::Message::Data(data)),
    };
    Box::new(Pieces::new(Box::pin(pieces), up, message, held))
}

fn tenant(name: &str) -> Result<TenantName, String> {
    name.parse().map_err(|e| format!("tenant name {e}"))
}

async fn logs(
    host: &Host,
    request: StreamLogsRequest,
    up: &Up,
    down: &mut Streaming<AttachDown>,
) -> Result<(), String> {
    let name = tenant(&request.name)?;
    let container = match request.container() {
        ContainerRole::Postgres => name.postgres_container(),
        ContainerRole::Odoo | ContainerRole::Unspecified => name.odoo_container(),
    };
    let tail = if request.tail == 0 {
        TAIL.0
    } else {
        request.tail.min(TAIL.1)
    };
    let query = LogQuery {
        follow: request.follow,
        tail,
        timestamps: request.timestamps,
    };
    let mut lines = host
        .docker
        .logs(&container, query)
        .await
        .map_err(|e| e.to_string())?;
    loop {
        let line = tokio::select! {
            line = lines.next() => line,
            message = down.message() => match message {
                Ok(Some(_)) => continue,
                Ok(None) | Err(_) => return Ok(()), // the client has gone
            },
        };
        let Some(line) = line else { return Ok(()) };
        let (stderr, bytes) = line.map_err(|e| e.to_string())?;
        for piece in bytes.chunks(CHUNK) {
            let chunk = LogChunk {
                data: piece.to_vec(),
                stderr,
            };
            if up
                .send(AttachUp {
                    message: Some(attach_up::Message::Log(chunk)),
                })
                .await
                .is_err()
            {
                return Ok(());
            }
        }
    }
}

/// What its catcher has kept of a tenant's: a list, or one message with its text.
async fn mail(host: &Host, asked: ReadMailRequest, up: &Up) -> Result<(), String> {
    let directory = catcher::directory(host, &tenant(&asked.name)?);
    let told = |e: io::Error| format!("what was caught cannot be read: {e}");
    let mut messages = Vec::new();
    if asked.id.is_empty() {
        let found = blocking(move || catcher::store::list(&directory));
        messages = found.await.map_err(told)?;
    } else {
        let id = asked.id.clone();
        let found = blocking(move || catcher::store::read(&directory, &id));
        let found = found.await.map_err(told)?;
        let (head, text) = found.ok_or_else(|| format!("there is no message {}", asked.id))?;
        messages.extend(text.chunks(CHUNK).map(|piece| CaughtMail {
            data: piece.to_vec(),
            ..head.clone()
        }));
    }
    for message in messages {
        let message = Some(attach_up::Message::Mail(message));
        if up.send(AttachUp { message }).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn size(columns: u32, rows: u32) -> (u16, u16) {
    let dimension = |n: u32, default: u16| if n == 0 { default } else { n.min(1000) as u16 };
    (dimension(columns, 80), dimension(rows, 24))
}

async fn exec(
    host: &Host,
    start: ExecStart,
    up: &Up,
    down: &mut Streaming<AttachDown>,
) -> Result<(), String> {
    let wanted = Wanted::of(&start)?;
    let container = wanted.container.clone();
    let tty = start.tty.then(|| size(start.columns, start.rows));
    let session = begin(host, &wanted, tty).await?;
    let ExecSession {
        id,
        mut output,
        input,
    } = session;
    let mut input = Some(input);
    // Input that the command has not read yet. Until it has, no more is read from the client, but output still flows: a
    // command blocked on its output does not read input either.
    let mut waiting = Bytes::new();
    let finished = loop {
        tokio::select! {
            part = output.next() => match part {
                Some(Ok((stderr, bytes))) => if !forward(up, stderr, &bytes).await { break false },
                Some(Err(e)) => return Err(e.to_string()),
                None => break true,
            },
            taken = write_some(&mut input, &waiting), if !waiting.is_empty() => match taken {
                Some(n) => waiting.advance(n),
                // A command that closed its input simply misses the rest.
                None => (input, waiting) = (None, Bytes::new()),
            },
            // Also notices a client that goes away while nothing is read from it.
            () = up.closed() => break false,
            message = down.message(), if waiting.is_empty() => match message {
                Ok(Some(AttachDown { message: Some(attach_down::Message::Exec(ExecRequest { message: Some(request) })) })) => match request {
                    exec_request::Message::Stdin(bytes) => waiting = bytes.into(),
                    exec_request::Message::StdinEof(_) => if let Some(mut writer) = input.take() {
                        let _ = writer.shutdown().await; // may be closed already, as above
                    },
                    exec_request::Message::Resize(to) => {
                        // The command may have ended; then there is nothing to resize.
                        let _ = host.docker.exec_resize(&id, size(to.columns, to.rows)).await;
                    }
                    exec_request::Message::Start(_) => return Err("a second start".to_owned()),
                },
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break false,
            },
        }
    };
    if !finished {
        end_command(&*host.docker, &container, &id).await;
        return Ok(());
    }
    let code = host
        .docker
        .exec_state(&id)
        .await
        .map_err(|e| e.to_string())?
        .code;
    let _ = send(up, exec_response::Message::ExitCode(code)).await; // the last message; the client may be gone
    Ok(())
}

/// Starts a command as the user that the container's image names, in a tenant whose database is its own.
async fn begin(
    host: &Host,
    wanted: &Wanted,
    tty: Option<(u16, u16)>,
) -> Result<ExecSession, String> {
    let (docker, name) = (&host.docker, &wanted.container);
    let refused = |e: DockerError| refusal(&e, name, wanted.tenant.as_str());
    let found = docker.container(name).await.map_err(refused)?;
    let found =
        found.ok_or_else(|| refused(DockerError::NotFound(format!("no container {name}"))))?;
    let uid = found.label(LABEL_UID).parse();
    host.board
        .may_enter(&wanted.tenant, uid.unwrap_or_default())?; // none is nobody's
    let user = wanted.user(&found);
    // By its id: another tenant's may have this name by now, and that one was not asked about.
    let session = docker.exec_session(&found.id, user, &wanted.words, tty);
    session.await.map_err(refused)
}

/// Docker names a container that does not run by its id, which says nothing to whoever asked.
fn refusal(error: &DockerError, container: &str, tenant: &str) -> String {
    match error {
        DockerError::NotFound(_) | DockerError::Conflict(_) => format!(
            "container {container} is not running; `isyctl tenant show {tenant}` says what is under way"
        ),
        error => error.to_string(),
    }
}

/// Writes some input to a command; returns how much, or `None` when it accepts no more.
async fn write_some(input: &mut Option<Input>, bytes: &[u8]) -> Option<usize> {
    input.as_mut()?.write(bytes).await.ok().filter(|n| *n > 0)
}

async fn forward(up: &Up, stderr: bool, bytes: &Bytes) -> bool {
    for piece in bytes.chunks(CHUNK) {
        let message = if stderr {
            exec_response::Message::Stderr(piece.to_vec())
        } else {
            exec_response::Message::Stdout(piece.to_vec())
        };
        if !send(up, message).await {
            return false;
        }
    }
    true
}

async fn send(up: &Up, message: exec_response::Message) -> bool {
    up.send(AttachUp {
        message: Some(attach_up::Message::Exec(ExecResponse {
            message: Some(message),
        })),
    })
    .await
    .is_ok()
}

#[cfg(test)]
mod tests {
    use isyone_proto::pb::v1::ExecKind;

    use super::*;
    use crate::{
        base::config::DataDir,
        docker::Docker as _,
        host::{Pace, board::TenantStatus},
        testing::{fake_docker::FakeDocker, tenant_plan, tenant_status, world},
    };

    #[test]
    fn a_container_that_does_not_run_is_named_by_its_name() {
        let error = DockerError::Conflict("Container 8b2f19 is not running".to_owned());
        assert_eq!(
            refusal(&error, "postgres_alfa", "alfa"),
            "container postgres_alfa is not running; `isyctl tenant show alfa` says what is under way"
        );
    }

    /// Whoever gets in while a database is filled could leave something in the snapshot that is taken of it, and so in all later tenants'.
    #[tokio::test]
    async fn nobody_gets_into_a_tenant_whose_database_is_not_its_own_yet() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path().join("agent"));
        data.create().unwrap();
        let fake = FakeDocker::new(dir.path(), 1);
        let address = [127, 0, 0, 1].into();
        let host = Host::new(fake.clone(), fake.clone(), data, address, Pace::hasty()).unwrap();
        let plan = tenant_plan("alfa");
        let stack = world::render(&plan);
        let network = &stack.network;
        fake.create_network(network, &stack.subnet, None)
            .await
            .unwrap();
        for mut spec in [stack.odoo.clone(), stack.postgres.clone()] {
            spec.mounts.clear();
            fake.create(&spec).await.unwrap();
        }
        let starts = [
            (ExecKind::Psql, false),
            (ExecKind::Shell, false),
            (ExecKind::OdooShell, false),
            (ExecKind::Command, false),
            (ExecKind::Command, true),
        ];
        let said = async |(kind, root): (ExecKind, bool)| {
            let start = ExecStart {
                name: "alfa".to_owned(),
                kind: kind.into(),
                root,
                ..Default::default()
            };
            let wanted = Wanted::of(&start).unwrap();
            begin(&host, &wanted, None)
                .await
                .map_or_else(|why| why, |_| "in".to_owned())
        };
        let set = |uid, own_database| {
            let status = TenantStatus {
                uid,
                own_database,
                ..tenant_status(&plan)
            };
            host.board.set(&plan.name, status);
        };
        for start in starts {
            let why = said(start).await;
            assert!(why.contains("not looked at tenant alfa yet"), "{why}");
        }
        set(plan.uid, false);
        for start in starts {
            let why = said(start).await;
            assert!(why.contains("tenant alfa is being created"), "{why}");
        }
        set(uuid::Uuid::nil(), true);
        assert!(said(starts[0]).await.contains("not looked at"), "another's");
        set(plan.uid, true);
        for start in starts {
            assert_eq!(said(start).await, "in");
        }
    }

    #[test]
    fn an_agent_that_serves_no_others_takes_no_connection_and_one_that_does_takes_a_few() {
        assert!(room(&None).is_err());
        let (peers, waiting) = mpsc::channel(1);
        let peers = Some(peers);
        room(&peers).unwrap().send(Box::new(tokio::io::duplex(1).0));
        assert!(room(&peers).is_err(), "one waits already");
        drop(waiting);
    }

    #[test]
    fn sizes_are_sane() {
        assert_eq!(size(0, 0), (80, 24));
        assert_eq!(size(70_000, 50), (1000, 50));
    }
}
