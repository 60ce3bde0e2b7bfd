//! `isyctl context`: the coordinators that this machine knows. Nothing here talks to one.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use isyone_proto::{
    convert::timestamp,
    ids::ShortName,
    tls::{self, CertificateInfo, Identity},
};
use serde::Serialize;

use crate::{
    app::App,
    clock,
    context::{self, Context, Store},
    exit::{Exit, Failure, Outcome},
    output::{
        format,
        table::{Cell, Paint, Table, clean},
    },
};

/// `isyctl context …`.
#[derive(Debug, Subcommand)]
pub enum ContextCommand {
    /// List contexts
    #[command(alias = "ls", after_help = "Examples:\n  isyctl context list")]
    List,
    /// Make a context the one in use
    #[command(
        after_help = "Examples:\n  isyctl context use prod\n  isyctl --context prod tenant list      for one command only"
    )]
    Use(Name),
    /// Show a context, without its key
    #[command(after_help = "Examples:\n  isyctl context show\n  isyctl context show prod")]
    Show {
        /// The context's name; else the one in use
        name: Option<String>,
    },
    /// Keep a context file; the first one is used from then on
    Import(Import),
    /// Remove a context and its private key from this machine
    Remove(Remove),
}

/// Names one context.
#[derive(Debug, Args)]
pub struct Name {
    /// The context's name
    name: String,
}

/// `isyctl context import`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  isyctl context import admin.toml\n  isyctl context import ana.toml --name prod"
)]
pub struct Import {
    /// A context file, from `isy-coordinator init` or `isyctl operator create`
    file: PathBuf,
    /// Another name than the file says
    #[arg(long)]
    name: Option<ShortName>,
    /// Replace a context of the same name
    #[arg(long)]
    force: bool,
}

