//! `isyctl tenant mail`: by which server a tenant's Odoo sends, whether it can, and what it could not.
//!
//! Not here: the settings (settings), what was caught (caught).

mod caught;
mod settings;

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use isyone_proto::pb::v1::{CaughtMail, GetTenantRequest, MailKind};

use super::{Name, inside};
use crate::{
    app::App,
    client::Client,
    exit::{Exit, Failure, Outcome},
    output::{
        format,
        table::{Paint, Table, clean},
    },
};

const SCRIPT: &str = include_str!("mail.py");
/// Begins the line with the answer.
const MARK: &str = "isyone-mail ";
/// Longest address that mail has (RFC 5321).
const MAX_ADDRESS: usize = 254;

/// `isyctl tenant mail …`.
#[derive(Debug, Subcommand)]
pub enum MailCommand {
    /// Say by which server a tenant sends
    Set(Box<settings::Set>),
    /// Show by which server a tenant sends
    #[command(
        after_help = "Examples:\n  isyctl tenant mail show alfa\n  isyctl tenant mail show alfa -o json"
    )]
    Show(Name),
    /// Let a tenant send as its plan or the fleet does
    Clear(settings::Clear),
    /// Have a tenant's Odoo send one message, by the server that it sends by
    Test(Test),
    /// List mails that wait or have failed, the newest first (50 at most), and those that its host has caught (200 at most)
    #[command(
        alias = "ls",
        after_help = "Examples:\n  isyctl tenant mail list alfa\n  isyctl tenant mail list alfa -o json"
    )]
    List(Name),
    /// Print a message that its host has caught (audited)
    Read(caught::Read),
}

/// `isyctl tenant mail test`.
#[derive(Debug, Args)]
#[command(after_help = "\
The message goes the way that a password reset goes: from the company's address, by the first fitting server of Odoo's \
(Settings, Technical, Outgoing Mail Servers), else by that of odoo.conf. What the server says is printed when it refuses. \
That it was taken does not mean that it arrives: look into the mailbox.

Examples:
  isyctl tenant mail test alfa --to ana@example.com
  isyctl tenant mail test alfa --to ana@example.com --from sales@customer.com")]
pub struct Test {
    /// The tenant's name
    name: String,
    /// Who gets it
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    to: Address,
    /// From whom, in place of the company
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    from: Option<Address>,
}

/// A mail address. A type of its own: whatever is a plain text on the command line, only has to be some text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
struct Address(String);

/// What the script says.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Sent {
    state: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    why: String,
    server: String,
    tls: bool,
    login: bool,
    from: String,
    id: String,
    /// How many servers of its own the tenant has.
    servers: u32,
}

/// A mail that waits or has failed.
#[derive(Debug, Serialize, Deserialize)]
struct Mail {
    id: i64,
    state: String,
    time: Option<String>,
    to: Option<String>,
    subject: Option<String>,
    why: Option<String>,
}

const LIST: &str = "select coalesce(json_agg(t), '[]') from (select m.id, m.state, \
    to_char(m.create_date, 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') as time, left(coalesce(nullif(m.email_to, ''), \
    (select string_agg(p.email, ', ') from mail_mail_res_partner_rel r join res_partner p on p.id = r.res_partner_id \
    where r.mail_mail_id = m.id)), 200) as to, left(g.subject, 200) as subject, left(m.failure_reason, 500) as why \
    from mail_mail m left join mail_message g on g.id = m.mail_message_id \
    where m.state in ('outgoing', 'exception') order by m.id desc limit 50) t";

fn address(text: &str) -> Result<Address, &'static str> {
    let fits = |c: char| !c.is_control() && !c.is_whitespace() && !"<>,;\"".contains(c);
    let has_parts = text
        .rsplit_once('@')
        .is_some_and(|(who, at)| !who.is_empty() && !at.is_empty());
    match has_parts && text.len() <= MAX_ADDRESS && text.chars().all(fits) {
        true => Ok(Address(text.to_owned())),
        false => Err("it is no address such as ana@example.com"),
    }
}

