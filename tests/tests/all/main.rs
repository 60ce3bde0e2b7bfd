//! The single test binary for everything that needs more than one part: see each module.

mod adversary;
mod archive;
mod corpus;
mod e2e;
mod edges;
mod fleet_in_process;
mod images;
mod joining;
mod monitoring_files;
mod rebalance;
mod relay;
mod simulation;
mod tidy;
mod traces;
mod upgrade;
