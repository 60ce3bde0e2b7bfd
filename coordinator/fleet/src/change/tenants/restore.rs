//! Restores a tenant from a backup, as a new one or in its place, and returns to what it was before that.
//!
//! What cannot be is said before anything starts: no key, a moment that no backup reaches, a gap, no host with room.
//! Not here: which backup that is (backups/restore), the stages (procedures/restore).

use std::collections::BTreeMap;

use isyone_types::{
    ids::{ShortName, TenantName},
    mail::{Mail, Via},
    plan::{Before, Lifecycle},
    report::Stuck,
    spec::{Size, TenantSpec},
};
use uuid::Uuid;

use super::{
    super::{ChangeError, CreateTenant, Edit, Outcome, RestoreTenant, done_step},
    wrong_state,
};
use crate::{
    backups::{self, NoPoint, Offer, RestorePoint, Wanted},
    desired::{Tenant, TenantPlacement},
    event::EventKind,
    observed::CopyObserved,
    operation::{OperationKind, Procedure, Restoration, RestoreStage},
    placement::{self, Request},
    views::{self, utc},
};

/// Who was backed up: a tenant, or one of which nothing but its backups is left.
struct Source {
    name: TenantName,
    uid: Uuid,
    spec: TenantSpec,
    size: Size,
    offers: BTreeMap<ShortName, Offer>,
    is_there: bool,
}

