//! `isyctl tenant access`: who may visit a tenant; the edge enforces it.
//!
//! A password is never an argument: other users of the machine can read those.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use clap::{Args, Subcommand};
use isyone_proto::pb::v1::{
    AccessUser, GetAccessRequest, Networks, RequestRate, SetAccessRequest, SetAccessResponse,
    set_access_request::RateChoice,
};

use super::Name;
use crate::{
    app::App,
    exit::{Exit, Failure, Outcome},
    output::{
        Format,
        table::{Table, clean},
        tenant as sheet,
        wire::Wire,
    },
    terminal::Hushed,
};

/// Longest line accepted as a password; the coordinator's limit is lower.
const MAX_PASSWORD_BYTES: u64 = 1024;

/// `isyctl tenant access …`.
#[derive(Debug, Subcommand)]
pub enum AccessCommand {
    /// Show who gets in to a tenant
    #[command(
        after_help = "Examples:\n  isyctl tenant access show alfa\n  isyctl tenant access show alfa -o json"
    )]
    Show(Name),
    /// Say who gets in: by network, by password, and how fast
    Set(Set),
}

/// `isyctl tenant access set`.
#[derive(Debug, Args)]
#[command(after_help = "\
What is not named stays as it is. Nothing is restarted; edges take it up within seconds.
The password is the edge's own, before Odoo's login page: programs that send an Authorization
header of their own do not get past it.

Examples:
  isyctl tenant access set staging --user tester --generate-password
  isyctl tenant access set staging --user tester --password-stdin < password.txt
  isyctl tenant access set staging --allow 203.0.113.0/24 --allow 2001:db8::/48
  isyctl tenant access set shop --rate 20/60
  isyctl tenant access set staging --allow-all --no-users --default-rate    open to all again")]
pub struct Set {
    /// The tenant's name
    name: String,
    /// Only clients in this network (repeat it), in place of those before
    #[arg(long, value_name = "NETWORK", conflicts_with = "allow_all")]
    allow: Vec<String>,
    /// Clients from everywhere
    #[arg(long)]
    allow_all: bool,
    /// Ask for a password, and let this name in with it; another password for a name that is there already
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Read the password from standard input, without asking
    #[arg(long, requires = "user")]
    password_stdin: bool,
    /// Let the coordinator make the password; it is shown this once
    #[arg(long, requires = "user", conflicts_with = "password_stdin")]
    generate_password: bool,
    /// Let this name in no more (repeat it)
    #[arg(long, value_name = "NAME", conflicts_with = "no_users")]
    remove_user: Vec<String>,
    /// Ask nobody for a password
    #[arg(long, conflicts_with = "user")]
    no_users: bool,
    /// Requests per second and at once, of one client address
    #[arg(long, value_name = "AVERAGE/BURST", value_parser = rate, conflicts_with = "default_rate")]
    rate: Option<RequestRate>,
    /// As many requests as for all tenants
    #[arg(long)]
    default_rate: bool,
}

fn rate(text: &str) -> Result<RequestRate, String> {
    let parse = || {
        let (average, burst) = text.split_once('/')?;
        Some(RequestRate {
            average: average.parse().ok()?,
            burst: burst.parse().ok()?,
        })
    };
    parse().ok_or_else(|| "must be two numbers such as 5/10".to_owned())
}

impl AccessCommand {
    pub async fn run(self, app: &App) -> Outcome {
        match self {
            Self::Show(Name { name }) => show(app, name).await,
            Self::Set(command) => command.run(app).await,
        }
    }
}

async fn show(app: &App, name: String) -> Outcome {
    let doing = format!("show who gets in to tenant `{}`", clean(&name));
    let access = app
        .client()?
        .read(
            &doing,
            GetAccessRequest { name: name.clone() },
            |c, r| async move { c.tenants().get_access(r).await },
        )
        .await?;
    app.ui.emit(
        &Wire::of(&access),
        || vec![name],
        |_| Table::pairs(sheet::access(&access)),
    )?;
    Ok(Exit::Done)
}

