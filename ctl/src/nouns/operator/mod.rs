//! `isyctl operator`: people and programs with certificates. The key is made here and never leaves this machine.

mod papers;
mod renew;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, builder::PossibleValuesParser};
use isyone_proto::pb::v1::{
    CreateOperatorRequest, ListOperatorsRequest, Operator, RevokeOperatorRequest, Role,
};
use serde::Serialize;

use self::papers::{Papers, Place};

use crate::{
    app::App,
    client::Client,
    clock,
    context::Context,
    exit::{Exit, Failure, Outcome},
    options,
    output::{
        format,
        table::{Paint, Table, clean},
        wire::Wire,
    },
};

/// Words for roles.
const ROLES: [&str; 4] = ["monitor", "viewer", "operator", "admin"];

/// `isyctl operator …`.
#[derive(Debug, Subcommand)]
pub enum OperatorCommand {
    /// Make a context file with which somebody can use the coordinator
    Create(Create),
    /// List operators
    #[command(alias = "ls")]
    List(List),
    /// Put a new certificate in the place of all that an operator has, or of your own; or give it another role
    Renew(renew::Renew),
    /// Refuse all of an operator's certificates from now on
    Revoke(Revoke),
}

/// `isyctl operator create`.
#[derive(Debug, Args)]
#[command(after_help = "\
Roles: a viewer reads everything but secrets and logs; an operator also works on tenants and
cordons hosts; an admin also adds and removes hosts and operators. A monitor is below them all:
it scrapes the hosts (Prometheus), nothing else.

Examples:
  isyctl operator create ana --role operator
  isyctl operator create ci --role viewer --ttl 90d --out ci.toml
  isyctl operator create prometheus2 --role monitor --pem /etc/prometheus/isyone
then, on ana's machine:
  isyctl context import ana.toml")]
pub struct Create {
    /// The operator's name
    name: String,
    /// What the operator may do: monitor, viewer, operator or admin
    #[arg(long, value_parser = PossibleValuesParser::new(ROLES), hide_possible_values = true)]
    role: String,
    /// Where to write the context file [default: NAME.toml]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// In place of a context file, write ca.pem, NAME.pem and NAME.key into this directory, as Prometheus reads them
    #[arg(long, value_name = "DIR", conflicts_with = "out")]
    pem: Option<PathBuf>,
    /// How long the certificate is valid, in whole days (a year, at most five)
    #[arg(long, value_name = "TIME", value_parser = options::duration)]
    ttl: Option<Duration>,
}

/// `isyctl operator list`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  isyctl operator list\n  isyctl operator list -o json")]
pub struct List {
    /// At most this many
    #[arg(long, value_name = "N", value_parser = options::count)]
    limit: Option<usize>,
}

/// `isyctl operator revoke`.
#[derive(Debug, Args)]
#[command(
    after_help = "The name can be used again: `isyctl operator create` begins anew under it. To replace a certificate that has leaked, renew it: `isyctl operator renew`.\n\nExamples:\n  isyctl operator revoke ana\n  isyctl operator revoke ana --yes"
)]
pub struct Revoke {
    /// The operator's name
    name: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl OperatorCommand {
    pub async fn run(self, app: &App) -> Outcome {
        match self {
            Self::Create(command) => command.run(app).await,
            Self::List(command) => command.run(app).await,
            Self::Renew(command) => command.run(app).await,
            Self::Revoke(command) => command.run(app).await,
        }
    }
}

#[derive(Serialize)]
struct Made {
    operator: Wire,
    file: String,
}

impl Create {
    async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        is_file_name(&self.name)?;
        let place = Place::of(self.out, self.pem, &self.name);
        let (key_pem, csr_pem) = papers::new_key(&self.name)?;
        let draft = papers::draft(&client, &self.name, key_pem);
        // First the file: an operator whose key cannot be kept must never exist.
        let papers = Papers::reserve(place, &draft, false)?;
        let request = client.request(CreateOperatorRequest {
            name: self.name.clone(),
            role: role(&self.role).into(),
            csr_pem,
            ttl_days: days(self.ttl),
        });
        let doing = format!("create operator `{}`", self.name);
        let made = client
            .call(&doing, client.operators().create_operator(request))
            .await?;
        let context = Context {
            ca_pem: made.ca_pem,
            certificate_pem: made.certificate_pem,
            ..draft
        };
        let again =
            "the operator is there, without its key: run this again, it gets another certificate";
        let place = papers.fill(&context).map_err(|f| f.hint(again))?;
        let operator = made.operator.unwrap_or_default();
        emit(app, &operator, &place)?;
        if app.ui.for_people() {
            explain(app, &operator, &place);
        }
        Ok(Exit::Done)
    }
}

