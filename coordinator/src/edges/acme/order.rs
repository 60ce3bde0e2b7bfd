//! One order, from the name to the certificate: account, challenge, CSR, chain.
//!
//! Not here: when to order (isyone_fleet::orders), and what happens to the result (mod.rs).

use std::{path::Path, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Error, ExternalAccountKey,
    Identifier, NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use isyone_fleet::{change::Command, desired::certificates::AcmeAccount};
use isyone_proto::tls;
use zeroize::Zeroizing;

use super::{
    Acme,
    client::{Https, RETRY_AFTER},
    hook,
};
use crate::base::secrets;

/// From the challenge to the verdict, and from the CSR to the certificate: CAs check within seconds, busy ones within a
/// minute.
const PATIENCE: Duration = Duration::from_secs(90);
/// A whole order except the operator's `dns_wait` and hook.
const ORDER_TIMEOUT: Duration = Duration::from_secs(300);
/// Wait when the CA says "too many" but not until when.
const RATE_LIMITED_S: u64 = 3_600;

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// The name's: only this name is retried.
    Name,
    /// The CA's, or the path to it: other names would fail now, too.
    Authority,
    /// The CA does not know our account (any more).
    Account,
}

/// Why we got no certificate.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) whose: Whose,
    /// What went wrong, for operators.
    pub(crate) why: String,
    /// When the CA wants us to retry, in seconds from now.
    pub(crate) retry_after_s: Option<u64>,
}

impl Failure {
    fn of_name(why: impl ToString) -> Self {
        Self {
            whose: Whose::Name,
            why: why.to_string(),
            retry_after_s: None,
        }
    }

    fn of_authority(why: impl ToString) -> Self {
        Self {
            whose: Whose::Authority,
            why: why.to_string(),
            retry_after_s: None,
        }
    }
}

/// A certificate fresh from the CA.
pub(crate) struct Issued {
    pub(crate) chain_pem: String,
    pub(crate) key_pem: Zeroizing<String>,
}