impl Edit<'_> {
    /// `wanted` may be a backup of an older one of several that were called so.
    fn source(&self, name: &TenantName, wanted: &Wanted) -> Result<Source, ChangeError> {
        let (state, settings) = (&*self.state, self.settings);
        if !state.fleet.tenants.contains_key(name)
            && let Some((of, gone)) = views::gone(state, name, Some(wanted))
        {
            return Ok(Source {
                name: name.clone(),
                uid: of.tenant,
                spec: gone.spec.clone(),
                size: gone.size,
                offers: views::offers_of_the_gone(settings, of, gone),
                is_there: false,
            });
        }
        let tenant = self.tenant(name)?;
        Ok(Source {
            name: name.clone(),
            uid: tenant.uid,
            spec: tenant.spec.clone(),
            size: tenant.size,
            offers: views::offers(state, settings, &tenant, self.stamp.now),
            is_there: true,
        })
    }

    pub(in crate::change) fn restore_tenant(
        &mut self,
        asked: RestoreTenant,
    ) -> Result<Outcome, ChangeError> {
        let kinds = [OperationKind::Restore];
        if let Some(operation) = self.repeated(&kinds, &asked.name, asked.request_id.as_deref())? {
            return Ok(Outcome::Operation(operation));
        }
        let source = self.source(&asked.source, &asked.wanted)?;
        if asked.name == asked.source && source.is_there {
            if asked.as_new {
                let problem = "is there: a new one needs another name (without --as it is restored in its place)";
                return Err(wrong_state(&asked.name, problem.to_owned()));
            }
            return self.restore_in_place(asked);
        }
        if asked.name == asked.source && !asked.as_new {
            let problem = "is gone, there is nothing to restore it in place of: as a new tenant it is restored with --as, under its own name, \
                           too";
            return Err(wrong_state(&asked.name, problem.to_owned()));
        }
        self.check_free(&asked)?;
        let point = self.restore_point(&source, &asked)?;
        let place = self.place_for(&source, &asked)?;
        let now = self.stamp.now;
        let log = vec![
            done_step("place", place.reason.to_string(), now),
            done_step("choose", told(&point), now),
        ];
        let tenant = self.filled_later(&source, &asked, place);
        let host = tenant.placement.host.clone();
        let message = format!("from `{}`, {}", source.name, told(&point));
        let procedure = Procedure::Restore(Box::new(Restoration {
            host: host.clone(),
            source: source.name.clone(),
            source_uid: source.uid,
            point,
            rekey: true,
            neutralise: !asked.live,
            in_place: false,
            generation: tenant.generation,
            stage: RestoreStage::Prepare,
        }));
        let kind = OperationKind::Restore;
        let operation = self.begin(kind, &tenant, procedure, asked.request_id, log);
        let tenant = self.put_tenant(tenant);
        let ordered = EventKind::TenantRestoreOrdered;
        let id = Some(operation.id);
        self.event(ordered, Some(&tenant), Some(&host), id, message);
        Ok(Outcome::Operation(operation))
    }

    /// It is stopped, what it has is set aside, and it comes back as it was. Its keys, passwords and address stay.
    fn restore_in_place(&mut self, asked: RestoreTenant) -> Result<Outcome, ChangeError> {
        let mut tenant = self.living(&asked.name)?;
        self.check_idle(&tenant, false)?;
        let host = tenant.placement.host.clone();
        let problem = match &tenant {
            tenant if tenant.desired != Lifecycle::Running || tenant.activated_at.is_none() => {
                Some("does not run: resume it first, so that it shows whether it is well with what is restored".to_owned())
            }
            _ if asked.host.as_ref().is_some_and(|wanted| *wanted != host) => Some(format!(
                "is on host {host}: in its place it is restored there; move it, or restore it under another name"
            )),
            tenant if self.is_beyond_help(tenant) => Some(
                "has nothing on its host that could be set aside, or what is there is in doubt (`isyctl tenant show`): restore it under \
                 another name (--as)"
                    .to_owned(),
            ),
            tenant if self.keeps_before(tenant).is_some() => self.keeps_before(tenant),
            _ if !self.host(&host)?.makes_backups => Some(format!(
                "is on host {host}, whose agent is of a version before"
            )),
            _ => None,
        };
        if let Some(problem) = problem {
            return Err(wrong_state(&asked.name, problem));
        }
        self.check_disk(&tenant)?;
        let point = self.restore_point(&self.source(&tenant.name, &asked.wanted)?, &asked)?;
        let log = vec![done_step("choose", told(&point), self.stamp.now)];
        let message = format!("in its place, {}", told(&point));
        tenant.halted = true;
        tenant.generation += 1;
        self.check_standby_may_go(&tenant)?;
        tenant.follow_anew();
        self.make_way(&tenant, OperationKind::Restore);
        tenant.operation = self.stamp.id;
        let procedure = Procedure::Restore(Box::new(Restoration {
            host: host.clone(),
            source: tenant.name.clone(),
            source_uid: tenant.uid,
            point,
            rekey: false,
            neutralise: false,
            in_place: true,
            generation: tenant.generation,
            stage: RestoreStage::Stop,
        }));
        let kind = OperationKind::Restore;
        let operation = self.begin(kind, &tenant, procedure, asked.request_id, log);
        let tenant = self.put_tenant(tenant);
        let ordered = EventKind::TenantRestoreOrdered;
        let id = Some(operation.id);
        self.event(ordered, Some(&tenant), Some(&host), id, message);
        Ok(Outcome::Operation(operation))
    }

    /// Whether its host says that nothing can be done with what it has of the tenant: it could not be stopped in order, either.
    fn is_beyond_help(&self, tenant: &Tenant) -> bool {
        let seen = views::copy(self.state, tenant, &tenant.placement.host);
        matches!(seen, CopyObserved::Present(seen) if seen.report.stuck == Stuck::Blocked)
    }

    /// Why nothing can be set aside now: what it was before an earlier restore is there, and nothing that is kept goes for another restore.
    fn keeps_before(&self, tenant: &Tenant) -> Option<String> {
        let before = tenant.before.as_ref()?;
        let (name, host) = (&tenant.name, &tenant.placement.host);
        if before.host == *host && before.is_kept() {
            let until = before
                .until
                .map_or(String::new(), |until| format!(" until {}", utc(until)));
            return Some(format!(
                "was restored in its place before, and what it was then is kept{until}: return to that first (`isyctl tenant restore {name} \
                 --to before`), or restore it under another name (--as)"
            ));
        }
        let changes = before.host == *host && !self.is_seen_well(tenant);
        changes.then(|| {
            "is just being put back, or what it was before its last restore is being removed; try again when it is well".to_owned()
        })
    }

    /// What a tenant was before it was restored in its place takes the place of what it has been since.
    pub(in crate::change) fn return_tenant(
        &mut self,
        name: &TenantName,
        request_id: Option<String>,
    ) -> Result<Outcome, ChangeError> {
        let kinds = [OperationKind::Restore];
        if let Some(operation) = self.repeated(&kinds, name, request_id.as_deref())? {
            return Ok(Outcome::Operation(operation));
        }
        let mut tenant = self.living(name)?;
        let Some(before) = &mut tenant.before else {
            let problem = "was not restored in its place: there is nothing to return to";
            return Err(wrong_state(name, problem.to_owned()));
        };
        let Before::Keep(restore) = before.wish else {
            let problem =
                "has nothing to return to any more: its time was over, or it has returned";
            return Err(wrong_state(name, problem.to_owned()));
        };
        if before.host != tenant.placement.host {
            let problem = format!(
                "was restored on host {}, where that still lies, and lives on host {} since: move it back first",
                before.host, tenant.placement.host
            );
            return Err(wrong_state(name, problem));
        }
        before.wish = Before::Return(restore);
        self.check_standby_may_go(&tenant)?;
        tenant.follow_anew();
        self.check_disk(&tenant)?;
        let kind = EventKind::TenantRestoreOrdered;
        self.finish(tenant, OperationKind::Restore, request_id.into(), kind)
    }

    fn check_free(&self, asked: &RestoreTenant) -> Result<(), ChangeError> {
        let Some(known) = self.state.fleet.tenants.get(&asked.name) else {
            return Ok(());
        };
        let problem = match known.is_deleted() {
            false => "exists: choose another name for what is restored",
            true => {
                "was deleted, and its name is not free yet: choose another for what is restored"
            }
        };
        Err(wrong_state(&asked.name, problem.to_owned()))
    }

    /// The backup that is meant; an error where there is none, or nobody can read it.
    fn restore_point(
        &self,
        source: &Source,
        asked: &RestoreTenant,
    ) -> Result<RestorePoint, ChangeError> {
        let refused = |problem: String| ChangeError::NotRestorable {
            source_name: source.name.clone(),
            problem,
        };
        let fleet = &self.state.fleet;
        if !fleet.backup_keys.contains_key(&source.uid) {
            let problem =
                "there is no key of its backups: none were made, or it was deleted on purpose";
            return Err(refused(problem.to_owned()));
        }
        let mut offers = source.offers.clone();
        if let Some(only) = &asked.destination {
            if !self.settings.backups.destinations.contains_key(only) {
                return Err(refused(format!("there is no destination {only}")));
            }
            offers.retain(|name, _| name == only);
        }
        let unheard = source.is_there && self.is_unheard(&source.name);
        backups::choose(&offers, asked.wanted).map_err(|why| {
            let may_be_more = match why {
                NoPoint::TooLate { .. } if unheard => {
                    ". Its host was not heard since the coordinator started: there may be more, and `latest` takes all that is there"
                }
                _ => "",
            };
            refused(format!("{}{may_be_more}", words(&why)))
        })
    }

    /// What is shipped is written down once an hour; until its host speaks, nobody knows more.
    fn is_unheard(&self, name: &TenantName) -> bool {
        let tenant = self.state.fleet.tenants.get(name);
        tenant.is_some_and(|tenant| views::observed(self.state, tenant).is_none())
    }

    /// A place on a host whose agent can do it.
    fn place_for(
        &self,
        source: &Source,
        asked: &RestoreTenant,
    ) -> Result<TenantPlacement, ChangeError> {
        let labels: &BTreeMap<_, _> = &source.spec.host_labels;
        let request = Request {
            size: source.size,
            host: asked.host.as_ref(),
            labels,
        };
        let now = self.stamp.now;
        let decision = placement::choose(self.state.placement_inputs(self.settings), request, now);
        let (Some(host), Some(slot)) = (decision.host.clone(), decision.slot) else {
            return Err(ChangeError::NoHostFits {
                name: asked.name.clone(),
                decision: Box::new(decision),
            });
        };
        if !self.host(&host)?.makes_backups {
            let problem = format!(
                "cannot be restored on host {host}: its agent is of a version before; name another with --host"
            );
            return Err(wrong_state(&asked.name, problem));
        }
        let reason = &decision.reason;
        Ok(slot.place(host, 1, reason, now))
    }

    /// The new tenant, which does not run before it is filled. Whatever leads to the other one does not lead to it, and from one that is
    /// neutralised no mail leads to anybody: who may archive the dummy that Odoo puts in its servers' place gets no relay by that.
    fn filled_later(
        &self,
        source: &Source,
        asked: &RestoreTenant,
        place: TenantPlacement,
    ) -> Tenant {
        let mut spec = source.spec.clone();
        spec.domains = Vec::new();
        spec.host.clone_from(&asked.host);
        let create = CreateTenant {
            name: asked.name.clone(),
            uid: asked.uid,
            spec,
            size: source.size,
            secrets: asked.secrets.clone(),
            request_id: None,
            force: false,
            dry_run: false,
        };
        Tenant {
            halted: true,
            from_backup: Some(self.stamp.id),
            mail: (!asked.live).then(|| Box::new(Mail::by(Via::Catcher))),
            ..self.fresh(create, place)
        }
    }
}

