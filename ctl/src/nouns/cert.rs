//! `isyctl cert`: certificates of tenants' host names.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use isyone_proto::pb::v1::{
    AddCertificateRequest, Certificate, CertificateOrigin, CertificateState, GetCertificateRequest,
    ListCertificatesRequest, RemoveCertificateRequest,
};

use crate::{
    app::App,
    clock,
    exit::{Exit, Failure, Outcome},
    options,
    output::{
        format,
        table::{Paint, Table, clean},
        wire::Wire,
    },
};

/// Largest file we send; the coordinator's limit is lower.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// `isyctl cert …`.
#[derive(Debug, Subcommand)]
pub enum CertCommand {
    /// List certificates, and host names that have none
    #[command(alias = "ls")]
    List(List),
    /// Show one, with its chain
    Show(Show),
    /// Upload a certificate of your own, or another one in its place
    Add(Add),
    /// Forget a certificate
    #[command(alias = "rm")]
    Remove(Remove),
}

/// `isyctl cert list`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  isyctl cert list\n  isyctl cert list -o json")]
pub struct List {
    /// At most this many
    #[arg(long, value_name = "N", value_parser = options::count)]
    limit: Option<usize>,
}

/// `isyctl cert show`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  isyctl cert show alfa.isy.one\n  isyctl cert show '*.isy.one' -o json"
)]
pub struct Show {
    /// The certificate's name, as listed
    name: String,
}

/// `isyctl cert add`.
#[derive(Debug, Args)]
#[command(after_help = "\
The coordinator orders no certificate for host names that this one covers, until a week before its end.

Examples:
  isyctl cert add own --certificate fullchain.pem --key privkey.pem")]
pub struct Add {
    /// A name for it: lower-case letters, digits and hyphens
    name: String,
    /// The chain, PEM: the host's certificate first, then its issuers'
    #[arg(long, value_name = "FILE")]
    certificate: PathBuf,
    /// The host certificate's private key, PEM, unencrypted
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

/// `isyctl cert remove`.
#[derive(Debug, Args)]
#[command(after_help = "\
An ordered one that is still needed is ordered anew, within the authority's limits.

Examples:
  isyctl cert remove own
  isyctl cert remove own --yes")]
pub struct Remove {
    /// The certificate's name, as listed
    name: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl CertCommand {
    pub async fn run(self, app: &App) -> Outcome {
        match self {
            Self::List(command) => command.run(app).await,
            Self::Show(command) => command.run(app).await,
            Self::Add(command) => command.run(app).await,
            Self::Remove(command) => command.run(app).await,
        }
    }
}

impl List {
    async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let certificates = client
            .pages(self.limit, |page_size, page_token| {
                let request = ListCertificatesRequest {
                    page_size,
                    page_token,
                };
                let client = &client;
                async move {
                    let page = client
                        .read("list certificates", request, |c, r| async move {
                            c.certificates().list_certificates(r).await
                        })
                        .await?;
                    Ok((page.certificates, page.next_page_token))
                }
            })
            .await?;
        let names = || certificates.iter().map(|c| c.name.clone()).collect();
        app.ui.emit(&Wire::all(&certificates), names, |_| {
            table(&certificates, clock::now_ms())
        })?;
        Ok(Exit::Done)
    }
}

fn table(certificates: &[Certificate], now_ms: i64) -> String {
    if certificates.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["NAME", "ORIGIN", "STATE", "UNTIL", "LEFT", "ERROR"]);
    for certificate in certificates {
        let left = certificate
            .not_after
            .as_ref()
            .map(isyone_proto::convert::unix_ms);
        table.row([
            certificate.name.as_str().into(),
            origin(certificate.origin).into(),
            Paint::word(state(certificate.state)),
            format::local(certificate.not_after.as_ref()).into(),
            left.map_or_else(
                || "-".to_owned(),
                |end| format::duration(end.saturating_sub(now_ms)),
            )
            .into(),
            certificate.error.as_str().into(),
        ]);
    }
    table.render()
}