/// Our account: the stored one if it belongs to this directory and is not `lost`; otherwise a new one, stored before
/// use.
pub(crate) async fn account(acme: &Acme, lost: bool) -> Result<Account, Failure> {
    let settings = &acme.config.tls.acme;
    let data_dir = &acme.config.data_dir;
    let https = Https::new(
        settings
            .ca_file
            .as_ref()
            .map(|file| data_dir.join(file))
            .as_deref(),
    )
    .map_err(Failure::of_authority)?;
    let builder = Account::builder_with_http(Box::new(https));
    let state = acme.handle.snapshot();
    let stored = state
        .fleet
        .acme_account
        .as_ref()
        .filter(|known| !lost && known.directory == settings.directory);
    if let Some(stored) = stored {
        let json = acme
            .sealer
            .open(secrets::ACME_ACCOUNT, &stored.credentials)
            .map_err(Failure::of_authority)?;
        let credentials: AccountCredentials =
            serde_json::from_slice(&json).map_err(Failure::of_authority)?;
        return builder
            .from_credentials(credentials)
            .await
            .map_err(Failure::of_authority);
    }
    let external = external_account(
        settings.eab_key_id.as_deref(),
        settings.eab_hmac_file.as_deref(),
        data_dir,
    )?;
    let contact = settings
        .email
        .as_ref()
        .map(|email| format!("mailto:{email}"));
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let wanted = NewAccount {
        contact: &contact,
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let (account, credentials) = builder
        .create(&wanted, settings.directory.clone(), external.as_ref())
        .await
        .map_err(|e| Failure {
            whose: Whose::Authority,
            ..failure(e)
        })?;
    let json = Zeroizing::new(serde_json::to_vec(&credentials).map_err(Failure::of_authority)?);
    let credentials = acme.sealer.seal(secrets::ACME_ACCOUNT, &json);
    let made = AcmeAccount {
        directory: settings.directory.clone(),
        credentials,
    };
    let submitted = acme
        .handle
        .submit_patiently("coordinator", Command::PutAcmeAccount(Box::new(made)))
        .await;
    submitted.map_err(Failure::of_authority)?;
    Ok(account)
}

fn external_account(
    key_id: Option<&str>,
    file: Option<&Path>,
    data_dir: &Path,
) -> Result<Option<ExternalAccountKey>, Failure> {
    let (Some(key_id), Some(file)) = (key_id, file) else {
        return Ok(None);
    };
    let path = data_dir.join(file);
    let text = std::fs::read_to_string(&path).map_err(|e| {
        Failure::of_authority(format!("{} (tls.acme.eab_hmac_file): {e}", path.display()))
    })?;
    let text = Zeroizing::new(text);
    let secret = URL_SAFE_NO_PAD
        .decode(text.trim().trim_end_matches('='))
        .map_err(|_| Failure::of_authority(format!("{} is not base64url", path.display())))?;
    Ok(Some(ExternalAccountKey::new(
        key_id.to_owned(),
        &Zeroizing::new(secret),
    )))
}

/// Orders a certificate for a name.
pub(crate) async fn issue(acme: &Acme, account: &Account, name: &str) -> Result<Issued, Failure> {
    let dns = if name.starts_with('*') {
        acme.config.tls.acme.dns_wait.get() + PATIENCE * 4
    } else {
        Duration::ZERO
    };
    let order = RETRY_AFTER.scope(Default::default(), async {
        let issued = carry_out(acme, account, name).await;
        issued.map_err(|mut failure| {
            failure.retry_after_s = failure
                .retry_after_s
                .or_else(|| RETRY_AFTER.with(std::cell::Cell::get));
            failure
        })
    });
    match tokio::time::timeout(ORDER_TIMEOUT + dns, order).await {
        Ok(issued) => issued,
        Err(_) => Err(Failure::of_name("the order did not end in time")),
    }
}

async fn carry_out(acme: &Acme, account: &Account, name: &str) -> Result<Issued, Failure> {
    let identifiers = [Identifier::Dns(name.to_owned())];
    let mut order = account
        .new_order(&NewOrder::new(&identifiers))
        .await
        .map_err(failure)?;
    prove(acme, &mut order, name).await?;
    // A fresh key for each certificate: a leaked one is worthless after the next renewal.
    let key = rcgen::KeyPair::generate().map_err(Failure::of_name)?;
    let mut params = rcgen::CertificateParams::new([name.to_owned()]).map_err(Failure::of_name)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(Failure::of_name)?;
    order.finalize_csr(request.der()).await.map_err(failure)?;
    let chain_pem = order.poll_certificate(&patience()).await.map_err(failure)?;
    Ok(Issued {
        chain_pem,
        key_pem: Zeroizing::new(key.serialize_pem()),
    })
}

fn patience() -> RetryPolicy {
    RetryPolicy::new().timeout(PATIENCE)
}

/// Proves to the CA that the name is ours.
async fn prove(acme: &Acme, order: &mut Order, name: &str) -> Result<(), Failure> {
    let mut answered = Vec::new();
    let mut record = None;
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(failure)?;
        match authorization.status {
            AuthorizationStatus::Pending => {}
            // Proven not long ago.
            AuthorizationStatus::Valid => continue,
            other => return Err(Failure::of_name(format!("the authorization is {other:?}"))),
        }
        let kind = if authorization.wildcard {
            ChallengeType::Dns01
        } else {
            ChallengeType::Http01
        };
        let offered = authorization.challenge(kind);
        let mut challenge =
            offered.ok_or_else(|| Failure::of_name("the authority offers no fitting challenge"))?;
        let answer = challenge.key_authorization();
        if challenge.r#type == ChallengeType::Dns01 {
            record = Some(Record::put_up(acme, name, answer.dns_value()).await?);
        } else {
            answered.push(acme.challenges.put(&challenge.token, answer.as_str()));
        }
        challenge.set_ready().await.map_err(failure)?;
    }
    let ready = order.poll_ready(&patience()).await;
    if let Some(record) = record {
        record.take_down().await;
    }
    drop(answered);
    match ready.map_err(failure) {
        Ok(OrderStatus::Ready | OrderStatus::Valid) => Ok(()),
        Ok(_) => Err(refused(order).await),
        // The challenge's error says more than the order's own.
        Err(told) if told.whose == Whose::Name => Err(Failure {
            retry_after_s: told.retry_after_s,
            ..refused(order).await
        }),
        Err(told) => Err(told),
    }
}

/// The errors that the CA reported.
async fn refused(order: &mut Order) -> Failure {
    let mut found = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if let Ok(state) = authorization.refresh().await {
            let problems = state
                .challenges
                .iter()
                .filter_map(|challenge| challenge.error.as_ref());
            found.extend(problems.map(|p| p.detail.clone().unwrap_or_else(|| p.to_string())));
        }
    }
    Failure::of_name(match found.is_empty() {
        true => "the authority refused without saying why".to_owned(),
        false => found.join("; "),
    })
}

/// A DNS record that exists now.
struct Record {
    program: std::path::PathBuf,
    name: String,
    value: String,
}

impl Record {
    /// Creates the record and waits until it has propagated.
    async fn put_up(acme: &Acme, name: &str, value: String) -> Result<Self, Failure> {
        let settings = &acme.config.tls.acme;
        let hook = settings
            .dns_hook
            .as_ref()
            .ok_or_else(|| Failure::of_name("tls.acme.dns_hook is not set"))?;
        let record = Self {
            program: acme.config.data_dir.join(hook),
            name: hook::record(name),
            value,
        };
        let called = hook::call(&record.program, "present", &record.name, &record.value).await;
        called.map_err(Failure::of_name)?;
        tokio::time::sleep(settings.dns_wait.get()).await;
        Ok(record)
    }

