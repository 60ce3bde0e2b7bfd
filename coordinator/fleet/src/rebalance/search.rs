//! The search for moves: the most loaded host that can be helped, its best move, and again.
//!
//! Not here: who stays whatever the load (stays), and what a move does to loads (model).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, btree_map::Entry},
    rc::Rc,
    sync::Arc,
};

use isyone_types::{
    ids::{HostName, TenantName},
    plan::{Lifecycle, UnixMs},
    spec::{LabelKey, LabelValue},
};
use uuid::Uuid;

use super::{
    COPY_RATE_BYTES_PER_S, Forecast, MAX_CANDIDATES, MAX_HOSTS, MAX_SOURCES, MIN_GAIN_PERMILLE,
    Proposal, ProposedMove, RESULT_STEP_PERMILLE, STOP_AND_START_MS, model,
    stays::{self, Reasons},
};
use crate::{
    change::{self, Command, Effects, Stamp, Whither},
    desired::Tenant,
    placement::{self, Decision, Judgement, LOAD_STEP_PERMILLE, Load, Request},
    settings::Settings,
    state::State,
    views,
};

/// What placement decides by; equal for many tenants.
type Wish = (u64, u32, u64, BTreeMap<LabelKey, LabelValue>);

pub(super) struct Search<'a> {
    first: &'a State,
    settings: &'a Settings,
    now: UnixMs,
    /// As if what is proposed had been done.
    state: State,
    loads: BTreeMap<HostName, Load>,
    /// Hosts that cannot be judged before then.
    settling: BTreeMap<HostName, UnixMs>,
    /// Hosts that no move relieves, or none further, and why.
    stuck: BTreeMap<HostName, String>,
    /// What placement says in the present state.
    decisions: BTreeMap<Wish, Rc<Decision>>,
    found: Proposal,
}

/// A move as it is compared with others: fields are compared in order, lower is better.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// The load of the more loaded of both hosts afterwards, in steps of [`RESULT_STEP_PERMILLE`].
    worse_step: u32,
    /// What is to be copied.
    bytes: u64,
    /// That load, per mille.
    worse_permille: u32,
    tenant: TenantName,
}

struct Candidate {
    tenant: Arc<Tenant>,
    to: HostName,
    because: String,
    bytes: Option<u64>,
    after: State,
    from_load: Load,
    to_load: Load,
}

fn percent(permille: u32) -> u32 {
    permille.div_ceil(10)
}

impl<'a> Search<'a> {
    pub(super) fn new(first: &'a State, settings: &'a Settings, now: UnixMs) -> Self {
        let mut state = first.clone();
        // Rankings follow events; a host that fell silent since the last one is none to go to.
        let hosts: Vec<HostName> = first.fleet.hosts.keys().cloned().collect();
        for host in &hosts {
            state.refresh(settings, host, now);
        }
        let loads = hosts.iter().filter_map(|host| {
            let load = placement::load(state.placement_inputs(settings), host)?;
            Some((host.clone(), load))
        });
        Self {
            loads: loads.collect(),
            settling: stays::settling(first, settings, now),
            stuck: BTreeMap::new(),
            decisions: BTreeMap::new(),
            found: Proposal::default(),
            first,
            settings,
            now,
            state,
        }
    }

    pub(super) fn run(mut self, most: usize) -> Proposal {
        let before = self.loads.clone();
        self.found.reason = loop {
            if self.found.moves.len() == most {
                break format!(
                    "{most} moves are enough for one proposal: when they are made, ask again"
                );
            }
            match self.next() {
                Ok(candidate) => self.take(candidate),
                Err(reason) => break reason,
            }
        };
        self.found.settles_at = (self.settling.iter())
            .filter(|(host, _)| self.stuck.contains_key(*host))
            .map(|(_, at)| *at)
            .min();
        self.found.considered = self.first.fleet.hosts.len();
        self.found.hosts = self.forecasts(&before);
        self.found
    }

    /// The next move, or why there is none.
    fn next(&mut self) -> Result<Candidate, String> {
        let open = |host: &HostName| {
            placement::is_open(self.state.placement_inputs(self.settings), host)
                && !self.settling.contains_key(host)
        };
        let by_load = |(host, load): (&HostName, &Load)| (load.permille(), host.clone());
        let least = self.loads.iter().filter(|(host, _)| open(host));
        let Some((least, freest)) = least.map(by_load).min() else {
            return Err(match self.first.fleet.hosts.is_empty() {
                true => "the fleet has no hosts: add one with `isyctl host token`".to_owned(),
                false => "no host takes tenants now".to_owned(),
            });
        };
        let uneven = |load: &Load| load.permille() > least + LOAD_STEP_PERMILLE;
        let sources = self.loads.iter().filter(|(_, load)| uneven(load));
        let mut sources: Vec<_> = sources.map(by_load).collect();
        sources.sort_by(|(a, x), (b, y)| (Reverse(a), x).cmp(&(Reverse(b), y)));
        for (_, host) in &sources {
            if self.stuck.contains_key(host) {
                continue;
            }
            if self.stuck.len() == MAX_SOURCES {
                break;
            }
            match self.relieve(host) {
                Ok(candidate) => return Ok(candidate),
                Err(why) => drop(self.stuck.insert(host.clone(), why)),
            }
        }
        Err(match sources.first() {
            Some((load, host)) => format!(
                "no {}move helps: {host} has {} %, {freest} {} %; each host has the reason",
                self.more(),
                percent(*load),
                percent(least)
            ),
            None => self.even(least, &freest),
        })
    }