/// `isyctl context remove`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  isyctl context remove old\n  isyctl context remove old --yes")]
pub struct Remove {
    /// The context's name
    name: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// What is shown of a context: everything but the key.
#[derive(Serialize)]
struct ContextView {
    name: String,
    current: bool,
    endpoint: String,
    operator: Option<String>,
    role: Option<String>,
    certificate_expire_time: Option<String>,
    ca_fingerprint: Option<String>,
    file: String,
}

impl ContextCommand {
    pub fn run(self, app: &App) -> Outcome {
        // Without a folder a file can still be shown.
        if let Self::Show { name } = self {
            return show(app, name.as_deref());
        }
        let store = Store::open()?;
        match self {
            Self::List => list(app, &store),
            Self::Use(Name { name }) => {
                store.existing(&name)?;
                choose(app, &store, &parsed(&name)?)
            }
            Self::Show { name } => show(app, name.as_deref()),
            Self::Import(command) => command.run(app, &store),
            Self::Remove(command) => command.run(app, &store),
        }
    }
}

fn parsed(name: &str) -> Result<ShortName, Failure> {
    name.parse()
        .map_err(|e| Failure::usage(format!("`{name}` cannot name a context: {e}")))
}

fn choose(app: &App, store: &Store, name: &ShortName) -> Outcome {
    store.choose(name)?;
    app.ui.note(&format!("context {name} is in use"));
    Ok(Exit::Done)
}

fn view(name: &str, path: &Path, context: &Context, current: bool) -> ContextView {
    let info = context.certificate().ok();
    let (operator, role) = match info.as_ref().map(|info| &info.identity) {
        Some(Identity::Operator(name, role)) => (Some(name.to_string()), Some(role.to_string())),
        _ => (None, None),
    };
    let ca = tls::certificates("CA", &context.ca_pem).ok();
    ContextView {
        name: name.to_owned(),
        current,
        endpoint: context.endpoint.clone(),
        operator,
        role,
        certificate_expire_time: info.as_ref().and_then(|info| format::rfc3339(&end(info))),
        ca_fingerprint: ca.map(|chain| tls::fingerprint(&chain[0])),
        file: path.display().to_string(),
    }
}

fn end(info: &CertificateInfo) -> prost_types::Timestamp {
    timestamp(info.not_after.saturating_mul(1000))
}

fn list(app: &App, store: &Store) -> Outcome {
    let current = store.current()?;
    let mut table = Table::new(["", "NAME", "COORDINATOR", "OPERATOR", "ROLE", "CERTIFICATE"]);
    let mut views = Vec::new();
    for name in store.names()? {
        let path = store.path(&name);
        let (context, _) = match Context::read(&path) {
            Ok(read) => read,
            Err(failure) => {
                // One broken file must not hide the others.
                app.ui.note(&format!("warning: {}", failure.message));
                continue;
            }
        };
        let view = view(
            name.as_str(),
            &path,
            &context,
            current.as_ref() == Some(&name),
        );
        table.row([
            if view.current { "*" } else { "" }.into(),
            name.as_str().into(),
            context.endpoint.as_str().into(),
            view.operator.as_deref().unwrap_or("-").into(),
            view.role.as_deref().unwrap_or("-").into(),
            validity(&context, clock::now_ms()),
        ]);
        views.push(view);
    }
    if views.is_empty() && app.ui.for_people() {
        app.ui
            .note("no contexts; `isyctl context import FILE` keeps one");
    }
    let names = || views.iter().map(|view| view.name.clone()).collect();
    app.ui.emit(&views, names, |_| {
        if views.is_empty() {
            String::new()
        } else {
            table.render()
        }
    })?;
    Ok(Exit::Done)
}

/// How long the certificate remains valid.
fn validity(context: &Context, now_ms: i64) -> Cell {
    let Ok(info) = context.certificate() else {
        return Paint::Bad.on("unreadable");
    };
    let left = info.not_after.saturating_mul(1000).saturating_sub(now_ms);
    if left <= 0 {
        Paint::Bad.on("expired")
    } else {
        format!("{} left", format::duration(left)).into()
    }
}

fn show(app: &App, name: Option<&str>) -> Outcome {
    let path = context::find(name.or(app.asked_context()))?;
    let (context, exposed) = Context::read(&path)?;
    if exposed {
        app.ui.note(&format!(
            "warning: others can read {}: it holds a private key, and is not used until `chmod 600`",
            path.display()
        ));
    }
    let stem = path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or(&context.name)
        .to_owned();
    let current = Store::open().ok().is_some_and(|store| {
        let current = store.current().ok().flatten();
        current.is_some_and(|current| store.path(&current) == path)
    });
    let view = view(&stem, &path, &context, current);
    let text = |_| {
        let until = context
            .certificate()
            .map(|info| format::local(Some(&end(&info))))
            .unwrap_or_else(|e| e.to_string());
        Table::pairs([
            ("Name", stem.as_str().into()),
            ("Coordinator", context.endpoint.as_str().into()),
            ("Operator", view.operator.as_deref().unwrap_or("-").into()),
            ("Role", view.role.as_deref().unwrap_or("-").into()),
            (
                "Certificate until",
                format!("{until} ({})", validity(&context, clock::now_ms())).into(),
            ),
            (
                "CA (SHA-256)",
                view.ca_fingerprint.as_deref().unwrap_or("-").into(),
            ),
            ("File", view.file.as_str().into()),
        ])
    };
    app.ui.emit(&view, || vec![stem.clone()], text)?;
    Ok(Exit::Done)
}

impl Import {
    fn run(self, app: &App, store: &Store) -> Outcome {
        // Also one that others can read: the copy is private.
        let (mut context, exposed) = Context::read(&self.file)?;
        let unusable = |e: tls::TlsError| {
            Failure::usage(format!(
                "{} is no usable context: {}",
                self.file.display(),
                tls::error_chain(&e)
            ))
        };
        tls::client_config(&context.ca_pem, &context.certificate_pem, &context.key_pem)
            .map_err(unusable)?;
        let name = match self.name {
            Some(name) => name,
            None => parsed(&context.name)
                .map_err(|failure| failure.hint("give it another with --name"))?,
        };
        context.name = name.to_string();
        let first = store.names()?.is_empty();
        store
            .save(&name, &context, self.force)
            .map_err(|failure| match failure.hint {
                Some(_) => {
                    failure.hint("choose another name with --name, or replace it with --force")
                }
                None => failure,
            })?;
        app.ui.note(&format!(
            "context {name} is kept; {} still holds the key, remove it if you need it no more",
            clean(&self.file.display().to_string())
        ));
        if exposed {
            app.ui.note(&format!(
                "warning: others can read {}: if somebody may have, let an admin revoke the operator",
                clean(&self.file.display().to_string())
            ));
        }
        if first {
            choose(app, store, &name)
        } else {
            Ok(Exit::Done)
        }
    }
}

impl Remove {
    fn run(self, app: &App, store: &Store) -> Outcome {
        store.existing(&self.name)?;
        let name = parsed(&self.name)?;
        let question = format!("Remove the context {name} and its private key from this machine?");
        if !self.yes
            && !app
                .ui
                .confirm(&format!("remove the context `{name}`"), &question)?
        {
            app.ui.note("nothing was changed");
            return Ok(Exit::Failed);
        }
        store.remove(&name)?;
        app.ui.note(&format!("context {name} is removed"));
        Ok(Exit::Done)
    }
}