    /// A record that is left behind does no harm.
    async fn take_down(self) {
        if let Err(error) = hook::call(&self.program, "cleanup", &self.name, &self.value).await {
            tracing::warn!(record = self.name, %error, "the DNS record stays");
        }
    }
}

/// Classifies the library's error.
fn failure(error: Error) -> Failure {
    let problem = match error {
        Error::Api(problem) => problem,
        Error::Timeout(_)
        | Error::Unsupported(_)
        | Error::Str(_)
        | Error::Crypto
        | Error::KeyRejected => {
            return Failure::of_name(error);
        }
        // The CA was unreachable, or did not speak ACME.
        other => return Failure::of_authority(tls::error_chain(&other)),
    };
    let kind = problem
        .r#type
        .as_deref()
        .and_then(|t| t.strip_prefix("urn:ietf:params:acme:error:"))
        .unwrap_or("");
    let (whose, retry_after_s) = match kind {
        "accountDoesNotExist" => (Whose::Account, None),
        "rateLimited" => (
            Whose::Name,
            RETRY_AFTER
                .try_with(std::cell::Cell::get)
                .ok()
                .flatten()
                .or(Some(RATE_LIMITED_S)),
        ),
        "serverInternal" | "badNonce" | "externalAccountRequired" | "userActionRequired" => {
            (Whose::Authority, None)
        }
        _ if problem.status.is_some_and(|status| status >= 500) => (Whose::Authority, None),
        _ => (Whose::Name, None),
    };
    Failure {
        whose,
        why: problem.to_string(),
        retry_after_s,
    }
}

/// The account that orders share, made on first use.
#[derive(Default)]
pub(crate) struct SharedAccount(tokio::sync::Mutex<Option<Account>>);

impl SharedAccount {
    /// Orders with the shared account; replaces it when the CA does not know it.
    pub(crate) async fn issue(
        self: Arc<Self>,
        acme: Arc<Acme>,
        name: String,
    ) -> (String, Result<Issued, Failure>) {
        let account = {
            let mut shared = self.0.lock().await;
            match &*shared {
                Some(account) => Ok(account.clone()),
                None => account(&acme, false)
                    .await
                    .inspect(|account| *shared = Some(account.clone())),
            }
        };
        let issued = match account {
            Ok(account) => match issue(&acme, &account, &name).await {
                Err(failure) if failure.whose == Whose::Account => {
                    self.again(&acme, &account, &name).await
                }
                issued => issued,
            },
            Err(failure) => Err(failure),
        };
        (name, issued)
    }

    /// Tries again with a new account, unless another order has made one meanwhile.
    async fn again(&self, acme: &Acme, lost: &Account, name: &str) -> Result<Issued, Failure> {
        let fresh = {
            let mut shared = self.0.lock().await;
            match &*shared {
                Some(other) if other.id() != lost.id() => other.clone(),
                _ => {
                    tracing::warn!(
                        account = lost.id(),
                        "the certificate authority does not know our account; making another"
                    );
                    let made = account(acme, true).await?;
                    *shared = Some(made.clone());
                    made
                }
            }
        };
        issue(acme, &fresh, name).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(kind: &str, status: Option<u16>) -> Failure {
        let problem = serde_json::json!({"type": format!("urn:ietf:params:acme:error:{kind}"), "detail": "d", "status": status});
        failure(Error::Api(serde_json::from_value(problem).unwrap()))
    }

    #[test]
    fn failures_are_laid_at_the_right_door() {
        assert_eq!(api("unauthorized", Some(403)).whose, Whose::Name);
        assert_eq!(api("dns", None).whose, Whose::Name);
        assert_eq!(api("accountDoesNotExist", Some(400)).whose, Whose::Account);
        assert_eq!(api("serverInternal", Some(500)).whose, Whose::Authority);
        assert_eq!(api("other", Some(503)).whose, Whose::Authority);
        let limited = api("rateLimited", Some(429));
        assert_eq!(
            (limited.whose, limited.retry_after_s),
            (Whose::Name, Some(RATE_LIMITED_S))
        );
        assert_eq!(
            failure(Error::Other("connection refused".into())).whose,
            Whose::Authority
        );
        assert_eq!(failure(Error::Timeout(None)).whose, Whose::Name);
    }

    #[test]
    fn an_external_account_needs_a_readable_secret() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("good"), "c2VjcmV0\n").unwrap();
        std::fs::write(dir.path().join("bad"), "s e c r e t").unwrap();
        let read = |file: &str| external_account(Some("id"), Some(Path::new(file)), dir.path());
        assert!(read("good").is_ok_and(|key| key.is_some()));
        assert!(
            read("bad").is_err_and(|f| f.why.contains("base64url") && !f.why.contains("s e c"))
        );
        assert!(read("missing").is_err_and(|f| f.why.contains("eab_hmac_file")));
        assert!(external_account(None, None, dir.path()).is_ok_and(|key| key.is_none()));
    }
}