impl MailCommand {
    pub async fn run(self, app: &App) -> Outcome {
        match self {
            Self::Set(command) => command.run(app).await,
            Self::Show(Name { name }) => settings::show(app, name).await,
            Self::Clear(command) => command.run(app).await,
            Self::Test(command) => command.run(app).await,
            Self::Read(command) => command.run(app).await,
            Self::List(Name { name }) => list(app, &name).await,
        }
    }
}

impl Test {
    /// The script, after what it is to send. JSON's text of a text is one of Python, too.
    fn script(&self) -> String {
        let asked = serde_json::json!({
            "to": self.to,
            "from": self.from,
            "subject": format!("Test of {}", self.name),
            "text": "This message was sent by `isyctl tenant mail test`: outgoing mail works.",
        });
        let quoted = serde_json::Value::String(asked.to_string());
        format!("import json\nASKED = json.loads({quoted})\n{SCRIPT}")
    }

    async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let doing = format!("send a message from tenant `{}`", self.name);
        let said = inside::script(&client, &doing, &self.name, &self.script()).await;
        let said = said.map_err(inside::Unsaid::failure)?;
        let sent = read(&said.out).ok_or_else(|| {
            let last = said.err.lines().last().unwrap_or_default();
            Failure::failed(format!("cannot {doing}: Odoo's shell did not answer"))
                .cause(clean(last))
        })?;
        app.ui.emit(
            &sent,
            || vec![sent.id.clone()],
            |_| words(&self.to.0, &sent),
        )?;
        if sent.state == "ok" {
            return Ok(Exit::Done);
        }
        Err(Failure::failed(format!(
            "tenant `{}` cannot send: {}",
            self.name,
            clean(&sent.why)
        ))
        .hint(format!(
            "`isyctl tenant mail show {}` says by which server; one that is set in Odoo comes before it (Settings, Technical, Outgoing \
             Mail Servers)",
            clean(&self.name)
        )))
    }
}

/// The script's line among what Odoo prints.
fn read(said: &str) -> Option<Sent> {
    let line = said.lines().find_map(|line| line.strip_prefix(MARK))?;
    serde_json::from_str(line).ok()
}

fn words(to: &str, sent: &Sent) -> String {
    if sent.state != "ok" {
        return String::new();
    }
    let how = match (sent.tls, sent.login) {
        (true, true) => "with TLS and login",
        (true, false) => "with TLS, without login",
        (false, true) => "with login, without TLS",
        (false, false) => "without TLS or login",
    };
    let (server, from, id) = (clean(&sent.server), clean(&sent.from), clean(&sent.id));
    format!("{server} has taken a message from {from} to {to} ({how}): {id}\n")
}

/// A row of the list.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Row {
    /// In Odoo.
    Odoo(Mail),
    /// On its host.
    Caught {
        id: String,
        state: &'static str,
        time: String,
        from: String,
        to: String,
        subject: String,
        bytes: u64,
    },
}

impl Row {
    fn caught(mail: CaughtMail) -> Self {
        let more = (mail.recipients as usize).saturating_sub(mail.to.len());
        let mut to = mail.to.join(", ");
        if more > 0 {
            to.push_str(&format!(" and {more} more"));
        }
        Self::Caught {
            id: mail.id,
            state: "caught",
            time: format::utc(mail.time.as_ref()),
            from: mail.from,
            to,
            subject: mail.subject,
            bytes: mail.size_bytes,
        }
    }

    fn id(&self) -> String {
        match self {
            Self::Odoo(mail) => mail.id.to_string(),
            Self::Caught { id, .. } => id.clone(),
        }
    }
}

