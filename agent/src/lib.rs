//! The host agent: runs a host's tenant stacks as the coordinator's plan says, and reports.
//!
//! Pure parts decide: `diff` (what to do), `stack` and `render` (what a stack is), `firewall`, `sql`, `steps`. The others
//! act and make no choices. The agent works without the coordinator from the plan in its `ledger`.
//! Not here: placement, ports, passwords; they come with the plan.

pub mod addon;
pub mod agent;
pub mod bulk;
pub mod clock;
pub mod comeback;
pub mod config;
pub mod database;
pub mod diff;
pub mod docker;
pub mod execute;
pub mod failpoints;
pub mod fake_docker;
pub mod firewall;
pub mod fsutil;
pub mod golden;
pub mod host;
pub mod http;
pub mod identity;
pub mod images;
pub mod join;
pub mod known;
pub mod ledger;
pub mod link;
pub mod metrics;
pub mod probe;
pub mod ready;
pub mod reconcile;
pub mod render;
pub mod renew;
pub mod report;
pub mod resources;
pub mod sql;
pub mod stack;
pub mod state;
pub mod status;
pub mod steps;
pub mod survey;
pub mod tenant;
pub mod testing;
pub mod traces;
pub mod tree;
pub mod usage;
