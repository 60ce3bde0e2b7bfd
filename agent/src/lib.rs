//! The host agent: runs a host's tenant stacks as the coordinator's plan says, and reports.
//!
//! The rooms, each importing only those above it:
//!
//! | room | what it is | what it is not | imports |
//! |---|---|---|---|
//! | `base` | clock, files, the data directory, crash points | anything about tenants or Docker | – |
//! | `plan` | pure: what a stack is, what is to be done, firewall rules, SQL, steps | doing it; no clock, no files | – |
//! | `docker` | what we need of an engine, and bollard behind it | which containers there should be | plan |
//! | `host` | what all tenants of a host share: ledger, board, images, snapshots, measuring, identity | one tenant's work | base, plan, docker |
//! | `tenant` | one tenant at work, and the loops that wake it | what to do (plan), what is shared (host) | base, plan, docker, host |
//! | `peer` | bulk data between hosts' agents, for as long as the plan grants it | what it is for | base, host, plan, tenant |
//! | `jobs` | long work beside the tenants' loops, as the plan orders it | reports (link), a tenant's stack (tenant) | base, host, peer, tenant |
//! | `backup` | tenants' backups: shipped by themselves, or as jobs order | when a base is made, what is kept (the coordinator) | base, docker, host, jobs, peer, plan, tenant |
//! | `link` | the coordinator: joining, the session, reports, renewal | what a plan causes | base, plan, docker, host |
//! | `metrics` | the pages that Prometheus scrapes | reports to the coordinator | base, plan, host |
//! | `doctor` | what of this host can break a tenant, each as a check with its remedy | mending it (host, tenant) | base, docker, host |
//! | `relay` | `isy-agent relay`: the program around the host's relay | when it is started, what it is told (host) | base, plan, host |
//! | `agent` | puts it together | the command line (main) | all |
//!
//! `testing` (feature `testing` only) stands beside `agent`: an in-memory engine and sample plans. The agent works
//! without the coordinator, from the plan in its ledger. Not here: placement, ports, passwords; they come with the
//! plan.

// Tests lay out directories of their own. What is shipped is compiled, and looked at, without this.
#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests' own directories")
)]

pub mod agent;
pub mod backup;
pub mod base;
pub mod docker;
pub mod doctor;
pub mod host;
pub mod jobs;
pub mod link;
pub mod metrics;
pub mod peer;
pub mod plan;
pub mod relay;
pub mod tenant;
#[cfg(feature = "testing")]
#[expect(clippy::disallowed_methods, reason = "tests' own directories")]
pub mod testing;
