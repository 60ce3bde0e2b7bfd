//! Replaces the CA and the sealing key of a running coordinator while everybody stays connected: what is asked for on the control socket,
//! what follows by itself, and why something does not follow yet.
//!
//! `isy-coordinator pki rotate` makes a new CA ([`Stage::Prepared`]); when all connected hosts have said that they trust it, it signs
//! ([`Stage::Switched`]) and hosts renew at once; when the overlap is over, or on `pki retire`, the old one is forgotten,
//! unless somebody would be shut out. Not here: the files of the CA (base/pki/rotation) and of the sealing key
//! (base/secrets), who may reach the socket (control).

mod bare;
pub mod control;
mod missing;
mod reseal;
mod without;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use isyone_fleet::{change::Command, event::EventKind};
use isyone_proto::tls::error_chain;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::missing::Missing;
use self::missing::Waiting;
use crate::{
    agents::{session::trust::Trusts, streams::Streams},
    backup::BackupError,
    base::{
        clock,
        pki::{Pki, PkiError, rotation::Stage},
        secrets::{SealError, Sealer},
    },
    ports::listener::Connections,
    writer::Handle,
};

/// How often we look whether something follows.
const LOOK: Duration = Duration::from_millis(500);
/// From the new CA's making until it signs, at the least: Prometheus' files are written in between.
const SETTLE_S: i64 = 2;
/// For how long both CAs are accepted, unless the order says otherwise: an operator looks at the fleet once a week.
pub const OVERLAP_S: i64 = 7 * 86_400;
/// The longest overlap: two CAs are not for ever.
const LONGEST_OVERLAP_S: i64 = 366 * 86_400;
/// How long the old sealing key is kept at the least: longer than a request that has just sealed something with it may take until
/// that is stored (operators/access).
pub const QUIET: Duration = Duration::from_secs(90);
/// Names in a message; the rest is a number.
const NAMED: usize = 20;

