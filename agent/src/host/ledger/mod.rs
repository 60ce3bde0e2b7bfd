//! The last accepted plan, on disk: tenants run from it without the coordinator, and start again after a reboot. What must be
//! remembered of tenants that it names no more is in a file beside it (departed).
//!
//! Not here: which plan is taken and which copy is stale (plan::held), carrying the plan out (reconcile).

mod leftovers;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use isyone_proto::{echo::echo, generation::Generation, ids::TenantName, plan::HostPlan};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{answered::Answered, departed::Departed};
use crate::{
    base::fsutil,
    plan::held::{Held, PlanRefused},
};

/// Format of the file. A newer one is refused, not guessed at.
const VERSION: u32 = 1;

/// Why a plan was refused or the ledger not written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error(transparent)]
    Refused(#[from] PlanRefused),
    /// The ledger's file cannot be written or read.
    #[error("the plan cannot be stored in {path}", path = .0.display())]
    Io(PathBuf, #[source] io::Error),
}

/// The plan in force, with what the ledger knows of epochs; `None` until there is one.
#[derive(Debug, Clone, Default)]
pub struct InForce {
    pub plan: Option<Arc<HostPlan>>,
    /// Names of tenants whose copy here is stale.
    pub stale: Vec<TenantName>,
    /// Since the machine started, the coordinator has not said that it is the one that holds.
    pub unasked: bool,
}

/// The file, as it is read.
#[derive(Deserialize)]
struct LedgerFile {
    version: u32,
    plan: HostPlan,
    digest: String,
    epochs: BTreeMap<Uuid, u64>,
    /// `PLAN_FORMAT` of the program that wrote it.
    #[serde(default)]
    format: u32,
}

/// The file, as it is written.
#[derive(Serialize)]
struct LedgerFileRef<'a> {
    version: u32,
    #[serde(flatten)]
    held: &'a Held,
}

/// The plan in force, and what must be remembered with it.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    held: Held,
    departed: Departed,
    answered: Answered,
}

impl Ledger {
    /// For the agent that runs, and is the only one to write there: [`Self::open`], after what a kill has cut off is removed.
    pub fn start(path: &Path) -> Result<(Self, Option<String>), LedgerError> {
        leftovers::sweep(path);
        Self::open(path)
    }