fn origin(wire: i32) -> &'static str {
    match CertificateOrigin::try_from(wire) {
        Ok(CertificateOrigin::Acme) => "acme",
        Ok(CertificateOrigin::Uploaded) => "uploaded",
        Ok(CertificateOrigin::Unspecified) | Err(_) => "unknown",
    }
}

fn state(wire: i32) -> &'static str {
    match CertificateState::try_from(wire) {
        Ok(CertificateState::Valid) => "valid",
        Ok(CertificateState::RenewalFailing) => "renewal-failing",
        Ok(CertificateState::Expired) => "expired",
        Ok(CertificateState::Failing) => "failing",
        Ok(CertificateState::Unspecified) | Err(_) => "unknown",
    }
}

impl Show {
    async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let doing = format!("show certificate `{}`", clean(&self.name));
        let request = GetCertificateRequest { name: self.name };
        let certificate = client
            .read(&doing, request, |c, r| async move {
                c.certificates().get_certificate(r).await
            })
            .await?;
        app.ui.emit(
            &Wire::of(&certificate),
            || vec![certificate.name.clone()],
            |_| sheet(&certificate),
        )?;
        Ok(Exit::Done)
    }
}

fn sheet(certificate: &Certificate) -> String {
    let mut lines = vec![
        ("name", clean(&certificate.name)),
        ("origin", origin(certificate.origin).to_owned()),
        ("state", state(certificate.state).to_owned()),
    ];
    if let (Some(from), Some(until)) = (&certificate.not_before, &certificate.not_after) {
        lines.push(("hostnames", clean(&certificate.hostnames.join(", "))));
        lines.push((
            "valid",
            format!(
                "{} to {}",
                format::local(Some(from)),
                format::local(Some(until))
            ),
        ));
        lines.push(("issuer", clean(&certificate.issuer)));
        lines.push(("serial", clean(&certificate.serial)));
    }
    if certificate.failures > 0 {
        let retry = format::local(certificate.retry_time.as_ref());
        lines.push(("error", clean(&certificate.error)));
        lines.push((
            "failures",
            format!("{}, tried again {retry}", certificate.failures),
        ));
    }
    let sheet: String = lines
        .iter()
        .map(|(key, value)| format!("{key:<10} {value}\n"))
        .collect();
    sheet + &certificate.certificate_pem
}

impl Add {
    async fn run(self, app: &App) -> Outcome {
        let (certificate_pem, key_pem) = (read(&self.certificate)?, read(&self.key)?);
        let client = app.client()?;
        let doing = format!("add certificate `{}`", clean(&self.name));
        let request = client.request(AddCertificateRequest {
            name: self.name,
            certificate_pem,
            key_pem,
        });
        let added = client
            .call(&doing, client.certificates().add_certificate(request))
            .await?;
        app.ui.emit(
            &Wire::of(&added),
            || vec![added.name.clone()],
            |_| sheet(&added),
        )?;
        app.ui.note("edges serve it within seconds");
        Ok(Exit::Done)
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    let failed = |why: String| Failure::failed(format!("cannot read {}: {why}", path.display()));
    let length = fs::metadata(path).map_err(|e| failed(e.to_string()))?.len();
    if length > MAX_FILE_BYTES {
        return Err(failed(format!("{length} bytes are no certificate")));
    }
    fs::read_to_string(path).map_err(|e| failed(e.to_string()))
}

impl Remove {
    async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let name = clean(&self.name);
        let doing = format!("remove certificate `{name}`");
        let question = format!("Forget certificate {name}? Edges stop serving it.");
        if !self.yes && !app.ui.confirm(&doing, &question)? {
            app.ui.note("nothing was changed");
            return Ok(Exit::Failed);
        }
        let request = client.request(RemoveCertificateRequest { name: self.name });
        client
            .call(&doing, client.certificates().remove_certificate(request))
            .await?;
        app.ui.note(&format!("certificate {name} is forgotten"));
        Ok(Exit::Done)
    }
}
