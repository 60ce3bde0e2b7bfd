//! How a tenant's Odoo sends mail, and what its host's catcher has kept: `SetMail` and `ReadMail` of `TenantService`.
//!
//! Not here: which settings count (isyone_fleet::views), what becomes of them on the host (its agent).

use isyone_fleet::{
    change::{Command, Outcome, SetMail},
    desired::{Sealed, Tenant},
    event::EventKind,
};
use isyone_proto::{
    convert,
    echo::echo,
    error::FieldError,
    mail::{Mail, Relay, check_password},
    pb::{
        agent::v1::{attach_up, open_stream::Target},
        v1,
    },
    plan::{Secret, TenantSecrets},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use zeroize::Zeroizing;

use super::{
    Answers, Api, STREAM_QUEUE,
    exec::{MAX_CHUNK, pump},
    request_id, tenant_name,
    tenants::unexpected,
};
use crate::{base::secrets, wire::status};

/// Longest id of a message: a time and a number.
const MAX_ID: usize = 32;

impl Api {
    pub(super) async fn change_mail(
        &self,
        actor: String,
        asked: v1::SetMailRequest,
    ) -> Result<v1::Operation, Status> {
        let name = tenant_name(&asked.name)?;
        let mail = match &asked.settings {
            Some(settings) => Some(convert::mail(settings).map_err(|e| e.within("settings"))?),
            None => None,
        };
        let request_id = request_id(asked.request_id)?;
        let given = asked.password.filter(|text| !text.is_empty());
        if let Some(text) = &given {
            check_password(text).map_err(|e| FieldError::new("password", e.to_string()))?;
        }
        let state = self.state();
        let tenant = self.tenant(&state, &name)?;
        let command = SetMail {
            secrets: self.with_password(tenant, mail.as_ref(), given)?,
            name,
            mail,
            request_id,
        };
        let command = Command::SetMail(Box::new(command));
        let outcome = self.parts.handle.submit(actor, command).await;
        match outcome.map_err(status::submit)? {
            Outcome::Operation(operation) => Ok(self.shown_operation(&self.state(), &operation)),
            other => Err(unexpected(&other)),
        }
    }

    /// The tenant's sealed passwords as they are and as they are to be; `None`: they stay.
    fn with_password(
        &self,
        tenant: &Tenant,
        mail: Option<&Mail>,
        given: Option<String>,
    ) -> Result<Option<(Sealed, Sealed)>, Status> {
        let sealer = &self.parts.sealer;
        let secrets = sealer.open_secrets(tenant).map_err(|e| status::seal(&e))?;
        let known = &secrets.mail_password;
        let password = password(tenant.mail.as_deref(), known, mail, given)?;
        if password == *known {
            return Ok(None);
        }
        let secrets = TenantSecrets {
            mail_password: password,
            ..secrets
        };
        // Serialising plain data cannot fail.
        let json = Zeroizing::new(serde_json::to_vec(&secrets).unwrap_or_default());
        let record = secrets::record(tenant.name.as_str(), tenant.uid);
        let sealed = sealer.seal(&record, &json);
        Ok(Some((tenant.secrets.clone(), sealed)))
    }

    pub(super) async fn caught_mail(
        &self,
        actor: String,
        asked: v1::ReadMailRequest,
    ) -> Result<Answers<v1::CaughtMail>, Status> {
        let name = tenant_name(&asked.name)?;
        let is_id = |text: &str| {
            text.len() <= MAX_ID && text.bytes().all(|b| b.is_ascii_digit() || b == b'-')
        };
        if !is_id(&asked.id) {
            let problem = format!("`{}` is no message's id", echo(&asked.id));
            return Err(FieldError::new("id", problem).into());
        }
        let host = self.host_of(&name)?;
        // Whoever reads a link that resets a password can be anybody there.
        if !asked.id.is_empty() {
            let audit = Command::Audit {
                kind: EventKind::TenantMailRead,
                tenant: name,
                message: asked.id.clone(),
            };
            let recorded = self.parts.handle.submit(actor, audit).await;
            recorded.map_err(status::submit)?;
        }
        let bridge = self.parts.streams.open(&host, Target::Mail(asked)).await?;
        let (caller, answers) = mpsc::channel(STREAM_QUEUE);
        tokio::spawn(pump(bridge, caller, self.parts.stop.clone(), piece));
        Ok(Box::pin(ReceiverStream::new(answers)))
    }
}

/// The password that goes with settings, of which `given` is checked and not empty. One that is there stays only at the same server, port and login, encrypted as before:
/// whoever may change settings must not have it sent elsewhere, or where others read it.
fn password(
    was: Option<&Mail>,
    known: &Secret,
    mail: Option<&Mail>,
    given: Option<String>,
) -> Result<Secret, FieldError> {
    let known_to = |mail: Option<&Mail>| {
        let relay = mail?.relay()?;
        relay.user.is_some().then(|| relay.clone())
    };
    match (known_to(mail), given) {
        (None, None) => Ok(Secret::default()),
        (None, Some(_)) => Err(FieldError::new("password", "only with settings.user")),
        (Some(_), Some(text)) => Ok(Secret::new(text)),
        (Some(now), None)
            if !known.is_empty() && known_to(was).is_some_and(|was| is_as_safe(&was, &now)) =>
        {
            Ok(known.clone())
        }
        (Some(_), None) => Err(FieldError::new(
            "password",
            "must be given with another server, port, login or encryption, and when certificates are no longer looked at",
        )),
    }
}

/// Whether a password goes to the same server by a way on which no more people can read it.
fn is_as_safe(was: &Relay, now: &Relay) -> bool {
    let place = |relay: &Relay| (relay.host.clone(), relay.port, relay.user.clone());
    let is_verified_still = was.unverified || !now.unverified;
    place(was) == place(now) && was.tls == now.tls && is_verified_still
}

fn piece(message: attach_up::Message) -> Result<v1::CaughtMail, Status> {
    match message {
        attach_up::Message::Mail(mail) if mail.data.len() <= MAX_CHUNK => Ok(mail),
        _ => Err(Status::internal("the agent sent something that is no mail")),
    }
}

#[cfg(test)]
mod tests {
    use isyone_proto::mail::{MailTls, Via};

    use super::*;

    fn relay(host: &str, user: &str) -> Mail {
        let wire = v1::MailSettings {
            kind: v1::MailKind::Relay.into(),
            host: host.to_owned(),
            user: user.to_owned(),
            ..v1::MailSettings::default()
        };
        convert::mail(&wire).unwrap()
    }

    #[test]
    fn a_password_stays_with_its_server_and_login_only() {
        let known = Secret::new("hunter2");
        let was = relay("smtp.example.com", "u");
        let decide = |mail: Option<&Mail>, given: Option<&str>| {
            password(Some(&was), &known, mail, given.map(ToOwned::to_owned))
        };
        assert_eq!(decide(Some(&was), None).unwrap(), known);
        let anew = decide(Some(&was), Some("other")).unwrap();
        assert_eq!(anew.expose(), "other");
        for other in [
            relay("smtp.evil.example", "u"),
            relay("smtp.example.com", "v"),
        ] {
            let said = decide(Some(&other), None).unwrap_err();
            assert_eq!(said.field, "password");
            assert!(decide(Some(&other), Some("x")).is_ok());
        }
        // And with nothing by which more people could read it on its way.
        let changed = |change: &dyn Fn(&mut Relay)| {
            let mut mail = was.clone();
            if let Via::Relay(relay) = &mut mail.via {
                change(relay);
            }
            decide(Some(&mail), None)
        };
        assert!(changed(&|r| r.port = 2525).is_err());
        assert!(changed(&|r| r.tls = MailTls::None).is_err());
        assert!(changed(&|r| r.unverified = true).is_err());
        assert!(changed(&|_| {}).is_ok());
        for none in [
            None,
            Some(&Mail::by(Via::Catcher)),
            Some(&relay("smtp.example.com", "")),
        ] {
            assert!(decide(none, None).unwrap().is_empty());
            assert!(decide(none, Some("x")).is_err());
        }
        let said = check_password("a\nsecret").unwrap_err();
        assert!(!said.to_string().contains("secret"));
    }
}
