//! Keeps a context up with the coordinator's CAs, while one follows the other: the ones to trust, and a certificate of the one that
//! signs. A context that is used at all in that time never falls behind.
//!
//! Not here: noticing it (client), the file (context).

use std::{path::Path, time::Duration};

use isyone_proto::{
    pb::v1::{GetTrustRequest, ResignCertificateRequest},
    tls,
};

use crate::{client::Client, context::Context, exit::Failure, output::Ui};

/// For both calls together: the command itself has ended.
const PATIENCE: Duration = Duration::from_secs(10);
/// A bundle has one or two CAs of less than a kilobyte each.
const MAX_CA_BYTES: usize = 64 << 10;

/// Writes down what has changed, and says so; what cannot be done is said, too.
pub async fn keep_up(client: &Client, path: &Path, ui: &Ui) {
    let done = tokio::time::timeout(PATIENCE, renew(client, path)).await;
    match done {
        Ok(Ok(what)) => ui.note(&format!("{}: {what}", path.display())),
        Ok(Err(failure)) => ui.note(&format!(
            "warning: the coordinator's CA is being replaced, and {} does not keep up: {}; without that it will not be let in afterwards",
            path.display(),
            failure.message
        )),
        Err(_) => ui.detail(|| "the coordinator's CAs: no answer in time".to_owned()),
    }
}

async fn renew(client: &Client, path: &Path) -> Result<&'static str, Failure> {
    // The file behind a link, not the link.
    let path = std::fs::canonicalize(path)
        .map_err(|e| Failure::failed(format!("cannot find {}: {e}", path.display())))?;
    // As it is now: another command may have kept it up meanwhile.
    let (mut context, _) = Context::read(&path)?;
    if context.certificate_pem != client.context().certificate_pem {
        return Ok("another command has kept this context up with the coordinator's CA");
    }
    let doing = "learn the coordinator's CAs";
    let trust = client
        .call(
            doing,
            client
                .system()
                .get_trust(client.request(GetTrustRequest {})),
        )
        .await?;
    let unusable = |e: tls::TlsError| Failure::failed(format!("cannot {doing}: {e}"));
    if trust.ca_pem.len() > MAX_CA_BYTES {
        return Err(Failure::failed(format!("cannot {doing}: too long")));
    }
    if trust.ca_pem != context.ca_pem {
        context.ca_pem = trust.ca_pem;
        store(&context, &path)?;
    }
    let request = ResignCertificateRequest {
        certificate_pem: context.certificate_pem.clone(),
        csr_pem: tls::csr_for(&context.key_pem, &context.name).map_err(unusable)?,
    };
    let mut system = client.system();
    let signed = system.resign_certificate(client.request(request)).await;
    match signed {
        Ok(signed) => {
            let signed = signed.into_inner();
            context.certificate_pem = signed.certificate_pem;
            context.ca_pem = signed.ca_pem;
            store(&context, &path)?;
            Ok(
                "the coordinator's CA is being replaced; this context has a certificate of the new one",
            )
        }
        // The new CA does not sign yet, or has signed this already.
        Err(status) if status.code() == tonic::Code::FailedPrecondition => {
            Ok("the coordinator's CAs have changed, and this context trusts them")
        }
        Err(status) => Err(client.failure("get a certificate of the new CA", &status)),
    }
}

/// Replaces the file, unless what is new cannot be used.
fn store(context: &Context, path: &Path) -> Result<(), Failure> {
    tls::client_config(&context.ca_pem, &context.certificate_pem, &context.key_pem)
        .map_err(|e| Failure::failed(format!("the coordinator's answer cannot be used: {e}")))?;
    context.write(path, true)
}
