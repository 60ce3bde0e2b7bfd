//! A short program in a tenant's containers whose output is ours to read, such as a script in Odoo's shell. What it prints is the
//! tenant's word: bounded here, judged by who asked.
//!
//! Not here: commands whose output is the operator's (exec).

use std::time::Duration;

use isyone_proto::pb::v1::{
    ExecKind, ExecRequest, ExecResponse, ExecStart, exec_request::Message as In,
    exec_response::Message as Out,
};
use tokio_stream::StreamExt as _;
use tonic::Code;

use crate::{client::Client, exit::Failure};

/// An Odoo that starts on a busy host with a small plan's CPU takes half of this.
const MAX_TIME: Duration = Duration::from_secs(60);
/// What is read of its answer, and as much of what it says beside it.
const MAX_SAID_BYTES: usize = 64 << 10;

/// What it said.
#[derive(Debug, Default)]
pub struct Said {
    pub out: String,
    pub err: String,
    pub code: i32,
}

/// Why it said nothing.
#[derive(Debug)]
pub enum Unsaid {
    /// Whoever asks may not run commands.
    Denied(Failure),
    Failed(Failure),
}

impl Unsaid {
    /// For whom both are failures.
    pub fn failure(self) -> Failure {
        match self {
            Self::Denied(failure) | Self::Failed(failure) => failure,
        }
    }
}

/// Has Odoo's shell, beside the running Odoo, carry out a script on the tenant's database.
pub async fn script(
    client: &Client,
    doing: &str,
    tenant: &str,
    script: &str,
) -> Result<Said, Unsaid> {
    run(
        client,
        doing,
        start(tenant, ExecKind::OdooShell, &[]),
        script,
    )
    .await
}

/// Asks the tenant's database.
pub async fn query(client: &Client, doing: &str, tenant: &str, sql: &str) -> Result<Said, Unsaid> {
    run(
        client,
        doing,
        start(tenant, ExecKind::Psql, &["-XAtqc", sql]),
        "",
    )
    .await
}

fn start(tenant: &str, kind: ExecKind, arguments: &[&str]) -> ExecStart {
    ExecStart {
        name: tenant.to_owned(),
        kind: kind.into(),
        arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
        ..ExecStart::default()
    }
}

async fn run(client: &Client, doing: &str, start: ExecStart, input: &str) -> Result<Said, Unsaid> {
    let late = || {
        Failure::failed(format!(
            "cannot {doing}: no answer within {} s",
            MAX_TIME.as_secs()
        ))
    };
    match tokio::time::timeout(MAX_TIME, converse(client, doing, start, input)).await {
        Ok(said) => said,
        Err(_) => Err(Unsaid::Failed(late())),
    }
}

async fn converse(
    client: &Client,
    doing: &str,
    start: ExecStart,
    input: &str,
) -> Result<Said, Unsaid> {
    let asked = [
        In::Start(start),
        In::Stdin(input.as_bytes().to_vec()),
        In::StdinEof(true),
    ];
    let requests = asked.map(|message| ExecRequest {
        message: Some(message),
    });
    // It stays open as a keyboard does: who hangs up has gone.
    let requests = tokio_stream::iter(requests).chain(tokio_stream::pending());
    let opened = client.open(doing, client.tenants().exec(requests)).await;
    let mut remote = match opened.map_err(Unsaid::Failed)? {
        Ok(remote) => remote,
        Err(status) if status.code() == Code::PermissionDenied => {
            return Err(Unsaid::Denied(client.failure(doing, &status)));
        }
        Err(status) => return Err(Unsaid::Failed(client.failure(doing, &status))),
    };
    let (mut out, mut err, mut code) = (Vec::new(), Vec::new(), None);
    while code.is_none() {
        let next = remote.message().await;
        let next = next.map_err(|status| Unsaid::Failed(client.failure(doing, &status)))?;
        let Some(ExecResponse { message }) = next else {
            break;
        };
        match message {
            Some(Out::Stdout(bytes)) => keep(&mut out, &bytes),
            Some(Out::Stderr(bytes)) => keep(&mut err, &bytes),
            Some(Out::ExitCode(ended)) => code = Some(ended),
            None => {} // of a newer protocol
        }
    }
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Said {
        out: text(out),
        err: text(err),
        code: code.unwrap_or(-1),
    })
}

fn keep(kept: &mut Vec<u8>, bytes: &[u8]) {
    let room = MAX_SAID_BYTES.saturating_sub(kept.len());
    kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
}