    /// `more `, when something is proposed already.
    fn more(&self) -> &'static str {
        match self.found.moves.is_empty() {
            true => "",
            false => "more ",
        }
    }

    fn even(&self, least: u32, freest: &HostName) -> String {
        let most = self
            .loads
            .iter()
            .map(|(host, load)| (load.permille(), host));
        let Some((most, fullest)) = most.max() else {
            return String::new();
        };
        format!(
            "nothing {}to do: the most loaded host, {fullest} with {} %, is within {} % of the least loaded that takes tenants, {freest} with \
             {} %, which placement takes for equal",
            self.more(),
            percent(most),
            LOAD_STEP_PERMILLE / 10,
            percent(least),
        )
    }

    /// The best move off a host, or why none is.
    fn relieve(&mut self, host: &HostName) -> Result<Candidate, String> {
        if let Some(at) = self.settling.get(host) {
            let at = views::utc(*at);
            return Err(format!(
                "its CPU load still follows a move that has just ended: it can be judged at {at}"
            ));
        }
        if let Some(why) = stays::why_not_from(&self.state, self.settings, host, self.now) {
            return Err(why);
        }
        let mut reasons = Reasons::default();
        let tenants = self.candidates(host, &mut reasons);
        let mut ranked = BTreeMap::new();
        for tenant in tenants {
            match self.weigh(&tenant) {
                Ok((rank, candidate)) => drop(ranked.insert(rank, candidate)),
                Err(why) => reasons.add(why, &tenant.name),
            }
        }
        for candidate in ranked.into_values() {
            match self.rehearse(&candidate) {
                Ok(()) => return Ok(candidate),
                Err(why) => reasons.add(why, &candidate.tenant.name),
            }
        }
        Err(match reasons.words() {
            none if none.is_empty() => "no tenant lives there".to_owned(),
            words => format!("what stays: {words}"),
        })
    }

    /// Tenants that live there and may move, the largest first.
    fn candidates(&self, host: &HostName, reasons: &mut Reasons) -> Vec<Arc<Tenant>> {
        let index = self.state.fleet.by_host.get(host);
        let names = index.into_iter().flat_map(|index| &index.tenants);
        let all = names.filter_map(|name| self.state.fleet.tenants.get(name));
        let mut may_move = Vec::new();
        for tenant in all.filter(|tenant| tenant.placement.host == *host) {
            match stays::why(&self.state, tenant, self.now) {
                None => may_move.push(tenant.clone()),
                Some(why) => reasons.add(why, &tenant.name),
            }
        }
        let size = |t: &Tenant| Reverse((t.size.memory_bytes, t.size.cpu_millis));
        may_move.sort_by(|a, b| (size(a), &a.name).cmp(&(size(b), &b.name)));
        for tenant in may_move.iter().skip(MAX_CANDIDATES) {
            let why = format!("not looked at, beyond the {MAX_CANDIDATES} largest");
            reasons.add(why, &tenant.name);
        }
        may_move.truncate(MAX_CANDIDATES);
        may_move
    }

    /// What a tenant's move would lead to, or why it does not help.
    fn weigh(&mut self, tenant: &Arc<Tenant>) -> Result<(Rank, Candidate), String> {
        let decision = self.decision(tenant);
        let from = &tenant.placement.host;
        let target = decision
            .hosts
            .iter()
            .find(|judged| self.may_go(tenant, judged));
        let (Some(target), Some(slot)) = (target, target.and_then(|judged| judged.slot)) else {
            return Err(match decision.hosts.iter().any(Judgement::fits) {
                true => "that fit on no other host".to_owned(),
                false => format!("that fit on no other host: {}", decision.reason),
            });
        };
        let to = &target.host;
        let after = model::moved(&self.state, self.settings, tenant, (to, slot), self.now);
        let view = after.placement_inputs(self.settings);
        let load = |host| placement::load(view, host).unwrap_or_default();
        let (from_load, to_load) = (load(from), load(to));
        let worse = from_load.permille().max(to_load.permille());
        let now = self.loads.get(from).copied().unwrap_or_default().permille();
        if worse + MIN_GAIN_PERMILLE > now {
            let gain = MIN_GAIN_PERMILLE / 10;
            return Err(match from_load.permille() + MIN_GAIN_PERMILLE > now {
                true => format!("that take less than {gain} % off it when they go"),
                false => format!("that would load another host to within {gain} % of it"),
            });
        }
        let bytes = model::usage(&self.state, tenant)
            .map(|used| used.disk_bytes)
            .filter(|bytes| *bytes > 0);
        let rank = Rank {
            worse_step: worse / RESULT_STEP_PERMILLE,
            bytes: bytes.unwrap_or(tenant.size.disk_bytes),
            worse_permille: worse,
            tenant: tenant.name.clone(),
        };
        let because = match decision.host.as_ref() == Some(to) {
            true => decision.reason.clone(),
            false => format!("{to}: the first in placement's order that it can go to"),
        };
        let candidate = Candidate {
            tenant: tenant.clone(),
            to: to.clone(),
            because,
            bytes,
            after,
            from_load,
            to_load,
        };
        Ok((rank, candidate))
    }

    /// Whether a tenant can go to a host that placement has judged: nothing of it lies there, and the host can be judged.
    fn may_go(&self, tenant: &Tenant, judged: &Judgement) -> bool {
        let seen = self.state.observed.hosts.get(&judged.host);
        judged.fits()
            && tenant.place_on(&judged.host).is_none()
            && !self.settling.contains_key(&judged.host)
            && seen.is_some_and(|seen| seen.hello.peer_port.is_some())
    }

    /// Placement's decision on whatever is like this tenant.
    fn decision(&mut self, tenant: &Tenant) -> Rc<Decision> {
        let size = tenant.size;
        let labels = &tenant.spec.host_labels;
        let wish = (
            size.memory_bytes,
            size.cpu_millis,
            size.disk_bytes,
            labels.clone(),
        );
        match self.decisions.entry(wish) {
            Entry::Occupied(known) => known.get().clone(),
            Entry::Vacant(new) => {
                let view = self.state.placement_inputs(self.settings);
                let host = None;
                let request = Request { size, host, labels };
                let decision = placement::choose(view, request, self.now);
                new.insert(Rc::new(decision)).clone()
            }
        }
    }

    /// Whether the move would be begun if it were ordered: asked of what begins it.
    fn rehearse(&self, candidate: &Candidate) -> Result<(), String> {
        let stamp = Stamp {
            now: self.now,
            steady: 0, // of no meaning to a move
            id: Uuid::nil(),
            actor: "coordinator".to_owned(),
        };
        let order = Command::MoveTenant {
            name: candidate.tenant.name.clone(),
            to: Whither::Host(candidate.to.clone()),
            max_pause_ms: None,
            request_id: None,
        };
        let mut state = self.state.clone();
        let effects = &mut Effects::default();
        let begun = change::apply(&mut state, self.settings, &stamp, effects, order);
        begun.map(drop).map_err(|why| format!("refused: {why}"))
    }

    fn take(&mut self, candidate: Candidate) {
        let Candidate {
            tenant,
            to,
            because,
            bytes,
            after,
            from_load,
            to_load,
        } = candidate;
        let from = tenant.placement.host.clone();
        let copying = bytes.map(|bytes| bytes.saturating_mul(1000) / COPY_RATE_BYTES_PER_S);
        let pause_ms = match tenant.desired {
            Lifecycle::Running => copying.map(|ms| ms.saturating_add(STOP_AND_START_MS)),
            _ => Some(0),
        };
        let mut replaced = |host: &HostName, load: Load| {
            let before = self.loads.insert(host.clone(), load).unwrap_or_default();
            (before.permille(), load.permille())
        };
        let (from_permille, to_permille) = (replaced(&from, from_load), replaced(&to, to_load));
        let step =
            |(before, after): (u32, u32)| format!("{} to {} %", percent(before), percent(after));
        let reason = format!(
            "{from} from {}, {to} from {}. {because}",
            step(from_permille),
            step(to_permille)
        );
        self.state = after;
        self.decisions.clear();
        self.found.moves.push(ProposedMove {
            tenant: tenant.name.clone(),
            from,
            to,
            reason,
            bytes,
            pause_ms,
            from_permille,
            to_permille,
        });
    }

    fn forecasts(&self, before: &BTreeMap<HostName, Load>) -> Vec<Forecast> {
        let tenants = |state: &State, host: &HostName| {
            let index = state.fleet.by_host.get(host);
            index.map_or(0, |index| {
                u32::try_from(index.tenants.len()).unwrap_or(u32::MAX)
            })
        };
        let mut hosts: Vec<Forecast> = (self.first.fleet.hosts.keys())
            .map(|host| Forecast {
                host: host.clone(),
                before: before.get(host).copied(),
                after: self.loads.get(host).copied(),
                tenants_before: tenants(self.first, host),
                tenants_after: tenants(&self.state, host),
                why_not: self.stuck.get(host).cloned().unwrap_or_default(),
            })
            .collect();
        if hosts.len() > MAX_HOSTS {
            let of_note = |host: &Forecast| host.before != host.after || !host.why_not.is_empty();
            let load = |host: &Forecast| host.after.map(Load::permille);
            hosts.sort_by_key(|host| Reverse((of_note(host), load(host))));
            hosts.truncate(MAX_HOSTS);
            hosts.sort_by(|a, b| a.host.cmp(&b.host));
        }
        hosts
    }
}