    /// Opens the ledger at `path`. An unreadable file is moved to `plan.json.corrupt-<n>` and the second value says so;
    /// there is then no plan, so nothing new runs and nothing is stopped until one arrives.
    pub fn open(path: &Path) -> Result<(Self, Option<String>), LedgerError> {
        let departed = Departed::open(path).map_err(|e| LedgerError::Io(path.to_owned(), e))?;
        let (departed, epochs, warning) = departed;
        let mut ledger = Self {
            path: path.to_owned(),
            held: Held {
                departed: Arc::new(epochs),
                ..Held::default()
            },
            departed,
            answered: Answered::open(path),
        };
        let bytes = match fsutil::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((ledger, warning)),
            Err(e) => return Err(LedgerError::Io(path.to_owned(), e)),
        };
        match parse(&bytes) {
            Ok(file) => {
                ledger.held = Held {
                    plan: Some(file.plan),
                    digest: file.digest,
                    epochs: file.epochs,
                    format: file.format,
                    ..ledger.held
                };
                ledger.tell_unusable();
                Ok((ledger, warning))
            }
            Err(why) => {
                let aside =
                    leftovers::put_aside(path).map_err(|e| LedgerError::Io(path.to_owned(), e))?;
                let text = format!(
                    "the stored plan could not be read ({why}); it was kept as {}. Running tenants stay as they are; \
                     nothing is started or stopped until the coordinator sends a plan",
                    aside.display()
                );
                let text = match warning {
                    Some(warning) => format!("{text}; {warning}"),
                    None => text,
                };
                Ok((ledger, Some(text)))
            }
        }
    }

    pub fn plan(&self) -> Option<&HostPlan> {
        self.held.plan.as_ref()
    }

    /// Its generation; 0 when none.
    pub fn generation(&self) -> Generation {
        self.held.generation()
    }

    /// Its digest; empty when none.
    pub fn digest(&self) -> &str {
        &self.held.digest
    }

    /// The part of it that is in force, for those who act on it.
    pub fn in_force(&self) -> InForce {
        let Some(plan) = &self.held.plan else {
            return InForce::default();
        };
        let stale = plan
            .tenants
            .iter()
            .filter(|t| self.held.is_stale(t))
            .map(|t| t.name.clone())
            .collect();
        InForce {
            plan: Some(Arc::new(plan.clone())),
            stale,
            unasked: !self.answered.is_set(),
        }
    }

    /// The coordinator says that its plan for this host is that generation. `Ok(true)`: that is news, and what asks first may start.
    pub fn answered(&mut self, generation: Generation) -> Result<bool, LedgerError> {
        if self.answered.is_set() || self.held.plan.is_none() || self.generation() < generation {
            return Ok(false);
        }
        let set = self.answered.set();
        set.map_err(|e| LedgerError::Io(self.path.clone(), e))?;
        Ok(true)
    }

    /// Checks and stores a plan. `Ok(false)`: the same plan as before, nothing to do.
    pub fn accept(&mut self, plan: HostPlan) -> Result<bool, LedgerError> {
        let Some((held, news)) = self.held.offered(plan)? else {
            return Ok(false);
        };
        let failed = |e| LedgerError::Io(self.path.clone(), e);
        // First: with the plan's file they are forgotten there.
        let leavers = self.held.leavers(&held);
        self.departed
            .add(&leavers, &held.departed)
            .map_err(failed)?;
        let file = LedgerFileRef {
            version: VERSION,
            held: &held,
        };
        // Plain structs with string keys: serialising cannot fail; an empty file would be refused at the next start.
        let bytes = serde_json::to_vec(&file).unwrap_or_default();
        fsutil::write_atomic(&self.path, &bytes, 0o600, true).map_err(failed)?;
        self.held = held;
        self.tell_unusable();
        if !leavers.is_empty() {
            leftovers::forget(&self.path);
        }
        Ok(news)
    }

    /// Settings of Odoo that another version knows: the rest of the plan holds without them.
    fn tell_unusable(&self) {
        let tenants = self.plan().into_iter().flat_map(|plan| &plan.tenants);
        for tenant in tenants {
            for setting in tenant.odoo.unusable() {
                let setting = echo(setting);
                tracing::warn!(tenant = %tenant.name, %setting, "this version cannot use the setting; it counts for nothing");
            }
        }
    }
}

fn parse(bytes: &[u8]) -> Result<LedgerFile, String> {
    let file: LedgerFile = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if file.version != VERSION {
        return Err(format!(
            "version {} where {VERSION} was expected",
            file.version
        ));
    }
    // The digest is not checked: a later program, whose plans have more fields, would report every ledger as corrupt.
    Ok(file)
}

#[cfg(test)]
mod tests {
    use isyone_proto::{odoo::OdooSettings, plan::PLAN_FORMAT};

    use super::*;
    use crate::testing::{host_plan, tenant_plan};
    use proptest::prelude::*;

    fn open(dir: &tempfile::TempDir) -> (Ledger, Option<String>) {
        Ledger::open(&dir.path().join("plan.json")).unwrap()
    }

