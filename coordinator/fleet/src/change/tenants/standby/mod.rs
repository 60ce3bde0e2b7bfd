//! A tenant's standby: asked for, placed elsewhere, taken away.
//!
//! There is no operation for it: the wish is stored, and what hosts report says how far it is. Not here: which hosts can have one (room),
//! when it is filled and made anew (look), which plans give one (given), which take over by themselves (lapsed), what it is told to do (views::plan), taking over (a move to its host).

mod given;
mod lapsed;
mod look;
mod room;

use std::sync::Arc;

use isyone_types::{
    ids::{HostName, TenantName},
    spec::LabelKey,
};
use uuid::Uuid;

pub use self::look::FILLED_AT_ONCE;
use self::room::Side;
use super::{Edit, wrong_state};
use crate::{
    change::{ChangeError, Outcome},
    desired::{CopyRole, MAX_COPIES, Standby, Stragglers, Tenant, TenantCopy},
    event::EventKind,
    operation::{Live, Procedure},
    procedures,
};

/// Tells the id of a standby's job from the ids of operations that the same command begins: in bits of the id that are random.
const JOB: u128 = 0x0a5d << 64;

impl Edit<'_> {
    /// Keeps a copy of a tenant up on another host: on that one, or on the one with most room, whose value of a label is another one.
    pub(in crate::change) fn add_standby(
        &mut self,
        name: &TenantName,
        on: Option<HostName>,
        apart: Option<&LabelKey>,
    ) -> Result<Outcome, ChangeError> {
        let tenant = self.living(name)?;
        if let Some((place, standby)) = tenant.standby() {
            let is_there = on.as_ref().is_none_or(|on| *on == place.host);
            if is_there && standby.apart.as_ref() == apart {
                return Ok(Outcome::Changed(Arc::new(tenant)));
            }
            if is_there && self.is_apart(&tenant, &place.host, apart) {
                return Ok(self.keep_apart(tenant, apart));
            }
            let problem = format!(
                "has its standby on host {}; remove that first (`isyctl tenant standby remove {name}`)",
                place.host
            );
            return Err(wrong_state(name, problem));
        }
        self.check_standby_possible(&tenant)?;
        let on = match on {
            Some(on) => on,
            None => self.most_room_apart(&tenant, apart)?,
        };
        if tenant.place_on(&on).is_some() {
            let problem = format!(
                "has a copy on host {on} already; name another host, or wait until that copy is gone"
            );
            return Err(wrong_state(name, problem));
        }
        self.stand_on(tenant, &on, apart.cloned(), format!("is kept up on {on}"))
    }

    /// Makes a tenant's standby on another host, where its label is as it was asked for: what it has where it was is removed.
    pub(in crate::change) fn move_standby(
        &mut self,
        name: &TenantName,
        from: &HostName,
    ) -> Result<Outcome, ChangeError> {
        let mut tenant = self.living(name)?;
        let there = tenant.standby().filter(|(place, _)| place.host == *from);
        let Some((_, standby)) = there else {
            return Ok(Outcome::Changed(Arc::new(tenant)));
        };
        let apart = standby.apart.clone();
        self.check_standby_may_go(&tenant)?;
        self.check_standby_possible(&tenant)?;
        let on = self.most_room_apart(&tenant, apart.as_ref())?;
        tenant.discard_standby();
        self.stand_on(
            tenant,
            &on,
            apart,
            format!("is kept up on {on}, and no more on {from}"),
        )
    }

    /// The copy on that host begins, as soon as it is its turn.
    fn stand_on(
        &mut self,
        mut tenant: Tenant,
        on: &HostName,
        apart: Option<LabelKey>,
        message: String,
    ) -> Result<Outcome, ChangeError> {
        self.check_stands(&tenant.name, &tenant.placement.host, Side::Followed)?;
        self.check_stands(&tenant.name, on, Side::Standing)?;
        let place = self.incoming_place(&tenant, on, None)?;
        tenant.last_epoch = place.epoch;
        tenant.copies.push(TenantCopy {
            place,
            role: CopyRole::Standby(Standby {
                waits: true,
                apart,
                ..self.standing(&tenant)
            }),
            stragglers: Stragglers::Refused,
        });
        tenant.generation += 1;
        let tenant = self.put_tenant(tenant);
        let kind = EventKind::TenantStandbyAdded;
        self.event(kind, Some(&tenant), Some(on), None, message);
        Ok(Outcome::Changed(tenant))
    }

    /// It is where it should be: so it is placed again, too.
    fn keep_apart(&mut self, mut tenant: Tenant, apart: Option<&LabelKey>) -> Outcome {
        for copy in &mut tenant.copies {
            if let CopyRole::Standby(standby) = &mut copy.role {
                standby.apart = apart.cloned();
            }
        }
        Outcome::Changed(self.put_tenant(tenant))
    }

    pub(in crate::change) fn remove_standby(
        &mut self,
        name: &TenantName,
    ) -> Result<Outcome, ChangeError> {
        let mut tenant = (*self.tenant(name)?).clone();
        if !tenant.discard_standby() {
            return Ok(Outcome::Changed(Arc::new(tenant)));
        }
        tenant.generation += 1;
        let tenant = self.put_tenant(tenant);
        self.event(
            EventKind::TenantStandbyRemoved,
            Some(&tenant),
            None,
            None,
            String::new(),
        );
        Ok(Outcome::Changed(tenant))
    }

    /// What is kept up with a tenant from now on, by a job that there was never before.
    fn standing(&self, tenant: &Tenant) -> Standby {
        Standby {
            job: self.job_of(tenant),
            source: procedures::peer_address(self.state, &tenant.placement.host),
            anew: false,
            armed: false,
            waits: false,
            in_vain: 0,
            apart: None,
            at: None,
            takes_over_after_ms: None,
            leased: false,
        }
    }

    /// Another one for each tenant and each epoch that a command may be about, and none that an operation has.
    fn job_of(&self, tenant: &Tenant) -> Uuid {
        // Turned, because whoever begins something for a tenant with a tick has put the same bits into the id already.
        let whose = tenant.uid.as_u64_pair().1.rotate_left(17);
        let id = self.stamp.id.as_u128() ^ JOB ^ u128::from(whose);
        Uuid::from_u128(id ^ u128::from(tenant.next_epoch()))
    }

    /// What went over to its standby is taken back: that stands again, with what it has.
    pub(in crate::change) fn standing_again(
        &self,
        tenant: &Tenant,
        live: Option<&Live>,
    ) -> CopyRole {
        CopyRole::Standby(Standby {
            armed: true,
            apart: live.and_then(|live| live.apart.clone()),
            ..self.standing(tenant)
        })
    }

    /// The standby becomes what a move is to take over to; `None`: it has none, and an error where it has one elsewhere.
    pub(super) fn switch_to(
        &self,
        tenant: &mut Tenant,
        to: &HostName,
        live: Option<&mut Live>,
    ) -> Result<Option<String>, ChangeError> {
        let Some((place, standby)) = tenant.standby() else {
            return Ok(None);
        };
        let (host, usable) = (place.host.clone(), !standby.anew);
        let Some(live) = live.filter(|_| host == *to && usable) else {
            let name = &tenant.name;
            let problem = format!(
                "has a standby on host {host}: move it there with `--max-pause`, or remove the standby first (`isyctl tenant standby \
                 remove {name}`)"
            );
            return Err(wrong_state(name, problem));
        };
        live.switches = true;
        live.apart.clone_from(&standby.apart);
        let epoch = tenant.next_epoch();
        tenant.last_epoch = epoch;
        let reason = format!("{to}: its standby");
        for copy in tenant.copies.iter_mut().filter(|c| c.place.host == host) {
            copy.role = CopyRole::Incoming;
            (copy.place.epoch, copy.place.at) = (epoch, self.stamp.now);
            copy.place.reason = reason.as_str().into();
        }
        Ok(Some(reason))
    }

    fn check_standby_possible(&self, tenant: &Tenant) -> Result<(), ChangeError> {
        let problem = if tenant.activated_at.is_none() {
            "has never run: there is nothing to keep up with yet".to_owned()
        } else if tenant.copies.len() >= MAX_COPIES {
            format!("has {MAX_COPIES} older copies that are kept for a while")
        } else if self.is_moving(tenant) {
            "moves: its standby can begin when it is there".to_owned()
        } else {
            return Ok(());
        };
        Err(wrong_state(&tenant.name, problem))
    }

    pub(in crate::change) fn is_moving(&self, tenant: &Tenant) -> bool {
        let operation = self.state.fleet.operations.get(&tenant.operation);
        operation.is_some_and(|operation| {
            !operation.is_over() && matches!(operation.procedure, Procedure::Move(_))
        })
    }
}
