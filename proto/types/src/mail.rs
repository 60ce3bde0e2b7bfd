//! How a tenant's Odoo sends mail: by which server, as whom, and how much.
//!
//! Values only; a password is no part of them. Not here: where the settings are from (the coordinator's configuration, an operator),
//! what becomes of them (the agent's odoo.conf and packet filter).

use std::{fmt, net::Ipv4Addr, str::FromStr};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::{
    echo::echo,
    ids::TenantName,
    network::{DnsName, MailRelay},
    spec::{Domain, ValueError},
};

/// The port on every host where its catcher takes mail, from the tenants that have one as their server.
pub const CATCHER_PORT: u16 = 7484;
/// Most senders that a filter names.
pub const MAX_SENDERS: usize = 16;
/// Messages a day that can be set at most; beyond that a limit is none.
pub const MAX_PER_DAY: u32 = 10_000_000;
/// Longest login and password.
const MAX_TEXT: usize = 254;

/// How a tenant's Odoo sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mail {
    /// The server that takes its messages.
    pub via: Via,
    /// Where messages are from that nobody in particular sends: `<tenant>@` this domain. `None`: Odoo's own choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender_domain: Option<Domain>,
    /// Who may be named as the sender by this server; others are replaced by the sender above. Empty: anybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from_filter: Vec<Sender>,
    /// The domain of Odoo's aliases, of bounces and of what answers to nobody in particular are sent to. `None`: none is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias_domain: Option<Domain>,
    /// Messages that it may send in a day (UTC), each recipient counted; 0: any number.
    #[serde(default)]
    pub per_day: u32,
}

/// Which server takes a tenant's messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// None: what it sends fails, unless its administrator sets a server in Odoo.
    Nobody,
    /// The host's catcher, which keeps it and sends nothing.
    Catcher,
    /// A server that passes it on.
    Relay(Relay),
}

/// A mail server, and how to speak with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relay {
    /// Where it is.
    pub host: MailHost,
    /// TCP port.
    pub port: u16,
    /// Whether the connection is encrypted.
    pub tls: MailTls,
    /// Any certificate is taken: who can stand between reads everything, the password as well.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unverified: bool,
    /// Whom to log in as; `None`: nobody is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<MailUser>,
}

impl Relay {
    /// Where the packet filter has to let its tenants through, if it is told by an address.
    pub fn place(&self) -> Option<MailRelay> {
        let port = self.port;
        let address = match self.host {
            MailHost::OwnHost => None,
            MailHost::Address(address) => Some(address),
            MailHost::Name(_) => return None,
        };
        Some(MailRelay { address, port })
    }
}

impl Mail {
    /// Nothing but a server.
    pub fn by(via: Via) -> Self {
        Self {
            via,
            sender_domain: None,
            from_filter: Vec::new(),
            alias_domain: None,
            per_day: 0,
        }
    }

    /// Who sends what nobody in particular does.
    pub fn sender(&self, tenant: &TenantName) -> Option<String> {
        let domain = self.sender_domain.as_ref()?;
        Some(format!("{tenant}@{domain}"))
    }

    /// The relay, if it is one.
    pub fn relay(&self) -> Option<&Relay> {
        match &self.via {
            Via::Relay(relay) => Some(relay),
            Via::Nobody | Via::Catcher => None,
        }
    }
}

/// Where a tenant's own host is in its network: the address of its gateway.
pub fn own_host(subnet: Ipv4Net) -> Ipv4Addr {
    subnet.hosts().next().unwrap_or(subnet.network())
}

/// Whether a connection to a mail server is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MailTls {
    /// It is not.
    None,
    /// It begins in plain text, and is encrypted before anything is said (port 587).
    Starttls,
    /// From the first byte on (port 465).
    Tls,
}

impl MailTls {
    /// The usual port.
    pub fn port(self) -> u16 {
        match self {
            Self::None => 25,
            Self::Starttls => 587,
            Self::Tls => 465,
        }
    }

    /// The word in configurations.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Starttls => "starttls",
            Self::Tls => "tls",
        }
    }
}

impl FromStr for MailTls {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let all = [Self::None, Self::Starttls, Self::Tls];
        let found = all.into_iter().find(|tls| tls.as_str() == text);
        found.ok_or_else(|| {
            ValueError(format!(
                "`{}` is none of `none`, `starttls`, `tls`",
                echo(text)
            ))
        })
    }
}

/// Where a mail server is: `smtp.example.com`, `192.0.2.25`, or `host` for the machine that a tenant runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum MailHost {
    /// The tenant's own host, at its address in the tenant's network.
    OwnHost,
    /// An address.
    Address(Ipv4Addr),
    /// A name, which the tenant's Odoo looks up.
    Name(DnsName),
}

/// In a server's place, the machine that a tenant runs on.
const OWN_HOST: &str = "host";

impl FromStr for MailHost {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text == OWN_HOST {
            return Ok(Self::OwnHost);
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        match text.parse::<DnsName>() {
            Ok(name) if name.as_str().contains('.') => Ok(Self::Name(name)),
            _ => Err(ValueError(format!(
                "`{}` is no mail server such as `smtp.example.com`, `192.0.2.25`, or `host` for the machine that a tenant runs on",
                echo(text)
            ))),
        }
    }
}

