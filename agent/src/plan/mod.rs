//! The deciding part, pure: a tenant's plan to a stack, a look at it to actions with reasons, a host's plan to firewall rules.
//!
//! No clock, no files, no engine: what they say are arguments. Imports no other room. Not here: carrying anything out.

pub mod container;
pub mod design;
pub mod diff;
pub mod facts;
pub mod firewall;
pub mod render;
pub mod sql;
pub mod stack;
pub mod state;
pub mod steps;
