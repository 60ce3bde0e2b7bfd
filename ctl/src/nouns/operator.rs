//! `isyctl operator`: people and programs with certificates. The key is made here and never leaves this machine.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand, builder::PossibleValuesParser};
use isyone_proto::{
    pb::v1::{CreateOperatorRequest, ListOperatorsRequest, Operator, RevokeOperatorRequest, Role},
    tls,
};
use serde::Serialize;

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

/// `isyctl operator …`.
#[derive(Debug, Subcommand)]
pub enum OperatorCommand {
    /// Make a context file with which somebody can use the coordinator
    Create(Create),
    /// List operators
    #[command(alias = "ls")]
    List(List),
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
    #[arg(long, value_parser = PossibleValuesParser::new(["monitor", "viewer", "operator", "admin"]), hide_possible_values = true)]
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
    after_help = "Examples:\n  isyctl operator revoke ana\n  isyctl operator revoke ana --yes"
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
        let file = match (&self.out, &self.pem) {
            (Some(file), _) => file.clone(),
            (None, Some(dir)) => dir.join(format!("{}.pem", self.name)),
            (None, None) => PathBuf::from(format!("{}.toml", self.name)),
        };
        // Check before anything is signed: a name with a slash is no file name, and a new certificate must not
        // overwrite a file.
        if self.out.is_none() && self.name.contains('/') {
            return Err(Failure::usage(format!(
                "`{}` is no operator's name",
                self.name
            )));
        }
        if file.exists() {
            return Err(
                Failure::failed(format!("{} exists already", file.display()))
                    .hint("choose another with --out, or remove it first"),
            );
        }
        let (operator, context) = self.signed(&client).await?;
        match &self.pem {
            Some(dir) => write_pems(dir, &self.name, &context)?,
            None => context.write(&file, false)?,
        }
        let value = Made {
            operator: Wire::of(&operator),
            file: file.display().to_string(),
        };
        app.ui.emit(
            &value,
            || vec![operator.name.clone()],
            |_| format!("{}\n", file.display()),
        )?;
        if app.ui.for_people() {
            self.explain(app, &operator);
        }
        Ok(Exit::Done)
    }

    /// Makes a key, which stays here, and lets the coordinator sign a certificate for it.
    async fn signed(&self, client: &Client) -> Result<(Operator, Context), Failure> {
        let (key_pem, csr_pem) = tls::new_key_and_csr(&self.name)
            .map_err(|e| Failure::failed(format!("cannot make a key: {}", tls::error_chain(&e))))?;
        let role =
            Role::from_str_name(&format!("ROLE_{}", self.role.to_uppercase())).unwrap_or_default();
        let days = self.ttl.map_or(0, |ttl| ttl.as_secs().div_ceil(86_400));
        let request = client.request(CreateOperatorRequest {
            name: self.name.clone(),
            role: role.into(),
            csr_pem,
            // The coordinator rejects a value that is too long.
            ttl_days: u32::try_from(days).unwrap_or(u32::MAX),
        });
        let doing = format!("create operator `{}`", self.name);
        let made = client
            .call(&doing, client.operators().create_operator(request))
            .await?;
        let context = Context {
            name: self.name.clone(),
            endpoint: client.context().endpoint.clone(),
            ca_pem: made.ca_pem,
            certificate_pem: made.certificate_pem,
            key_pem,
        };
        Ok((made.operator.unwrap_or_default(), context))
    }

    fn explain(&self, app: &App, operator: &Operator) {
        let (name, role, until) = (
            clean(&self.name),
            format::role(operator.role),
            format::local(operator.certificate_expire_time.as_ref()),
        );
        if self.pem.is_some() {
            app.ui.note(&format!(
                "{name} is {role} until {until}; ca.pem and the private key are beside it"
            ));
        } else {
            app.ui.note(&format!(
                    "{name} is {role} until {until}. The file holds the private key: hand it over safely,"
                ));
            app.ui.note("it is used with `isyctl context import FILE`");
        }
    }
}

/// Writes the three files, readable only by their owner.
fn write_pems(dir: &Path, name: &str, context: &Context) -> Result<(), Failure> {
    let failed = |path: &Path, e: std::io::Error| {
        Failure::failed(format!("cannot write {}: {e}", path.display()))
    };
    fs::create_dir_all(dir).map_err(|e| failed(dir, e))?;
    for (file, content) in [
        ("ca.pem".to_owned(), &context.ca_pem),
        (format!("{name}.key"), &context.key_pem),
        (format!("{name}.pem"), &context.certificate_pem),
    ] {
        let path = dir.join(file);
        let made = tempfile::NamedTempFile::new_in(dir).and_then(|mut file| {
            file.write_all(content.as_bytes())?;
            file.persist(&path).map_err(|e| e.error)
        });
        made.map_err(|e| failed(&path, e))?;
    }
    Ok(())
}

impl List {
    async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let operators = client
            .pages(self.limit, |page_size, page_token| {
                let request = ListOperatorsRequest {
                    page_size,
                    page_token,
                };
                let client = &client;
                async move {
                    let page = client
                        .read("list operators", request, |c, r| async move {
                            c.operators().list_operators(r).await
                        })
                        .await?;
                    Ok((page.operators, page.next_page_token))
                }
            })
            .await?;
        let names = || operators.iter().map(|o| o.name.clone()).collect();
        app.ui.emit(&Wire::all(&operators), names, |_| {
            list(&operators, clock::now_ms())
        })?;
        Ok(Exit::Done)
    }
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
        let question = format!(
            "Refuse all certificates of {} from now on? Nothing brings them back.",
            clean(name)
        );
        let doing = format!("revoke operator `{}`", clean(name));
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