impl fmt::Display for MailHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OwnHost => f.write_str(OWN_HOST),
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// A text that is checked when it is read, and written as it is.
macro_rules! checked {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The checked text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = ValueError;
            fn from_str(text: &str) -> Result<Self, ValueError> {
                let check: fn(&str) -> Result<(), String> = $check;
                check(text).map_err(ValueError)?;
                Ok(Self(text.to_owned()))
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked!(
    /// A login at a mail server.
    MailUser,
    |text| is_value(text)
        .map_err(|problem| format!("`{}` is no login of a mail server: {problem}", echo(text)))
);
checked!(
    /// A sender in a filter: an address, or all of a domain.
    Sender,
    |text| {
        let (local, domain) = text.rsplit_once('@').unwrap_or(("a", text));
        let is_local = |b: u8| b.is_ascii_alphanumeric() || b"!#$&'*+-/=?^_`{|}~.".contains(&b);
        let fits = text.len() <= MAX_TEXT
            && !local.is_empty()
            && local.bytes().all(is_local)
            && domain.parse::<Domain>().is_ok();
        match fits {
            true => Ok(()),
            false => Err(format!(
                "`{}` is neither a domain such as `example.com` nor an address such as `books@example.com`",
                echo(text)
            )),
        }
    }
);

/// What stands in a line of odoo.conf as it is: no line breaks, nothing that is cut off, and none of the words that Odoo reads as
/// something else.
fn is_value(text: &str) -> Result<(), &'static str> {
    let reserved = ["true", "false", "none"];
    if text.is_empty() || text.len() > MAX_TEXT {
        Err("it has 1 to 254 characters")
    } else if !text.bytes().all(|b| matches!(b, 0x20..=0x7e)) {
        Err("only printable ASCII")
    } else if text.trim() != text {
        Err("it neither begins nor ends with a space")
    } else if reserved.contains(&text.to_ascii_lowercase().as_str()) {
        Err("Odoo reads this word as something else")
    } else {
        Ok(())
    }
}

/// Whether a text can be the password at a mail server. The error does not repeat it.
pub fn check_password(text: &str) -> Result<(), ValueError> {
    is_value(text).map_err(|problem| {
        ValueError(format!(
            "cannot be a mail server's password here: {problem}"
        ))
    })
}

macro_rules! from_string {
    ($($name:ident)*) => {$(
        impl TryFrom<String> for $name {
            type Error = ValueError;
            fn try_from(text: String) -> Result<Self, ValueError> {
                text.parse()
            }
        }
    )*};
}
from_string!(MailHost MailUser Sender);

impl From<MailHost> for String {
    fn from(host: MailHost) -> Self {
        host.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_name_an_address_or_ones_own_host() {
        for text in ["smtp.example.com", "192.0.2.25", "host"] {
            assert_eq!(text.parse::<MailHost>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "localhost",
            "a b.c",
            "[::1]",
            "smtp.example.com:25",
            "x\ny.z",
            "1.2.3",
        ] {
            let said = bad.parse::<MailHost>().unwrap_err().to_string();
            assert!(said.contains("smtp.example.com"), "{said}");
        }
    }

    #[test]
    fn no_text_leaves_its_line_of_a_configuration() {
        for good in ["apikey", "a@b.c", "two words", "SG.x;#=%(x)s", "TrueNorth"] {
            assert!(
                good.parse::<MailUser>().is_ok() && check_password(good).is_ok(),
                "{good}"
            );
        }
        let long = "x".repeat(255);
        for bad in ["", " a", "a ", "a\nb", "a\rb", "é", "True", "none", &long] {
            assert!(bad.parse::<MailUser>().is_err(), "{bad:?}");
            let said = check_password(bad).unwrap_err().to_string();
            assert!(bad.len() < 3 || !said.contains(bad), "{said}");
        }
    }

    #[test]
    fn senders_are_domains_or_addresses() {
        for good in ["example.com", "books@example.com", "a+b@x.example.com"] {
            assert!(good.parse::<Sender>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "example",
            "@example.com",
            "a b@example.com",
            "a@b@",
            "x,y.com",
            "a\n@b.com",
        ] {
            assert!(bad.parse::<Sender>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_own_host_is_the_networks_gateway_and_a_place_is_known_by_its_address_only() {
        let subnet: Ipv4Net = "10.200.0.16/28".parse().unwrap();
        assert_eq!(own_host(subnet), Ipv4Addr::new(10, 200, 0, 17));
        let at = |host: &str| Relay {
            host: host.parse().unwrap(),
            port: 587,
            tls: MailTls::Starttls,
            unverified: false,
            user: None,
        };
        let place = |host| at(host).place().map(|place| place.to_string());
        assert_eq!(place("host").as_deref(), Some("host:587"));
        assert_eq!(place("192.0.2.25").as_deref(), Some("192.0.2.25:587"));
        assert_eq!(place("smtp.example.com"), None);
    }

    #[test]
    fn what_is_stored_reads_back() {
        let mut mail = Mail::by(Via::Catcher);
        let json = serde_json::to_string(&mail).unwrap();
        assert_eq!(json, r#"{"via":"catcher","per_day":0}"#);
        mail.via = Via::Relay(Relay {
            host: "host".parse().unwrap(),
            port: 25,
            tls: MailTls::None,
            unverified: true,
            user: Some("u".parse().unwrap()),
        });
        mail.sender_domain = Some("isy.one".parse().unwrap());
        let json = serde_json::to_string(&mail).unwrap();
        assert_eq!(serde_json::from_str::<Mail>(&json).unwrap(), mail);
        let tenant: TenantName = "alfa".parse().unwrap();
        assert_eq!(mail.sender(&tenant).as_deref(), Some("alfa@isy.one"));
    }
}