/// Prints the operator for programs, and its file for people.
fn emit(app: &App, operator: &Operator, place: &Place) -> Result<(), Failure> {
    let file = place.certificate().display().to_string();
    let value = Made {
        operator: Wire::of(operator),
        file: file.clone(),
    };
    app.ui.emit(
        &value,
        || vec![operator.name.clone()],
        |_| format!("{file}\n"),
    )
}

fn explain(app: &App, operator: &Operator, place: &Place) {
    let (name, role, until) = (
        clean(&operator.name),
        format::role(operator.role),
        format::local(operator.certificate_expire_time.as_ref()),
    );
    match place {
        Place::Pems(..) => app.ui.note(&format!(
            "{name} is {role} until {until}; ca.pem and the private key are beside it"
        )),
        Place::Context(_) => {
            app.ui.note(&format!(
                "{name} is {role} until {until}. The file holds the private key: hand it over safely,"
            ));
            app.ui.note("it is used with `isyctl context import FILE`");
        }
    }
}

/// A name with a slash is no file name.
fn is_file_name(name: &str) -> Result<(), Failure> {
    if name.contains('/') {
        return Err(Failure::usage(format!("`{name}` is no operator's name")));
    }
    Ok(())
}

/// A role by the word that the command line takes.
fn role(word: &str) -> Role {
    Role::from_str_name(&format!("ROLE_{}", word.to_uppercase())).unwrap_or_default()
}

/// Whole days, 0 for the coordinator's default; it rejects a value that is too long.
fn days(ttl: Option<Duration>) -> u32 {
    let days = ttl.map_or(0, |ttl| ttl.as_secs().div_ceil(86_400));
    u32::try_from(days).unwrap_or(u32::MAX)
}

impl List {
    async fn run(self, app: &App) -> Outcome {
        let operators = operators(&app.client()?, "list operators", self.limit).await?;
        let names = || operators.iter().map(|o| o.name.clone()).collect();
        app.ui.emit(&Wire::all(&operators), names, |_| {
            list(&operators, clock::now_ms())
        })?;
        Ok(Exit::Done)
    }
}

/// Operators by name, at most `limit`. `doing` completes "cannot …".
async fn operators(
    client: &Client,
    doing: &str,
    limit: Option<usize>,
) -> Result<Vec<Operator>, Failure> {
    let page = |page_size, page_token| {
        let request = ListOperatorsRequest {
            page_size,
            page_token,
        };
        async move {
            let page = client
                .read(doing, request, |c, r| async move {
                    c.operators().list_operators(r).await
                })
                .await?;
            Ok((page.operators, page.next_page_token))
        }
    };
    client.pages(limit, page).await
}

fn list(operators: &[Operator], now_ms: i64) -> String {
    if operators.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["NAME", "ROLE", "STATE", "CERTIFICATE UNTIL", "AGE"]);
    for operator in operators {
        table.row([
            operator.name.as_str().into(),
            format::role(operator.role).into(),
            Paint::word(if operator.revoked {
                "revoked"
            } else {
                "active"
            }),
            format::local(operator.certificate_expire_time.as_ref()).into(),
            format::age(now_ms, operator.create_time.as_ref()).into(),
        ]);
    }
    table.render()
}

impl Revoke {
    async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let name = &self.name;
        let doing = format!("revoke operator `{}`", clean(name));
        let known = operators(&client, &doing, None).await?;
        let known = known.iter().find(|o| o.name == *name && !o.revoked);
        if let Some(monitor) = known.filter(|o| o.role() == Role::Monitor) {
            warn_of_monitor(app, monitor);
        }
        let question = format!(
            "Refuse all certificates of {} from now on? Nothing brings them back.",
            clean(name)
        );
        if !self.yes && !app.ui.confirm(&doing, &question)? {
            app.ui.note("nothing was changed");
            return Ok(Exit::Failed);
        }
        let request = client.request(RevokeOperatorRequest { name: name.clone() });
        client
            .call(&doing, client.operators().revoke_operator(request))
            .await?;
        app.ui.note(&format!(
            "operator {} is revoked; open connections are cut",
            clean(name)
        ));
        Ok(Exit::Done)
    }
}

/// What ends with a monitor's certificates, and the way back.
fn warn_of_monitor(app: &App, operator: &Operator) {
    let name = clean(&operator.name);
    app.ui.note(&format!(
        "warning: {name} has the role monitor: with its certificates Prometheus scrapes the hosts, and without them it gets nothing of any host or tenant, and no alert about them is told"
    ));
    let then = if operator.prometheus {
        "; within 30 s the coordinator then gives Prometheus a certificate again, with a new key"
    } else {
        ", and Prometheus needs the new files"
    };
    app.ui.note(&format!(
        "the way back: `isyctl operator create {name} --role monitor`{then}. To replace a certificate without a gap: `isyctl operator renew {name}`"
    ));
}
