//! `isyctl tenant mail set`, `show`, `clear`: by which server a tenant's Odoo sends.
//!
//! A password is never an argument: other users of the machine can read those. Not here: what Odoo's administrator sets there.

use clap::{Args, ValueEnum};
use isyone_proto::pb::v1::{
    MailKind, MailSettings, MailTls, Operation, SetMailRequest, TenantMail,
};

use crate::{
    app::App,
    client::Client,
    clock,
    exit::{Exit, Failure, Outcome},
    nouns::tenant::{access, change::settle, get},
    options::Waiting,
    output::{
        mail,
        table::{Table, clean},
        wire::Wire,
    },
};

/// `isyctl tenant mail set`.
#[derive(Debug, Args)]
#[command(after_help = "\
The settings are the tenant's own, in place of its plan's and the fleet's ([mail] of the coordinator's \
configuration), and replaced as a whole. What its administrator sets in Odoo (Settings, Technical, Outgoing Mail \
Servers) comes before them. The password of --user is asked for; with --keep-password the one that is there stays, \
which it may while server, port, login and encryption stay. Odoo is restarted.

`--host host` is the machine that the tenant runs on. It is closed to tenants until mail_relays in [network] of the \
coordinator's configuration names it with its port: mail_relays = [\"host:25\"].

Examples:
  isyctl tenant mail set alfa --host smtp.example.com --user apikey --sender-domain example.com
  isyctl tenant mail set alfa --host smtp.example.com --tls tls --user apikey --password-stdin < password.txt
  isyctl tenant mail set alfa --host host --tls none --port 25    its own host's mail server, once it is open
  isyctl tenant mail set staging --catch    keep what it sends, and send nothing: `isyctl tenant mail list staging`
  isyctl tenant mail set alfa --no-server")]
#[command(group = clap::ArgGroup::new("server").required(true))]
pub struct Set {
    /// The tenant's name
    name: String,
    /// The server: a name, an IPv4 address, or `host` for the machine that the tenant runs on
    #[arg(long, group = "server")]
    host: Option<String>,
    /// Have its host keep what it sends, and send nothing
    #[arg(long, group = "server")]
    catch: bool,
    /// No server: what it sends fails
    #[arg(long, group = "server")]
    no_server: bool,
    /// The server's port; the usual one unless it is named
    #[arg(long, requires = "host", conflicts_with_all = ["catch", "no_server"])]
    port: Option<u16>,
    /// Whether the connection is encrypted
    #[arg(long, value_enum, requires = "host", conflicts_with_all = ["catch", "no_server"], default_value_t = Encryption::Starttls)]
    tls: Encryption,
    /// Take any certificate; whoever stands between reads all of it
    #[arg(long, requires = "host", conflicts_with_all = ["catch", "no_server"])]
    no_verify: bool,
    /// Log in by this name
    #[arg(long, value_name = "LOGIN", requires = "host", conflicts_with_all = ["catch", "no_server"])]
    user: Option<String>,
    /// Read the password from standard input, without asking
    #[arg(long, requires = "user", conflicts_with = "keep_password")]
    password_stdin: bool,
    /// The password stays; server, port, login and encryption must, too
    #[arg(long, requires = "user")]
    keep_password: bool,
    /// What nobody in particular sends is from NAME@ this domain
    #[arg(long, value_name = "DOMAIN")]
    sender_domain: Option<String>,
    /// A domain or address that may be named as the sender (repeat it); others are replaced
    #[arg(long, value_name = "SENDER")]
    from_filter: Vec<String>,
    /// The domain of Odoo's aliases, bounces and answers to nobody in particular
    #[arg(long, value_name = "DOMAIN")]
    alias_domain: Option<String>,
    /// Messages in a day, each recipient counted; 0 for any number
    #[arg(long, value_name = "N", default_value_t = 0)]
    per_day: u32,
    #[command(flatten)]
    waiting: Waiting,
}