    #[test]
    fn older_plans_and_twins_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (mut ledger, warning) = open(&dir);
        assert!(warning.is_none() && ledger.generation() == Generation::default());
        assert!(
            ledger
                .accept(host_plan(5, vec![tenant_plan("alfa")]))
                .unwrap()
        );
        assert!(
            !ledger
                .accept(host_plan(5, vec![tenant_plan("alfa")]))
                .unwrap()
        );
        assert!(matches!(
            ledger.accept(host_plan(4, vec![])),
            Err(LedgerError::Refused(PlanRefused::Older { .. }))
        ));
        assert!(matches!(
            ledger.accept(host_plan(5, vec![])),
            Err(LedgerError::Refused(PlanRefused::Conflict { .. }))
        ));
        let (again, _) = open(&dir);
        assert_eq!(
            (again.generation().number(), again.digest()),
            (5, ledger.digest())
        );
    }

    /// Fails if a host that goes back to a version before has no plan any more because of one setting.
    #[test]
    fn a_setting_that_is_not_known_any_more_leaves_the_plan() {
        let dir = tempfile::tempdir().unwrap();
        let mut tenant = tenant_plan("alfa");
        tenant.odoo = OdooSettings::lenient([("of_tomorrow".into(), "1".into())].into());
        let plan = host_plan(5, vec![tenant]);
        open(&dir).0.accept(plan.clone()).unwrap();
        let (ledger, warning) = open(&dir);
        assert_eq!((ledger.plan(), warning), (Some(&plan), None));
        assert_eq!(
            ledger.digest(),
            plan.digest(),
            "and it is the same plan still"
        );
    }

    #[test]
    fn a_plan_holds_once_the_coordinator_says_so_of_it_or_an_older_one() {
        let dir = tempfile::tempdir().unwrap();
        let (mut ledger, _) = open(&dir);
        let generation = |number| Generation::new(0, number);
        assert!(!ledger.answered(generation(0)).unwrap(), "there is none");
        ledger
            .accept(host_plan(5, vec![tenant_plan("alfa")]))
            .unwrap();
        assert!(ledger.in_force().unasked);
        assert!(!ledger.answered(generation(6)).unwrap(), "it has another");
        assert!(ledger.in_force().unasked);
        assert!(ledger.answered(generation(5)).unwrap());
        assert!(!ledger.answered(generation(5)).unwrap(), "no news");
        assert!(!ledger.in_force().unasked && !open(&dir).0.in_force().unasked);
    }

    #[test]
    fn a_raised_incarnation_is_newer_than_any_number_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let (mut ledger, _) = open(&dir);
        ledger.accept(host_plan(500, vec![])).unwrap();
        let rebuilt = Generation::new(1, 3);
        let plan = host_plan(rebuilt.get(), vec![tenant_plan("alfa")]);
        assert!(ledger.accept(plan).unwrap());
        let late = ledger.accept(host_plan(501, vec![])).unwrap_err();
        assert_eq!(
            late.to_string(),
            "plan generation 501 is older than 1.3, which this host already has"
        );
        assert_eq!(open(&dir).0.generation(), rebuilt);
    }

    #[test]
    fn a_plan_that_an_older_agent_kept_in_part_is_taken_whole_after_its_upgrade() {
        let dir = tempfile::tempdir().unwrap();
        let mut of_old = tenant_plan("alfa");
        let whole = of_old.clone();
        of_old.upload_limit_bytes = 0;
        open(&dir)
            .0
            .accept(host_plan(5, vec![of_old.clone()]))
            .unwrap();
        let path = dir.path().join("plan.json");
        let written = std::fs::read_to_string(&path).unwrap();
        let by_older = written.replace(&format!(",\"format\":{PLAN_FORMAT}"), "");
        assert_ne!(written, by_older);
        std::fs::write(&path, &by_older).unwrap();
        let (mut ledger, warning) = open(&dir);
        assert!(warning.is_none());
        assert!(
            !ledger.accept(host_plan(5, vec![of_old.clone()])).unwrap(),
            "nothing was left out of it after all"
        );
        assert!(matches!(
            ledger.accept(host_plan(5, vec![whole.clone()])),
            Err(LedgerError::Refused(PlanRefused::Conflict { .. }))
        ));
        std::fs::write(&path, &by_older).unwrap();
        let (mut ledger, _) = open(&dir);
        assert!(ledger.accept(host_plan(5, vec![whole.clone()])).unwrap());
        assert_eq!(ledger.plan(), Some(&host_plan(5, vec![whole])));
        let twin = ledger.accept(host_plan(5, vec![of_old]));
        assert!(
            matches!(
                twin,
                Err(LedgerError::Refused(PlanRefused::Conflict { .. }))
            ),
            "from now on a twin is one"
        );
    }

    #[test]
    fn an_epoch_once_seen_is_never_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let mut newer = tenant_plan("alfa");
        newer.epoch = 3;
        let (mut ledger, _) = open(&dir);
        ledger.accept(host_plan(1, vec![newer.clone()])).unwrap();
        ledger.accept(host_plan(2, vec![])).unwrap();
        let (ledger, _) = open(&dir);
        assert!(!ledger.held.is_stale(&newer));
        newer.epoch = 2;
        assert!(ledger.held.is_stale(&newer));
    }

    /// The file of before has all epochs in it, and a power loss may come between the two files.
    #[test]
    fn epochs_of_those_who_have_left_are_taken_over_from_the_version_before() {
        let dir = tempfile::tempdir().unwrap();
        let (mut ledger, _) = open(&dir);
        let alfa = tenant_plan("alfa");
        ledger.accept(host_plan(1, vec![alfa.clone()])).unwrap();
        let path = dir.path().join("plan.json");
        let text = std::fs::read_to_string(&path).unwrap();
        let mut beta = tenant_plan("beta");
        beta.epoch = 4;
        let before = format!("\"epochs\":{{\"{}\":5,", beta.uid);
        std::fs::write(&path, text.replace("\"epochs\":{", &before)).unwrap();
        let (mut ledger, warning) = open(&dir);
        assert!(warning.is_none() && ledger.held.is_stale(&beta));
        let before = std::fs::read(&path).unwrap();
        ledger.accept(host_plan(2, vec![alfa.clone()])).unwrap();
        assert!(open(&dir).0.held.is_stale(&beta));
        let now = std::fs::read_to_string(&path).unwrap();
        assert!(!now.contains(&beta.uid.to_string()), "{now}");
        std::fs::write(&path, before).unwrap();
        let (mut ledger, _) = open(&dir);
        assert!(ledger.held.is_stale(&beta));
        ledger.accept(host_plan(2, vec![alfa])).unwrap();
        assert!(open(&dir).0.held.is_stale(&beta));
    }

    #[test]
    fn a_corrupt_ledger_is_kept_aside() {
        let dir = tempfile::tempdir().unwrap();
        for n in 1..3 {
            std::fs::write(dir.path().join("plan.json"), "{\"version\":").unwrap();
            let (ledger, warning) = open(&dir);
            assert!(ledger.plan().is_none());
            assert!(warning.unwrap().contains(&format!("plan.json.corrupt-{n}")));
        }
    }

    proptest! {
        #[test]
        fn no_epoch_is_forgotten_whatever_leaves_and_whenever_the_agent_ends(
            story in proptest::collection::vec(
                (proptest::collection::btree_map(0u8..4, 1u64..5, 0..4), 0u8..4),
                1..12,
            ),
        ) {
            let names = ["alfa", "beta", "gama", "delta"];
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("plan.json");
            let (mut ledger, _) = open(&dir);
            let mut all = BTreeMap::<u8, u64>::new();
            for (generation, (named, fate)) in (1u64..).zip(story) {
                let tenants = named.iter().map(|(id, epoch)| {
                    let mut plan = tenant_plan(names[usize::from(*id)]);
                    plan.epoch = *epoch;
                    plan
                });
                let before = std::fs::read(&path).ok();
                ledger.accept(host_plan(generation, tenants.collect())).unwrap();
                match (fate, before) {
                    // It ends between the two files.
                    (0, Some(before)) => std::fs::write(&path, before).unwrap(),
                    _ => for (id, epoch) in named {
                        let seen = all.entry(id).or_default();
                        *seen = (*seen).max(epoch);
                    },
                }
                if fate < 2 {
                    ledger = open(&dir).0;
                }
                for (id, seen) in &all {
                    let mut asked = tenant_plan(names[usize::from(*id)]);
                    asked.epoch = *seen;
                    prop_assert!(!ledger.held.is_stale(&asked));
                    asked.epoch = seen - 1;
                    prop_assert!(ledger.held.is_stale(&asked));
                }
            }
        }

        #[test]
        fn the_generation_never_falls(generations in proptest::collection::vec(0u64..8, 1..20)) {
            let dir = tempfile::tempdir().unwrap();
            let (mut ledger, _) = open(&dir);
            let mut held = Generation::default();
            for generation in generations {
                let _ = ledger.accept(host_plan(generation, vec![]));
                prop_assert!(ledger.generation() >= held);
                held = ledger.generation();
                let (reread, warning) = open(&dir);
                prop_assert!(warning.is_none());
                prop_assert_eq!(reread.generation(), held);
            }
        }
    }
}
