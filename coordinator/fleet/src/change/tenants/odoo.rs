//! Settings of a tenant's Odoo: its own, in place of its plan's and the fleet's.
//!
//! Not here: which there are, their types and bounds (isyone_types::odoo), what becomes of them on its host (its agent, which makes
//! Odoo's container anew where they differ).

use isyone_types::{
    ids::TenantName,
    odoo::{self, OdooSettings},
};

use super::{
    super::{ChangeError, Edit, Outcome},
    wrong_state,
};
use crate::{event::EventKind, operation::OperationKind};

/// Arguments of [`crate::change::Command::SetOdoo`].
#[derive(Debug, Clone)]
pub struct SetOdoo {
    pub name: TenantName,
    /// Added to its own.
    pub set: OdooSettings,
    /// Taken away from them, before that.
    pub unset: Vec<odoo::Name>,
    pub request_id: Option<String>,
}

impl Edit<'_> {
    pub(in crate::change) fn set_odoo(&mut self, asked: SetOdoo) -> Result<Outcome, ChangeError> {
        let SetOdoo {
            name,
            set,
            unset,
            request_id,
        } = asked;
        if let Some(operation) =
            self.repeated(&[OperationKind::Restart], &name, request_id.as_deref())?
        {
            return Ok(Outcome::Operation(operation));
        }
        let mut tenant = self.living(&name)?;
        if !set.is_empty() {
            self.check_sets_mail(&tenant)?;
        }
        let mut said = Vec::new();
        for gone in unset {
            if !tenant.odoo.remove(gone) {
                let problem = format!("has no setting `{gone}` of its own");
                return Err(wrong_state(&name, problem));
            }
            said.push(format!("{gone}: as its plan or the fleet"));
        }
        said.extend(set.iter().map(|(name, value)| format!("{name} = {value}")));
        tenant.odoo = std::mem::take(&mut tenant.odoo).under(&set);
        let operation = self.change(tenant, OperationKind::Restart, request_id.into())?;
        let tenant = self.tenant(&name)?;
        self.event(
            EventKind::TenantSettingsChanged,
            Some(&tenant),
            None,
            Some(operation.id),
            said.join("; "),
        );
        Ok(Outcome::Operation(operation))
    }
}

#[cfg(test)]
mod tests {
    use isyone_types::plan::TenantSecrets;

    use super::*;
    use crate::{
        change::Command,
        desired::Tenant,
        testing::{Bench, name, resources},
        views::{self, SettingSource},
    };

    fn settings(pairs: &[(&str, &str)]) -> OdooSettings {
        let mut settings = OdooSettings::default();
        for (name, value) in pairs {
            settings.set(name.parse().unwrap(), value).unwrap();
        }
        settings
    }

    fn set(
        bench: &mut Bench,
        pairs: &[(&str, &str)],
        unset: &[&str],
    ) -> Result<Outcome, ChangeError> {
        bench.apply(Command::SetOdoo(Box::new(SetOdoo {
            name: name("alfa"),
            set: settings(pairs),
            unset: unset.iter().map(|name| name.parse().unwrap()).collect(),
            request_id: None,
        })))
    }

    fn well(bench: &mut Bench) {
        let report = bench.converged(&name("alfa"));
        bench.report(&name("h1"), resources(8, 32, 100), vec![report]);
    }

    #[test]
    fn each_setting_is_the_tenants_own_else_its_plans_else_the_fleets() {
        let mut bench = Bench::default();
        bench.host("h1", resources(8, 32, 100));
        bench.create("alfa", "small").unwrap();
        well(&mut bench);
        bench.settings.odoo.fleet = settings(&[
            ("log_level", "warn"),
            ("limit_request", "1000"),
            ("unaccent", "true"),
        ]);
        let plans = &mut bench.settings.odoo.plans;
        plans.insert(
            name("small"),
            settings(&[("limit_request", "2000"), ("unaccent", "false")]),
        );
        set(
            &mut bench,
            &[("unaccent", "true"), ("limit_time_real", "300")],
            &[],
        )
        .unwrap();
        let alfa: TenantName = name("alfa");
        let chosen = |bench: &Bench| -> Vec<(String, String, SettingSource)> {
            let rows = views::chosen(&bench.settings, &bench.state.fleet.tenants[&alfa]);
            rows.into_iter()
                .map(|(n, v, s)| (n.to_owned(), v.to_owned(), s))
                .collect()
        };
        let row = |name: &str, value: &str, source| (name.to_owned(), value.to_owned(), source);
        let mut rows = vec![
            row("limit_request", "2000", SettingSource::Plan),
            row("limit_time_real", "300", SettingSource::Tenant),
            row("log_level", "warn", SettingSource::Fleet),
            row("unaccent", "True", SettingSource::Tenant),
        ];
        assert_eq!(chosen(&bench), rows);
        let open = |_: &Tenant| Ok::<_, ()>(TenantSecrets::default());
        let plan = views::host_plan(
            &bench.state,
            &bench.settings,
            &name("h1"),
            open,
            |_| Err(()),
        );
        let plan = plan.unwrap();
        let plan = plan.unwrap().tenants.remove(0).odoo;
        assert_eq!(plan.iter().count(), 4);
        assert_eq!(plan.get("unaccent"), Some("True"));
        well(&mut bench);
        set(&mut bench, &[], &["unaccent"]).unwrap();
        rows[3] = row("unaccent", "False", SettingSource::Plan);
        assert_eq!(chosen(&bench), rows);
        well(&mut bench);
        let said = set(&mut bench, &[], &["log_level"])
            .unwrap_err()
            .to_string();
        assert!(said.contains("no setting `log_level` of its own"), "{said}");
    }
}
