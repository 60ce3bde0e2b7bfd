//! How a tenant's Odoo sends mail: its own settings, or those of its plan or the fleet again.
//!
//! Not here: sealing the password (the coordinator's operators), what becomes of the settings on its host (its agent, which makes
//! Odoo's container anew where they differ).

use isyone_types::{
    ids::TenantName,
    mail::{Mail, MailHost, MailTls},
};

use super::{
    super::{ChangeError, Edit, Outcome},
    wrong_state,
};
use crate::{
    desired::{Sealed, Tenant},
    event::EventKind,
    operation::OperationKind,
    views,
};

/// Arguments of [`crate::change::Command::SetMail`].
#[derive(Debug, Clone)]
pub struct SetMail {
    pub name: TenantName,
    /// Its own settings; `None`: those of its plan or the fleet again.
    pub mail: Option<Mail>,
    /// Its passwords as they were, and with that of its mail server, sealed. `None`: they stay.
    pub secrets: Option<(Sealed, Sealed)>,
    pub request_id: Option<String>,
}

impl Edit<'_> {
    pub(in crate::change) fn set_mail(&mut self, set: SetMail) -> Result<Outcome, ChangeError> {
        let SetMail {
            name,
            mail,
            secrets,
            request_id,
        } = set;
        if let Some(operation) =
            self.repeated(&[OperationKind::Restart], &name, request_id.as_deref())?
        {
            return Ok(Outcome::Operation(operation));
        }
        let mut tenant = self.living(&name)?;
        if mail.is_some() {
            self.check_sets_mail(&tenant)?;
        }
        if let Some((was, now)) = secrets {
            // Sealed anew meanwhile, by another key or with another password: theirs must not be undone.
            if tenant.secrets != was {
                let problem = "has other passwords than a moment ago; try again".to_owned();
                return Err(wrong_state(&name, problem));
            }
            tenant.secrets = now;
        }
        if let Some(problem) = mail.as_ref().and_then(|mail| self.no_way(&tenant, mail)) {
            return Err(wrong_state(&name, problem));
        }
        tenant.mail = mail.map(Box::new);
        self.finish(
            tenant,
            OperationKind::Restart,
            request_id.into(),
            EventKind::TenantMailChanged,
        )
    }

    /// Why the tenant's network would not let it reach the server. An operator's word opens no way to machines that are closed to
    /// tenants: the configuration's does.
    fn no_way(&self, tenant: &Tenant, mail: &Mail) -> Option<String> {
        let relay = mail.relay()?;
        let rules = self.settings.network_rules.get(&tenant.spec.plan);
        let sends_anywhere = rules.is_some_and(|rules| rules.smtp);
        let declared = relay
            .place()
            .is_some_and(|place| views::mail_relays(self.settings).contains(&place));
        match &relay.host {
            _ if declared => None,
            MailHost::OwnHost => Some(format!(
                "would not reach port {port} of its own host: `mail_relays` in [network] of the coordinator's configuration has to name \
                 \"host:{port}\"",
                port = relay.port
            )),
            _ if relay.port == MailTls::None.port() && !sends_anywhere => Some(
                "would not reach the server: port 25 is closed to it; use the provider's port 587 or 465, or a plan with egress_smtp"
                    .to_owned(),
            ),
            MailHost::Address(_) | MailHost::Name(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use isyone_types::{
        mail::{Relay, Via},
        odoo::OdooSettings,
        plan::TenantSecrets,
    };

    use super::*;
    use crate::{
        change::{Command, SetOdoo},
        observed::Hello,
        settings::ConfiguredMail,
        testing::{Bench, name, resources},
        views::SettingSource,
    };

    fn configured(per_day: u32) -> ConfiguredMail {
        ConfiguredMail {
            mail: Mail {
                per_day,
                ..Mail::by(Via::Catcher)
            },
            password_mark: String::new(),
        }
    }

    fn set(bench: &mut Bench, mail: Option<Mail>, was: &str) -> Result<Outcome, ChangeError> {
        bench.apply(Command::SetMail(Box::new(SetMail {
            name: name("alfa"),
            mail,
            secrets: Some((Sealed(was.into()), Sealed("anew".into()))),
            request_id: None,
        })))
    }

    fn seen(bench: &Bench) -> Option<(u32, SettingSource)> {
        let alfa: TenantName = name("alfa");
        let tenant = &bench.state.fleet.tenants[&alfa];
        let found = views::mail(&bench.settings, tenant);
        found.map(|(mail, source)| (mail.per_day, source))
    }

    #[test]
    fn a_tenants_own_settings_come_before_its_plans_and_these_before_the_fleets() {
        let mut bench = Bench::default();
        bench.host("h1", resources(8, 32, 100));
        bench.create("alfa", "small").unwrap();
        let alfa: TenantName = name("alfa");
        let report = bench.converged(&alfa);
        bench.report(&name("h1"), resources(8, 32, 100), vec![report]);
        assert_eq!(seen(&bench), None);
        bench.settings.mail.fleet = Some(configured(1));
        assert_eq!(seen(&bench), Some((1, SettingSource::Fleet)));
        let plans = &mut bench.settings.mail.plans;
        plans.insert(name("small"), configured(2));
        assert_eq!(seen(&bench), Some((2, SettingSource::Plan)));
        let was = bench.state.fleet.tenants[&alfa].secrets.clone();
        let own = Mail::by(Via::Nobody);
        assert!(set(&mut bench, Some(own.clone()), "another").is_err());
        assert_eq!(bench.state.fleet.tenants[&alfa].secrets, was);
        let generation = bench.state.fleet.tenants[&alfa].generation;
        set(&mut bench, Some(own.clone()), &was.0).unwrap();
        let changed = bench.state.fleet.tenants[&alfa].clone();
        assert_eq!(changed.secrets.0.as_ref(), "anew");
        assert!(changed.generation > generation, "its host is told");
        assert_eq!(seen(&bench), Some((0, SettingSource::Tenant)));
        let open = |_: &Tenant| Ok::<_, ()>(TenantSecrets::default());
        let plan = views::host_plan(
            &bench.state,
            &bench.settings,
            &name("h1"),
            open,
            |_| Err(()),
        );
        let plan = plan.unwrap();
        assert_eq!(plan.unwrap().tenants[0].mail, Some(own));
    }

    #[test]
    fn what_a_tenant_could_not_reach_is_refused() {
        let mut bench = Bench::default();
        bench.host("h1", resources(8, 32, 100));
        bench.create("alfa", "small").unwrap();
        let alfa: TenantName = name("alfa");
        let report = bench.converged(&alfa);
        bench.report(&name("h1"), resources(8, 32, 100), vec![report]);
        let at = |host: &str, port| {
            Mail::by(Via::Relay(Relay {
                host: host.parse().unwrap(),
                port,
                tls: MailTls::None,
                unverified: false,
                user: None,
            }))
        };
        let was = bench.state.fleet.tenants[&alfa].secrets.clone();
        let said = set(&mut bench, Some(at("host", 25)), &was.0).unwrap_err();
        assert!(said.to_string().contains("\"host:25\""), "{said}");
        let said = set(&mut bench, Some(at("smtp.example.com", 25)), &was.0).unwrap_err();
        assert!(said.to_string().contains("587"), "{said}");
        bench.settings.network.mail_relays = vec!["host:25".parse().unwrap()];
        set(&mut bench, Some(at("host", 25)), &was.0).unwrap();
    }

    /// Fails if an operator is told that it is done where nothing will be.
    #[test]
    fn what_its_hosts_agent_is_too_old_for_is_refused() {
        let mut bench = Bench::default();
        let h1 = bench.host("h1", resources(8, 32, 100));
        bench.create("alfa", "small").unwrap();
        let alfa: TenantName = name("alfa");
        let report = bench.converged(&alfa);
        bench.report(&h1, resources(8, 32, 100), vec![report]);
        let was = bench.state.fleet.tenants[&alfa].secrets.clone();
        for (sets_mail, refused) in [(false, true), (true, false)] {
            let hello = Hello {
                agent_version: "0.9.1".to_owned(),
                sets_mail,
                sorts: false,
                ..Hello::default()
            };
            let accepted_generation = bench.state.fleet.hosts[&h1].plan_generation;
            let greet = Command::Greet {
                host: h1.clone(),
                hello,
                accepted_generation,
            };
            bench.apply(greet).unwrap();
            let mut said = set(&mut bench, Some(Mail::by(Via::Catcher)), &was.0).err();
            if refused {
                let mut odoo = OdooSettings::default();
                odoo.set("log_level".parse().unwrap(), "warn").unwrap();
                let asked = Command::SetOdoo(Box::new(SetOdoo {
                    name: alfa.clone(),
                    set: odoo,
                    unset: Vec::new(),
                    request_id: None,
                }));
                let mut sorted = bench.creation("beta", "small");
                sorted.spec.collation = Some("pt-BR".parse().unwrap());
                let sorted = Command::CreateTenant(Box::new(sorted));
                for asked in [asked, sorted] {
                    let also = bench.apply(asked).unwrap_err().to_string();
                    assert!(also.contains("upgrade isy-agent"), "{also}");
                }
                let said = said.take().unwrap().to_string();
                assert!(said.contains("h1") && said.contains("0.9.1"), "{said}");
            }
            assert!(said.is_none());
            // Of mail it knows, of orders it does not.
            let mut sorted = bench.creation("gama", "small");
            sorted.spec.collation = Some("pt-BR".parse().unwrap());
            let sorted = Command::CreateTenant(Box::new(sorted));
            let also = bench.apply(sorted).unwrap_err().to_string();
            assert!(also.contains("upgrade isy-agent"), "{also}");
        }
    }

    /// Fails if hosts are not told when only a password in the configuration is another.
    #[test]
    fn another_password_changes_the_plans() {
        let mut bench = Bench::default();
        let mut digests = vec![bench.settings.plan_digest()];
        for mark in ["", "a", "b"] {
            let mail = ConfiguredMail {
                password_mark: mark.to_owned(),
                ..configured(0)
            };
            bench.settings.mail.fleet = Some(mail);
            digests.push(bench.settings.plan_digest());
        }
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), 4);
    }
}
