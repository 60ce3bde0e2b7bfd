//! `isyctl operator renew`: a new certificate in the place of all that an operator has, so that whoever has stolen one is cut
//! off.
//!
//! Who renews itself is answered over a connection with the old certificate. So the new one is written to the context
//! file first, and the coordinator refuses the old one when somebody comes with the new one: at no moment is there none.

use std::{fs, path::PathBuf, time::Duration};

use clap::{Args, builder::PossibleValuesParser};
use isyone_proto::{
    pb::v1::{RenewOperatorRequest, RetireCertificatesRequest},
    tls::Identity,
};

use super::{
    ROLES, days, emit, explain, is_file_name,
    papers::{self, Papers, Place},
    role,
};
use crate::{
    app::App,
    client::Client,
    context::Context,
    exit::{Exit, Failure, Outcome},
    options,
    output::table::clean,
};

/// `isyctl operator renew`.
#[derive(Debug, Args)]
#[command(after_help = "\
All earlier certificates of the operator are refused from then on, wherever they lie, and connections with them are cut. \
Your own is replaced in the context file in use. Another operator's is for admins, and comes as a file to hand over.

Examples:
  isyctl operator renew
  isyctl operator renew ana
  isyctl operator renew ana --role viewer --out ana.toml
  isyctl operator renew prometheus2 --pem /etc/prometheus/isyone")]
pub struct Renew {
    /// The operator's name; else your own
    name: Option<String>,
    /// Another role: monitor, viewer, operator or admin
    #[arg(long, value_parser = PossibleValuesParser::new(ROLES), hide_possible_values = true)]
    role: Option<String>,
    /// Where to write the context file [default: your own in its place, another operator's to NAME.toml]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// In place of a context file, write ca.pem, NAME.pem and NAME.key into this directory, over those there
    #[arg(long, value_name = "DIR", conflicts_with = "out")]
    pem: Option<PathBuf>,
    /// How long the certificate is valid, in whole days (a year, at most five). Your own, unless you are an admin,
    /// ends no later than the one that it replaces
    #[arg(long, value_name = "TIME", value_parser = options::duration)]
    ttl: Option<Duration>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// The operator that a client's certificate is of.
fn own_name(client: &Client) -> Result<String, Failure> {
    let context = client.context();
    match context.certificate().map(|info| info.identity) {
        Ok(Identity::Operator(name, _)) => Ok(name.to_string()),
        _ => Err(Failure::usage(format!(
            "the context `{}` has no operator's certificate",
            context.name
        ))),
    }
}

impl Renew {
    pub(super) async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let own = own_name(&client)?;
        let name = self.name.clone().unwrap_or_else(|| own.clone());
        is_file_name(&name)?;
        let in_place = name == own && self.out.is_none() && self.pem.is_none();
        let place = if in_place {
            // A link stays one: what it leads to is replaced.
            let file = app.context_file()?;
            Place::Context(fs::canonicalize(&file).unwrap_or(file))
        } else {
            Place::of(self.out.clone(), self.pem.clone(), &name)
        };
        let doing = format!("renew operator `{}`", clean(&name));
        let question = format!(
            "Refuse all certificates of {} from now on, for a new one in {}?",
            clean(&name),
            place.certificate().display()
        );
        if name != own && !self.yes && !app.ui.confirm(&doing, &question)? {
            app.ui.note("nothing was changed");
            return Ok(Exit::Failed);
        }
        let replace = in_place || self.pem.is_some();
        let (key_pem, csr_pem) = papers::new_key(&name)?;
        let mut draft = papers::draft(&client, &name, key_pem);
        if in_place {
            draft.name.clone_from(&client.context().name);
        }
        let papers = Papers::reserve(place, &draft, replace)?;
        let request = client.request(RenewOperatorRequest {
            name: name.clone(),
            csr_pem,
            ttl_days: days(self.ttl),
            role: self.role.as_deref().map_or(0, |word| role(word).into()),
        });
        let made = client
            .call(&doing, client.operators().renew_operator(request))
            .await?;
        let context = Context {
            ca_pem: made.ca_pem,
            certificate_pem: made.certificate_pem,
            ..draft
        };
        let again = "run `isyctl operator renew` again: nobody has the certificate that was made";
        let place = papers.fill(&context).map_err(|f| f.hint(again))?;
        if made.old_is_accepted {
            let before = in_place.then(|| client.context().clone());
            retire(app, context, before, &place).await?;
        }
        let operator = made.operator.unwrap_or_default();
        emit(app, &operator, &place)?;
        if app.ui.for_people() {
            if !in_place {
                explain(app, &operator, &place);
            }
            app.ui.note(&format!(
                "what {} had before is refused from now on, and its connections are cut",
                clean(&name)
            ));
            if operator.prometheus {
                app.ui.note("the coordinator makes Prometheus' own certificate anew within 30 s, with a new key");
            }
        }
        Ok(Exit::Done)
    }
}

/// Comes with the new certificate, whereupon the old one is refused.
async fn retire(
    app: &App,
    context: Context,
    before: Option<Context>,
    place: &Place,
) -> Result<(), Failure> {
    let fresh = app.client_of(context)?;
    let retired = fresh
        .read(
            "have the old certificate refused",
            RetireCertificatesRequest {},
            |c, r| async move { c.operators().retire_certificates(r).await },
        )
        .await;
    let Err(failure) = retired else {
        return Ok(());
    };
    if failure.exit != Exit::Denied {
        return Err(failure.hint(
            "the new certificate is in its file and works; the old one does as well until `isyctl operator renew` is run again",
        ));
    }
    // Somebody else with the same certificate was faster. If it has not come with its own yet, the old one still works.
    if let Some(before) = before {
        before.write(&place.certificate(), true)?;
    }
    Err(failure.hint(
        "somebody else has renewed this operator with the same certificate: let an admin renew it (`isyctl operator renew NAME`)",
    ))
}
