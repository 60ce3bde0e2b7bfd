//! Settings of mail: wire to checked types and back.
//!
//! Not here: what becomes of them (the agent), messages that were caught (the agent's link).

use super::{parse, parse_optional, port};
use crate::{
    error::FieldError,
    mail::{
        MAX_PER_DAY, MAX_SENDERS, Mail, MailHost, MailTls, MailUser, Relay, Via, check_password,
    },
    pb::v1,
    plan::Secret,
};

impl From<MailTls> for v1::MailTls {
    fn from(tls: MailTls) -> Self {
        match tls {
            MailTls::None => Self::None,
            MailTls::Starttls => Self::Starttls,
            MailTls::Tls => Self::Tls,
        }
    }
}

impl From<&Mail> for v1::MailSettings {
    fn from(mail: &Mail) -> Self {
        let common = Self {
            sender_domain: text(mail.sender_domain.as_ref()),
            from_filter: mail.from_filter.iter().map(ToString::to_string).collect(),
            alias_domain: text(mail.alias_domain.as_ref()),
            per_day: mail.per_day,
            ..Self::default()
        };
        let kind = |kind: v1::MailKind| kind.into();
        match &mail.via {
            Via::Nobody => Self {
                kind: kind(v1::MailKind::None),
                ..common
            },
            Via::Catcher => Self {
                kind: kind(v1::MailKind::Catcher),
                ..common
            },
            Via::Relay(relay) => Self {
                kind: kind(v1::MailKind::Relay),
                host: relay.host.to_string(),
                port: relay.port.into(),
                tls: v1::MailTls::from(relay.tls).into(),
                unverified: relay.unverified,
                user: text(relay.user.as_ref()),
                ..common
            },
        }
    }
}

fn text(value: Option<&impl ToString>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

/// Parses settings of mail. A kind or an encryption that this version does not know is refused: neither may become less than was meant.
pub fn mail(wire: &v1::MailSettings) -> Result<Mail, FieldError> {
    // What is wrong by itself is named before what does not go together.
    let host = parse_optional("host", &wire.host)?;
    let user = parse_optional("user", &wire.user)?;
    let sender_domain = parse_optional("sender_domain", &wire.sender_domain)?;
    let alias_domain = parse_optional("alias_domain", &wire.alias_domain)?;
    if wire.from_filter.len() > MAX_SENDERS {
        return Err(FieldError::new(
            "from_filter",
            format!("more than {MAX_SENDERS}"),
        ));
    }
    let senders = wire.from_filter.iter();
    let from_filter = senders
        .map(|sender| parse("from_filter", sender))
        .collect::<Result<_, _>>()?;
    let via = match v1::MailKind::try_from(wire.kind) {
        Ok(v1::MailKind::None) => Via::Nobody,
        Ok(v1::MailKind::Catcher) => Via::Catcher,
        Ok(v1::MailKind::Relay) => Via::Relay(relay(wire, host, user)?),
        Ok(v1::MailKind::Unspecified) | Err(_) => {
            return Err(FieldError::new("kind", "must be none, relay or catcher"));
        }
    };
    let others = [
        ("host", !wire.host.is_empty()),
        ("port", wire.port != 0),
        ("tls", wire.tls != 0),
        ("unverified", wire.unverified),
        ("user", !wire.user.is_empty()),
    ];
    let stray = others.iter().find(|(_, is_set)| *is_set);
    if let (Some((field, _)), Via::Nobody | Via::Catcher) = (stray, &via) {
        return Err(FieldError::new(*field, "only for a relay"));
    }
    if wire.per_day > MAX_PER_DAY {
        return Err(FieldError::new(
            "per_day",
            format!("at most {MAX_PER_DAY}; 0 for no limit"),
        ));
    }
    Ok(Mail {
        via,
        sender_domain,
        from_filter,
        alias_domain,
        per_day: wire.per_day,
    })
}

fn relay(
    wire: &v1::MailSettings,
    host: Option<MailHost>,
    user: Option<MailUser>,
) -> Result<Relay, FieldError> {
    let tls = match v1::MailTls::try_from(wire.tls) {
        Ok(v1::MailTls::Unspecified | v1::MailTls::Starttls) => MailTls::Starttls,
        Ok(v1::MailTls::None) => MailTls::None,
        Ok(v1::MailTls::Tls) => MailTls::Tls,
        Err(_) => return Err(FieldError::new("tls", "must be none, starttls or tls")),
    };
    Ok(Relay {
        host: host.ok_or_else(|| FieldError::new("host", "must be set for a relay"))?,
        port: match wire.port {
            0 => tls.port(),
            said => port("port", said)?,
        },
        tls,
        unverified: wire.unverified,
        user,
    })
}

/// The same of a field that may be unset.
pub(super) fn optional(
    field: &str,
    wire: Option<v1::MailSettings>,
) -> Result<Option<Mail>, FieldError> {
    let parsed = wire.map(|wire| mail(&wire)).transpose();
    parsed.map_err(|e| e.within(field))
}

/// A mail server's password; empty for none.
pub(super) fn password(field: &str, text: String) -> Result<Secret, FieldError> {
    if !text.is_empty() {
        check_password(&text).map_err(|e| FieldError::new(field, e.to_string()))?;
    }
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> v1::MailSettings {
        v1::MailSettings {
            kind: v1::MailKind::Relay.into(),
            host: "smtp.example.com".to_owned(),
            port: 587,
            tls: v1::MailTls::Starttls.into(),
            unverified: true,
            user: "apikey".to_owned(),
            sender_domain: "isy.one".to_owned(),
            from_filter: vec!["isy.one".to_owned(), "books@example.com".to_owned()],
            alias_domain: "in.isy.one".to_owned(),
            per_day: 1_000,
        }
    }

    #[test]
    fn all_of_it_survives_the_wire() {
        for wire in [
            full(),
            v1::MailSettings {
                kind: v1::MailKind::Catcher.into(),
                ..v1::MailSettings::default()
            },
            v1::MailSettings {
                kind: v1::MailKind::None.into(),
                ..v1::MailSettings::default()
            },
        ] {
            assert_eq!(v1::MailSettings::from(&mail(&wire).unwrap()), wire);
        }
    }

    #[test]
    fn what_is_left_out_is_the_safe_choice() {
        let wire = v1::MailSettings {
            kind: v1::MailKind::Relay.into(),
            host: "smtp.example.com".to_owned(),
            ..v1::MailSettings::default()
        };
        let relay = mail(&wire).unwrap().relay().cloned().unwrap();
        assert_eq!((relay.tls, relay.port), (MailTls::Starttls, 587));
        assert!(!relay.unverified);
    }

    #[test]
    fn what_does_not_fit_names_its_field() {
        type Change = fn(&mut v1::MailSettings);
        let changes: [(&str, Change); 8] = [
            ("kind", |m| m.kind = 9),
            ("kind", |m| m.kind = 0),
            ("host", |m| {
                m.host = "smtp.example.com\nadmin_passwd = x".to_owned()
            }),
            ("port", |m| m.port = 70_000),
            ("tls", |m| m.tls = 7),
            ("user", |m| m.user = "a\nb".to_owned()),
            ("from_filter", |m| m.from_filter = vec!["a b".to_owned()]),
            ("host", |m| m.kind = v1::MailKind::Catcher.into()),
        ];
        for (field, change) in changes {
            let mut wire = full();
            change(&mut wire);
            assert_eq!(mail(&wire).unwrap_err().field, field);
        }
        let said = password("p", "a\nsecret".to_owned()).unwrap_err();
        assert!(!said.to_string().contains("secret"));
    }
}