/// Why nothing is restored, and what could be instead.
pub(super) fn words(why: &NoPoint) -> String {
    match why {
        NoPoint::NoBackup => "there is no backup from which it could be restored".to_owned(),
        NoPoint::Unknown(name) => format!("it has no backup {name} there"),
        NoPoint::Portable(name) => format!(
            "backup {:.8} is the portable copy (`dump.pgc` and the filestore): take it out with `isyctl backup get` and `pg_restore`, or \
             name a backup of another kind",
            name.to_string()
        ),
        NoPoint::TooEarly { first } => {
            format!("its first backup was complete at {}", utc(*first))
        }
        NoPoint::TooLate { last } => format!(
            "what was committed after {} is not in its backups: ask for that moment or an earlier one, or for `latest`",
            utc(*last)
        ),
        NoPoint::Gap { since, last } => format!(
            "its log has a gap since {}, and its backups go to {} until the next one is made: ask for that moment or an earlier one",
            utc(*since),
            utc(*last)
        ),
    }
}

/// What is restored, in words.
pub(super) fn told(point: &RestorePoint) -> String {
    use isyone_types::backup::RestoreTo;
    let begins = format!(
        "backup {:.8} of {} at {}",
        point.base.to_string(),
        utc(point.base_at),
        point.destination
    );
    match point.to {
        RestoreTo::Backup => begins,
        RestoreTo::Time(at) => format!("{begins}, and the log up to {}", utc(at)),
        RestoreTo::Latest => format!("{begins}, and all of the log"),
    }
}
