//! Logs and interactive commands: connects a caller's stream with one that the tenant's agent opens. When one side goes
//! away, the other ends.
//!
//! Not here: the agents' streams (agents/streams).

use std::time::Duration;

use isyone_fleet::{
    change::{ChangeError, Command},
    event::EventKind,
    views,
};
use isyone_proto::{
    convert::parse,
    echo::echo,
    error::FieldError,
    ids::{HostName, TenantName},
    pb::{
        agent::v1::{AttachDown, AttachUp, attach_down, attach_up, open_stream::Target},
        v1::{self, exec_request, exec_response},
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::{Answers, Api, STREAM_QUEUE, admin_only};
use crate::{
    agents::streams::Bridge,
    wire::{caller::Caller, status},
    writer::SubmitError,
};

/// Largest chunk of log, standard input or output; documented in the protocol.
pub(super) const MAX_CHUNK: usize = 64 << 10;
/// Number of log lines: the default and the maximum.
const TAIL: (u32, u32) = (200, 100_000);
/// Most arguments of a command, and most bytes of one.
const ARGUMENTS: (usize, usize) = (64, 4096);
/// How long the caller may take to say what to run; normally it does so at once.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// Larger than any terminal's columns or rows.
const MAX_TERMINAL: u32 = 10_000;

pub(super) type ToCaller<T> = mpsc::Sender<Result<T, Status>>;

impl Api {
    pub(super) async fn logs(
        &self,
        mut asked: v1::StreamLogsRequest,
    ) -> Result<Answers<v1::LogChunk>, Status> {
        let name: TenantName = parse("name", &asked.name)?;
        asked.tail = if asked.tail == 0 { TAIL.0 } else { asked.tail };
        if asked.tail > TAIL.1 {
            return Err(
                FieldError::new("tail", format!("{} is more than {}", asked.tail, TAIL.1)).into(),
            );
        }
        match v1::ContainerRole::try_from(asked.container) {
            Ok(v1::ContainerRole::Unspecified) => asked.container = v1::ContainerRole::Odoo.into(),
            Ok(_) => {}
            Err(_) => return Err(FieldError::new("container", "unknown container").into()),
        }
        let host = self.host_of(&name)?;
        let bridge = self.parts.streams.open(&host, Target::Logs(asked)).await?;
        let (caller, answers) = mpsc::channel(STREAM_QUEUE);
        tokio::spawn(pump_logs(bridge, caller, self.parts.stop.clone()));
        Ok(Box::pin(ReceiverStream::new(answers)))
    }

    pub(super) async fn run(
        &self,
        caller: Caller,
        mut input: Streaming<v1::ExecRequest>,
    ) -> Result<Answers<v1::ExecResponse>, Status> {
        let first = tokio::time::timeout(START_PATIENCE, input.message()).await;
        let first = first
            .map_err(|_| Status::deadline_exceeded("no `start`"))??
            .and_then(|m| m.message);
        let Some(exec_request::Message::Start(start)) = first else {
            return Err(FieldError::new("start", "must be the first message").into());
        };
        let name = check_start(&start)?;
        if start.root {
            let without = "leave it out, and the command runs as the service's own user, or let an admin run it";
            admin_only(&caller, "start.root", without)?;
        }
        let host = self.host_of(&name)?;
        self.check_at_work(&name, start.kind())?;
        let audit = Command::Audit {
            kind: EventKind::TenantExec,
            tenant: name,
            message: told(&start),
        };
        self.parts
            .handle
            .submit(caller.to_string(), audit)
            .await
            .map_err(status::submit)?;
        let bridge = self.parts.streams.open(&host, Target::Exec(start)).await?;
        let (caller, answers) = mpsc::channel(STREAM_QUEUE);
        tokio::spawn(pump_exec(bridge, input, caller, self.parts.stop.clone()));
        Ok(Box::pin(ReceiverStream::new(answers)))
    }

    /// Refuses before the host is asked: it would only name a container that does not run.
    fn check_at_work(&self, name: &TenantName, kind: v1::ExecKind) -> Result<(), Status> {
        let state = self.state();
        let tenant = self.tenant(&state, name)?;
        let full = if views::is_database_stopped_by_disk(&state, tenant) {
            Some(format!(
                "has neither Odoo nor PostgreSQL, because its disk went on filling when it was full; `isyctl tenant resize {name} --plan PLAN` gives it room, and both start by themselves"
            ))
        } else if kind != v1::ExecKind::Psql && views::is_stopped_by_disk(&state, tenant) {
            Some(format!(
                "has no Odoo, because its disk is full; `isyctl tenant psql {name}` works, and `isyctl tenant resize {name} --plan PLAN` gives it room"
            ))
        } else {
            None
        };
        let Some(problem) = views::not_at_work(&state, tenant).or(full) else {
            return Ok(());
        };
        let name = name.clone();
        let refused = ChangeError::WrongState { name, problem };
        Err(status::submit(SubmitError::Refused(refused)))
    }

    pub(super) fn host_of(&self, name: &TenantName) -> Result<HostName, Status> {
        let state = self.state();
        Ok(self.tenant(&state, name)?.placement.host.clone())
    }
}

fn check_start(start: &v1::ExecStart) -> Result<TenantName, FieldError> {
    let name = parse("start.name", &start.name)?;
    if !matches!(v1::ExecKind::try_from(start.kind), Ok(kind) if kind != v1::ExecKind::Unspecified)
    {
        return Err(FieldError::new("start.kind", "must say what to run"));
    }
    let fits = start.arguments.len() <= ARGUMENTS.0
        && start
            .arguments
            .iter()
            .all(|a| a.len() <= ARGUMENTS.1 && !a.contains('\0'));
    if !fits {
        let problem = format!(
            "at most {} of {} bytes, without NUL",
            ARGUMENTS.0, ARGUMENTS.1
        );
        return Err(FieldError::new("start.arguments", problem));
    }
    let plain = start.kind() != v1::ExecKind::Command;
    if start.root && plain {
        return Err(FieldError::new("start.root", "only for a command"));
    }
    match v1::ContainerRole::try_from(start.container) {
        Ok(v1::ContainerRole::Unspecified) => {}
        Ok(_) if !plain => {}
        Ok(_) => return Err(FieldError::new("start.container", "only for a command")),
        Err(_) => return Err(FieldError::new("start.container", "unknown container")),
    }
    if start.columns > MAX_TERMINAL || start.rows > MAX_TERMINAL {
        return Err(FieldError::new(
            "start.columns",
            format!("at most {MAX_TERMINAL}"),
        ));
    }
    Ok(name)
}

/// What is recorded of a command: its kind, and of one that may be anything also where, whether as root, and its first
/// word. Never more, because arguments may hold secrets.
fn told(start: &v1::ExecStart) -> String {
    let kind = start.kind().as_str_name();
    let kind = kind.trim_start_matches("EXEC_KIND_").to_ascii_lowercase();
    if start.kind() != v1::ExecKind::Command {
        return kind;
    }
    let service = match start.container() {
        v1::ContainerRole::Postgres => "postgres",
        v1::ContainerRole::Odoo | v1::ContainerRole::Unspecified => "odoo",
    };
    let root = if start.root { " as root" } else { "" };
    // Somebody may write `NAME=secret program`, which is no program's name.
    let word = start.arguments.first().and_then(|words| {
        let first = words.split_whitespace().next()?;
        first.split('=').next().filter(|name| !name.is_empty())
    });
    format!(
        "{kind}{root} in {service}: {}",
        echo(word.unwrap_or("a shell"))
    )
}

/// The agent's next message, or the error that ended the stream.
pub(super) async fn next(
    up: &mut Streaming<AttachUp>,
) -> Option<Result<attach_up::Message, Status>> {
    match up.message().await {
        Ok(Some(AttachUp {
            message: Some(attach_up::Message::Error(why)),
        })) => Some(Err(Status::failed_precondition(why))),
        Ok(Some(AttachUp {
            message: Some(message),
        })) => Some(Ok(message)),
        Ok(Some(AttachUp { message: None }) | None) => None,
        Err(error) => {
            tracing::debug!(%error, "agent's stream ended");
            Some(Err(status::agent_away(
                "the agent's connection was lost".to_owned(),
            )))
        }
    }
}

async fn pump_logs(mut bridge: Bridge, caller: ToCaller<v1::LogChunk>, stop: CancellationToken) {
    loop {
        let message = tokio::select! {
            message = next(&mut bridge.up) => message,
            () = caller.closed() => return,
            () = stop.cancelled() => Some(Err(status::stopping())),
        };
        let item = match message {
            Some(Ok(attach_up::Message::Log(chunk))) if chunk.data.len() <= MAX_CHUNK => Ok(chunk),
            Some(Ok(_)) => Err(Status::internal("the agent sent something that is no log")),
            Some(Err(status)) => Err(status),
            None => return,
        };
        let last = item.is_err();
        // Waits for the caller, so the transport's flow control slows the agent down.
        if caller.send(item).await.is_err() || last {
            return;
        }
    }
}

async fn pump_exec(
    mut bridge: Bridge,
    mut input: Streaming<v1::ExecRequest>,
    caller: ToCaller<v1::ExecResponse>,
    stop: CancellationToken,
) {
    let mut input_open = true;
    // What the agent has no room for yet. Nobody waits for that alone: a command that does not read its input may go on
    // writing, its client may go, and we may stop.
    let mut waiting = None;
    loop {
        let item = tokio::select! {
            message = next(&mut bridge.up) => match message {
                Some(Ok(attach_up::Message::Exec(response))) => Ok(response),
                Some(Ok(_)) => Err(Status::internal("the agent sent something that is no output")),
                Some(Err(status)) => Err(status),
                None => Err(status::agent_away("the command's end was not reported".to_owned())),
            },
            room = bridge.down.reserve(), if waiting.is_some() => {
                match (room, waiting.take()) {
                    (Ok(room), Some(down)) => room.send(Ok(down)),
                    _ => input_open = false,
                }
                continue;
            },
            message = input.message(), if input_open && waiting.is_none() => {
                let down = match message {
                    Ok(Some(request)) => checked_input(request),
                    // The caller will send nothing more: treat it like a closed standard input.
                    Ok(None) => {
                        input_open = false;
                        Ok(exec_request::Message::StdinEof(true))
                    }
                    Err(_) => return,
                };
                match down {
                    Ok(message) => {
                        let request = v1::ExecRequest { message: Some(message) };
                        let message = Some(attach_down::Message::Exec(request));
                        waiting = Some(AttachDown { message });
                        continue;
                    }
                    Err(error) => Err(error.into()),
                }
            },
            () = caller.closed() => return,
            () = stop.cancelled() => Err(status::stopping()),
        };
        let last = match &item {
            Ok(response) => matches!(response.message, Some(exec_response::Message::ExitCode(_))),
            Err(_) => true,
        };
        if caller.send(item).await.is_err() || last {
            return;
        }
    }
}

fn checked_input(request: v1::ExecRequest) -> Result<exec_request::Message, FieldError> {
    match request.message {
        Some(exec_request::Message::Start(_)) => {
            Err(FieldError::new("start", "only in the first message"))
        }
        Some(exec_request::Message::Stdin(data)) if data.len() > MAX_CHUNK => Err(FieldError::new(
            "stdin",
            format!("at most {MAX_CHUNK} bytes at once"),
        )),
        Some(exec_request::Message::Resize(size))
            if size.columns > MAX_TERMINAL || size.rows > MAX_TERMINAL =>
        {
            Err(FieldError::new("resize", format!("at most {MAX_TERMINAL}")))
        }
        Some(message) => Ok(message),
        None => Err(FieldError::new("message", "must be set")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_of_a_command_says_where_and_as_whom_and_none_of_its_arguments() {
        let command = |arguments: &[&str]| v1::ExecStart {
            name: "alfa".into(),
            kind: v1::ExecKind::Command.into(),
            arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
            root: true,
            ..v1::ExecStart::default()
        };
        for (arguments, word) in [
            (&["chown", "-R", "secret"][..], "chown"),
            (&["psql postgres://u:secret@h"], "psql"),
            (&["PGPASSWORD=secret psql"], "PGPASSWORD"),
            (&["=secret"], "a shell"),
            (&[], "a shell"),
            (&["a\nb"], "a"),
            (&["\u{1b}[2J"], "\\u{1b}[2J"),
        ] {
            let told = told(&command(arguments));
            assert_eq!(told, format!("command as root in odoo: {word}"));
        }
        let in_postgres = v1::ExecStart {
            container: v1::ContainerRole::Postgres.into(),
            root: false,
            ..command(&["ls"])
        };
        assert_eq!(told(&in_postgres), "command in postgres: ls");
        let psql = v1::ExecStart {
            kind: v1::ExecKind::Psql.into(),
            ..command(&["-c", "select 'secret'"])
        };
        assert_eq!(told(&psql), "psql");
        assert_eq!(check_start(&psql).unwrap_err().field, "start.root");
        let elsewhere = v1::ExecStart {
            root: false,
            kind: v1::ExecKind::Shell.into(),
            ..in_postgres.clone()
        };
        assert_eq!(
            check_start(&elsewhere).unwrap_err().field,
            "start.container"
        );
        assert!(check_start(&in_postgres).is_ok());
    }
}
