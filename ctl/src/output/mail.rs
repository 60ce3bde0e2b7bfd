//! How a tenant sends mail, in words. Pure.

use isyone_proto::pb::v1::{MailKind, MailSettings, MailTls, SettingSource, Tenant, TenantMail};

use super::table::{Cell, Paint};

/// One line: the server, and whose choice it is.
pub fn line(mail: &TenantMail) -> String {
    let settings = mail.settings.clone().unwrap_or_default();
    format!("{}{}", by(&settings), source(mail.source()))
}

fn by(settings: &MailSettings) -> String {
    match settings.kind() {
        MailKind::None => "by no server".to_owned(),
        MailKind::Catcher => "caught on its host, and not sent".to_owned(),
        MailKind::Relay => {
            let login = match settings.user.as_str() {
                "" => String::new(),
                user => format!(", as {user}"),
            };
            let (host, port) = (&settings.host, settings.port);
            format!("by {host}:{port} ({}{login})", tls(settings))
        }
        MailKind::Unspecified => "in a way that this isyctl does not know".to_owned(),
    }
}

fn tls(settings: &MailSettings) -> &'static str {
    match (settings.tls(), settings.unverified) {
        (MailTls::None, _) => "not encrypted",
        (MailTls::Starttls, false) => "STARTTLS",
        (MailTls::Tls, false) => "TLS",
        (MailTls::Starttls, true) => "STARTTLS, any certificate",
        (MailTls::Tls, true) => "TLS, any certificate",
        (MailTls::Unspecified, _) => "encryption unknown",
    }
}

fn source(source: SettingSource) -> &'static str {
    match source {
        SettingSource::Fleet => ", as all tenants",
        SettingSource::Plan => ", as its plan",
        SettingSource::Tenant => ", its own setting",
        SettingSource::Unspecified => "",
    }
}

/// All of it.
pub fn details(mail: &TenantMail) -> Vec<(&'static str, Cell)> {
    let settings = mail.settings.clone().unwrap_or_default();
    let or = |text: &str, none: &str| if text.is_empty() { none } else { text }.to_owned();
    let mut pairs: Vec<(&'static str, Cell)> = vec![("Sends", line(mail).into())];
    if settings.kind() == MailKind::Relay {
        let password = match mail.has_password {
            true => "is set",
            false => "none",
        };
        pairs.push(("Password", password.into()));
    }
    let senders = settings.from_filter.join(", ");
    let per_day = match settings.per_day {
        0 => "any number".to_owned(),
        most => format!("{most}, each recipient counted"),
    };
    pairs.extend([
        (
            "Sender domain",
            or(&settings.sender_domain, "Odoo's own choice").into(),
        ),
        ("Senders", or(&senders, "any").into()),
        (
            "Alias domain",
            or(&settings.alias_domain, "none is set").into(),
        ),
        ("Messages a day", per_day.into()),
    ]);
    pairs
}

/// What `tenant show` says of it: by which server it sends, and what could not be sent.
pub fn shown(tenant: &Tenant) -> Vec<(&'static str, Cell)> {
    let sends = tenant.mail.as_ref().map(line);
    let mut pairs: Vec<(&'static str, Cell)> = Vec::new();
    pairs.extend(sends.map(|text| ("Mail", text.into())));
    let failed = tenant.traffic.and_then(|traffic| traffic.mails_failed);
    if let Some(count) = failed.filter(|count| *count > 0) {
        let name = &tenant.name;
        let text = format!("{count} could not be sent: `isyctl tenant mail list {name}` says why");
        pairs.push(("Mail failed", Paint::Bad.on(&text)));
    }
    pairs
}