/// Why an order is not carried out.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error(transparent)]
    Seal(#[from] SealError),
    /// Somebody would be shut out.
    #[error("{}", refused(.what, .missing, .insist))]
    Missing {
        what: &'static str,
        missing: Vec<Missing>,
        /// The flag that goes over it, if one does.
        insist: Option<&'static str>,
    },
    /// A host that cannot be left out.
    #[error("--without {host}: it {why}")]
    Without { host: String, why: String },
    #[error("no copy of the database")]
    Backup(#[from] BackupError),
    #[error("the copy of the database ended with a panic; see the coordinator's log")]
    Panicked,
    /// A number out of its range.
    #[error("--overlap: at least a minute, at most 366 days")]
    Overlap,
}

fn refused(what: &str, missing: &[Missing], insist: &Option<&str>) -> String {
    let end = match insist {
        Some(flag) => format!("\nAll the same: {flag}"),
        None => String::new(),
    };
    format!("{what}:\n{}{end}", lines(missing))
}

fn lines(missing: &[Missing]) -> String {
    let mut text: Vec<String> = missing
        .iter()
        .take(NAMED)
        .map(|one| format!("  {one}"))
        .collect();
    if missing.len() > NAMED {
        text.push(format!("  and {} more", missing.len() - NAMED));
    }
    text.join("\n")
}

/// What it works on.
#[derive(Debug)]
pub struct Rotations {
    handle: Handle,
    pki: Arc<Pki>,
    sealer: Arc<Sealer>,
    trusts: Arc<Trusts>,
    streams: Arc<Streams>,
    connections: Arc<Connections>,
    data_dir: PathBuf,
    /// When the old sealing key may go at the earliest.
    quiet_until: Mutex<Instant>,
}

/// Parts of the coordinator that [`Rotations`] needs.
#[derive(Debug)]
pub struct Parts {
    /// The writer and its snapshots.
    pub handle: Handle,
    pub pki: Arc<Pki>,
    pub sealer: Arc<Sealer>,
    /// Which CAs hosts trust.
    pub trusts: Arc<Trusts>,
    /// Which hosts are connected.
    pub streams: Arc<Streams>,
    /// To cut those whose certificate is of the old CA.
    pub connections: Arc<Connections>,
    /// Where the control socket is.
    pub data_dir: PathBuf,
}

impl Rotations {
    pub fn new(parts: Parts) -> Self {
        Self {
            handle: parts.handle,
            pki: parts.pki,
            sealer: parts.sealer,
            trusts: parts.trusts,
            streams: parts.streams,
            connections: parts.connections,
            data_dir: parts.data_dir,
            quiet_until: Mutex::new(Instant::now() + QUIET),
        }
    }

    /// Begins to replace the CA.
    async fn rotate_ca(
        &self,
        actor: &str,
        overlap_s: i64,
        cut_off: &[Missing],
    ) -> Result<(), RotationError> {
        self.pki.prepare_rotation(overlap_s, clock::now_seconds())?;
        self.cut_bare();
        let mut message =
            "a new CA is made and trusted; the old one signs until all hosts know it".to_owned();
        if !cut_off.is_empty() {
            message = format!("{message}; refused from now on:\n{}", lines(cut_off));
        }
        self.tell(actor, message).await;
        Ok(())
    }

    /// Begins to replace the sealing key: all values are sealed anew, then the old one is removed, `quiet` later.
    async fn rotate_seal(&self, actor: &str, quiet: Duration) -> Result<(), RotationError> {
        self.sealer.rotate()?;
        *self.quiet() = Instant::now() + quiet;
        self.tell(
            actor,
            "a new sealing key is made; what is sealed is sealed anew".to_owned(),
        )
        .await;
        Ok(())
    }

    /// Lets the new CA sign, unless a host would not be believed by others then. Nobody waits for those in `without`, now
    /// or later.
    pub async fn switch(
        &self,
        actor: &str,
        force: bool,
        without: &[String],
    ) -> Result<(), RotationError> {
        let rotation = self.pki.rotation().ok_or(PkiError::NotUnderWay)?;
        let without = self.named(without)?;
        let Waiting { missing, left_out } = self.before_switch(&rotation, &without);
        if !force && !missing.is_empty() {
            return Err(RotationError::Missing {
                what: "these hosts have not said that they trust the new CA",
                missing,
                insist: Some("--force"),
            });
        }
        self.leave_out(&without)?;
        self.pki.switch(clock::now_seconds())?;
        let mut message =
            "the new CA signs; certificates of the old one are accepted still".to_owned();
        if !left_out.is_empty() {
            message = format!("{message}; without:\n{}", lines(&left_out));
        }
        self.tell(actor, message).await;
        Ok(())
    }

    /// Forgets the old CA, unless somebody still has a certificate of it. Those in `without` are shut out.
    pub async fn retire(
        &self,
        actor: &str,
        force: bool,
        without: &[String],
    ) -> Result<(), RotationError> {
        let rotation = self.pki.rotation().ok_or(PkiError::NotUnderWay)?;
        if rotation.stage == Stage::Prepared {
            return Err(PkiError::NotSwitched.into());
        }
        let without = self.named(without)?;
        let Waiting {
            mut missing,
            left_out,
        } = self.before_retire(&rotation, &without);
        if !self.an_admin_is_left() {
            return Err(RotationError::Missing {
                what: "no admin has a certificate of the new CA yet, so nobody could let anybody in afterwards",
                missing,
                insist: None,
            });
        }
        if !force && !missing.is_empty() {
            return Err(RotationError::Missing {
                what: "these would be shut out, as their certificates are of the old CA",
                missing,
                insist: Some("--force"),
            });
        }
        self.pki.retire(clock::now_seconds())?;
        let cut = self
            .connections
            .cut_unless(|shown| self.pki.signed_serial(&shown.serial_hex()));
        let mut message = format!("the old CA is forgotten; {cut} connections by it were cut");
        missing.extend(left_out);
        if !missing.is_empty() {
            message = format!("{message}; shut out:\n{}", lines(&missing));
        }
        self.tell(actor, message).await;
        Ok(())
    }

    /// Looks now and then whether something follows, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let (mut said, mut seen) = (String::new(), None);
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = stop.cancelled() => return,
            }
            let stepped = match self.step_ca().await {
                Ok(()) => self.step_seal().await,
                Err(error) => Err(error),
            };
            let hosts = &self.handle.snapshot().fleet.hosts;
            if !seen.as_ref().is_some_and(|seen| hosts.ptr_eq(seen)) {
                self.trusts.keep(|host| hosts.contains_key(host));
                seen = Some(hosts.clone());
            }
            // The same trouble is told once.
            let trouble = stepped.err().map(|e| error_chain(&e)).unwrap_or_default();
            if said != trouble && !trouble.is_empty() {
                tracing::warn!("{trouble}");
            }
            said = trouble;
        }
    }

    async fn step_ca(&self) -> Result<(), RotationError> {
        let Some(rotation) = self.pki.rotation() else {
            return Ok(());
        };
        let now_s = clock::now_seconds();
        match rotation.stage {
            Stage::Prepared if now_s < rotation.prepared_at + SETTLE_S => Ok(()),
            Stage::Prepared => match self.switch("coordinator", false, &[]).await {
                // Hosts come and go; `pki status` names them.
                Err(RotationError::Missing { .. }) => Ok(()),
                other => other,
            },
            Stage::Switched | Stage::Retiring
                if rotation.ends_at().is_some_and(|end| now_s >= end) =>
            {
                self.retire("coordinator", false, &[]).await
            }
            Stage::Switched | Stage::Retiring => Ok(()),
        }
    }

    async fn step_seal(&self) -> Result<(), RotationError> {
        if !self.sealer.has_two() || !reseal::pass(&self.handle, &self.sealer).await {
            return Ok(());
        }
        if Instant::now() >= *self.quiet() {
            self.sealer.forget_old()?;
            self.tell("coordinator", "the old sealing key is removed".to_owned())
                .await;
        }
        Ok(())
    }

    fn quiet(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.quiet_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// An audit record. What was done stands without it.
    async fn tell(&self, actor: &str, message: String) {
        tracing::info!(actor, "{message}");
        let kind = EventKind::KeysReplaced;
        let note = Command::Note {
            kind,
            host: None,
            message,
        };
        if let Err(error) = self.handle.submit_patiently(actor, note).await {
            tracing::warn!("no event was recorded: {error}");
        }
    }
}