/// Whether a connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Encryption {
    /// It begins in plain text, and is encrypted before anything is said (port 587)
    Starttls,
    /// From the first byte on (port 465)
    Tls,
    /// It is not (port 25)
    None,
}

/// `isyctl tenant mail clear`.
#[derive(Debug, Args)]
#[command(after_help = "\
The tenant sends as its plan or the fleet does again. Odoo is restarted.

Example:
  isyctl tenant mail clear alfa")]
pub struct Clear {
    /// The tenant's name
    name: String,
    #[command(flatten)]
    waiting: Waiting,
}

impl Set {
    fn settings(&self) -> MailSettings {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let common = MailSettings {
            sender_domain: text(&self.sender_domain),
            from_filter: self.from_filter.clone(),
            alias_domain: text(&self.alias_domain),
            per_day: self.per_day,
            ..MailSettings::default()
        };
        let kind = match (&self.host, self.catch) {
            (Some(_), _) => MailKind::Relay,
            (None, true) => MailKind::Catcher,
            (None, false) => MailKind::None,
        };
        if kind != MailKind::Relay {
            return MailSettings {
                kind: kind.into(),
                ..common
            };
        }
        let tls = match self.tls {
            Encryption::Starttls => MailTls::Starttls,
            Encryption::Tls => MailTls::Tls,
            Encryption::None => MailTls::None,
        };
        MailSettings {
            kind: kind.into(),
            host: text(&self.host),
            port: self.port.unwrap_or(0).into(),
            tls: tls.into(),
            unverified: self.no_verify,
            user: text(&self.user),
            ..common
        }
    }

    fn password(&self, doing: &str) -> Result<Option<String>, Failure> {
        let Some(user) = self.user.as_ref().filter(|_| !self.keep_password) else {
            return Ok(None);
        };
        let password = match self.password_stdin {
            true => access::line(doing)?,
            false => {
                let prompt = format!("Password of {}: ", clean(user));
                access::typed(doing, &prompt, "use --password-stdin or --keep-password")?
            }
        };
        if password.is_empty() {
            return Err(Failure::usage(format!(
                "cannot {doing}: the password is empty"
            )));
        }
        Ok(Some(password))
    }

    pub async fn run(self, app: &App) -> Outcome {
        let doing = format!("set the mail server of tenant `{}`", clean(&self.name));
        let message = SetMailRequest {
            name: self.name.clone(),
            settings: Some(self.settings()),
            password: self.password(&doing)?,
            request_id: clock::request_id(),
        };
        let client = app.client()?;
        let operation = set(&client, &doing, message).await?;
        settle(
            app,
            &client,
            operation,
            self.waiting,
            "given its mail settings",
        )
        .await
    }
}

impl Clear {
    pub async fn run(self, app: &App) -> Outcome {
        let doing = format!("clear the mail settings of tenant `{}`", clean(&self.name));
        let message = SetMailRequest {
            name: self.name.clone(),
            request_id: clock::request_id(),
            ..SetMailRequest::default()
        };
        let client = app.client()?;
        let operation = set(&client, &doing, message).await?;
        settle(
            app,
            &client,
            operation,
            self.waiting,
            "given the mail settings of its plan or fleet",
        )
        .await
    }
}

async fn set(client: &Client, doing: &str, message: SetMailRequest) -> Result<Operation, Failure> {
    client
        .change(doing, message, |c, r| async move {
            c.tenants().set_mail(r).await
        })
        .await
}

/// `isyctl tenant mail show`.
pub(super) async fn show(app: &App, name: String) -> Outcome {
    let tenant = get(&app.client()?, &name).await?;
    let found = tenant.mail.unwrap_or_default();
    let text = |_| match found == TenantMail::default() {
        true => "nothing is set: what it sends fails, unless a server is set in Odoo\n".to_owned(),
        false => Table::pairs(mail::details(&found)),
    };
    app.ui.emit(&Wire::of(&found), || vec![name], text)?;
    Ok(Exit::Done)
}