async fn list(app: &App, name: &str) -> Outcome {
    let client = app.client()?;
    let doing = format!("list the mails of tenant `{name}`");
    let asked = GetTenantRequest {
        name: name.to_owned(),
    };
    let tenant = client
        .read(&doing, asked, |c, r| async move {
            c.tenants().get_tenant(r).await
        })
        .await?;
    let settings = tenant.mail.and_then(|mail| mail.settings);
    let is_caught = settings.is_some_and(|settings| settings.kind() == MailKind::Catcher);
    let in_odoo = in_odoo(&client, &doing, name).await;
    // Of one without an Odoo that runs, or without mails, what was caught is there all the same.
    let mut rows: Vec<Row> = match in_odoo {
        Ok(mails) => mails.into_iter().map(Row::Odoo).collect(),
        Err(_) if is_caught => Vec::new(),
        Err(failure) => return Err(failure),
    };
    // What was caught before it got another way stays on its host. One of a version before has caught nothing.
    let caught = match caught::list(&client, &doing, name).await {
        Ok(caught) => caught,
        Err(failure) if is_caught => return Err(failure),
        Err(failure) => {
            app.ui.note(&format!(
                "what was caught before is not among them: {}",
                failure.message
            ));
            Vec::new()
        }
    };
    rows.extend(caught.into_iter().map(Row::caught));
    let ids = || rows.iter().map(Row::id).collect();
    app.ui.emit(&rows, ids, |_| table(&rows))?;
    Ok(Exit::Done)
}

/// What waits or has failed.
async fn in_odoo(client: &Client, doing: &str, name: &str) -> Result<Vec<Mail>, Failure> {
    let said = inside::query(client, doing, name, LIST).await;
    let said = said.map_err(inside::Unsaid::failure)?;
    if said.code != 0 {
        let failure = Failure::failed(format!("cannot {doing}"));
        let hint = "there are mails once a module that sends some is installed (`mail`)";
        return Err(failure.cause(clean(said.err.trim())).hint(hint));
    }
    serde_json::from_str(&said.out).map_err(|_| {
        Failure::failed(format!(
            "cannot {doing}: its database's answer cannot be read"
        ))
    })
}

fn table(rows: &[Row]) -> String {
    let mut table = Table::new(["MAIL", "STATE", "TIME", "TO", "SUBJECT", "WHY"]);
    let text = |text: &str, most| format::shortened(&clean(text), most);
    let or_dash = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    for row in rows {
        let (state, time, to, subject, why) = match row {
            Row::Odoo(mail) => {
                let state = match mail.state.as_str() {
                    "exception" => Paint::Bad.on("failed"),
                    _ => Paint::Warn.on("waiting"),
                };
                let [time, to, subject, why] =
                    [&mail.time, &mail.to, &mail.subject, &mail.why].map(or_dash);
                (state, time, to, subject, why)
            }
            Row::Caught {
                time, to, subject, ..
            } => {
                let [time, to, subject] = [time, to, subject].map(Clone::clone);
                (Paint::word("caught"), time, to, subject, "-".to_owned())
            }
        };
        table.row([
            row.id().into(),
            state,
            text(&time, 20).into(),
            text(&to, 40).into(),
            text(&subject, 40).into(),
            text(&why, 80).into(),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_such() {
        assert!(address("ana@example.com").is_ok() && address("joão@exämple.com").is_ok());
        for bad in [
            "",
            "ana",
            "@x.com",
            "ana@",
            "a b@x.com",
            "a@x.com,b@x.com",
            "a@x\n.com",
            "<a@x.com>",
        ] {
            assert!(address(bad).is_err(), "{bad:?}");
        }
    }

    /// Fails where what is typed could become a part of the script.
    #[test]
    fn what_is_asked_for_is_one_text_of_the_script() {
        let test = Test {
            name: "alfa".to_owned(),
            to: Address("a'\\\"')#@x.com".to_owned()),
            from: None,
        };
        let script = test.script();
        let line = script.lines().nth(1).unwrap();
        let quoted = line
            .strip_prefix("ASKED = json.loads(")
            .unwrap()
            .strip_suffix(')')
            .unwrap();
        let text: String = serde_json::from_str(quoted).unwrap();
        let asked: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(asked["to"], test.to.0.as_str());
    }

    #[test]
    fn what_odoo_says_is_read() {
        let sent = read(
            "a log line\nisyone-mail {\"state\": \"ok\", \"server\": \"mx:587\", \"tls\": true, \"from\": \"a@x\"}\n",
        );
        let said = words("b@y", &sent.unwrap());
        assert!(
            said.contains("mx:587 has taken a message from a@x to b@y (with TLS, without login)"),
            "{said}"
        );
        assert!(read("nothing").is_none() && read("isyone-mail [").is_none());
    }
}