impl Set {
    async fn run(self, app: &App) -> Outcome {
        let nothing = self.allow.is_empty() && self.user.is_none() && self.remove_user.is_empty();
        if nothing && !self.allow_all && !self.no_users && self.rate.is_none() && !self.default_rate
        {
            return Err(
                Failure::usage("nothing is to be changed").hint("isyctl tenant access set --help")
            );
        }
        let doing = format!("change who gets in to tenant `{}`", clean(&self.name));
        let put_user = match &self.user {
            None => None,
            Some(name) => Some(AccessUser {
                name: name.clone(),
                password: self.password(&doing, name)?,
            }),
        };
        let request = SetAccessRequest {
            name: self.name.clone(),
            networks: (self.allow_all || !self.allow.is_empty()).then_some(Networks {
                networks: self.allow,
            }),
            remove_users: self.remove_user,
            remove_all_users: self.no_users,
            put_user,
            rate_choice: match (self.rate, self.default_rate) {
                (Some(rate), _) => Some(RateChoice::Rate(rate)),
                (None, true) => Some(RateChoice::DefaultRate(true)),
                (None, false) => None,
            },
        };
        let client = app.client()?;
        let set = client
            .call(&doing, client.tenants().set_access(client.request(request)))
            .await?;
        app.ui.emit(
            &Wire::of(&set),
            || vec![self.name.clone()],
            |_| changed(&set),
        )?;
        // A name alone would lose what is shown this once.
        if app.ui.format == Format::Name && !set.generated_password.is_empty() {
            app.ui
                .note(&format!("password: {}", clean(&set.generated_password)));
        }
        app.ui.note("edges take it up within seconds");
        Ok(Exit::Done)
    }

    /// The password to send; empty lets the coordinator generate one.
    fn password(&self, doing: &str, user: &str) -> Result<String, Failure> {
        if self.generate_password {
            return Ok(String::new());
        }
        let password = if self.password_stdin {
            line(doing)?
        } else {
            let ask = |prompt: &str| typed(doing, prompt, WITHOUT_TERMINAL);
            let first = ask(&format!("Password for {}: ", clean(user)))?;
            if first != ask("The same once more: ")? {
                return Err(Failure::usage(format!(
                    "cannot {doing}: the two passwords differ"
                )));
            }
            first
        };
        if password.is_empty() {
            return Err(
                Failure::usage(format!("cannot {doing}: the password is empty"))
                    .hint("with --generate-password the coordinator makes one"),
            );
        }
        Ok(password)
    }
}

/// What to do where nobody can be asked for a password.
const WITHOUT_TERMINAL: &str = "use --password-stdin or --generate-password";

/// Asks on the terminal without echo. `otherwise`: what to do where there is none.
pub(super) fn typed(doing: &str, prompt: &str, otherwise: &'static str) -> Result<String, Failure> {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(Failure::usage(format!(
            "cannot {doing}: there is no terminal to ask for the password on"
        ))
        .hint(otherwise));
    }
    let failed = |e: io::Error| Failure::failed(format!("cannot ask for the password: {e}"));
    let mut err = io::stderr().lock();
    // Before the prompt: keys typed at once would be echoed or dropped.
    let hushed = Hushed::enter().map_err(failed)?;
    err.write_all(prompt.as_bytes())
        .and_then(|()| err.flush())
        .map_err(failed)?;
    let password = line(doing);
    drop(hushed);
    err.write_all(b"\n").map_err(failed)?;
    password
}

/// The next line of standard input.
pub(super) fn line(doing: &str) -> Result<String, Failure> {
    let mut line = String::new();
    let mut limited = io::Read::take(io::stdin().lock(), MAX_PASSWORD_BYTES);
    limited.read_line(&mut line).map_err(|e| {
        Failure::failed(format!(
            "cannot {doing}: standard input cannot be read: {e}"
        ))
    })?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn changed(set: &SetAccessResponse) -> String {
    let mut pairs = set.access.as_ref().map(sheet::access).unwrap_or_default();
    if !set.generated_password.is_empty() {
        pairs.push(("Password", set.generated_password.as_str().into()));
    }
    Table::pairs(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_two_numbers() {
        assert_eq!(
            rate("5/10").unwrap(),
            RequestRate {
                average: 5,
                burst: 10
            }
        );
        for bad in ["", "5", "5/", "/10", "5/x", "-5/10", "5/10/15"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }
}
