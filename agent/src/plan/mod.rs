//! The deciding part, pure: turns a tenant's plan into a stack, a look at the tenant into actions with reasons, a
//! host's plan into firewall rules.
//!
//! No clock, no files, no engine: what they say comes in as arguments. Imports no other room. Not here: carrying
//! anything out.

pub mod anew;
pub mod conf;
pub mod container;
pub mod design;
pub mod diff;
pub mod facts;
pub mod firewall;
pub mod fresh;
pub mod held;
pub mod home;
pub mod installs;
pub mod lease;
pub mod mail;
pub mod names;
pub mod pins;
pub mod postgres;
pub mod proof;
pub mod recovery;
pub mod relay;
pub mod render;
pub mod sql;
pub mod stack;
pub mod standby;
pub mod starts;
pub mod state;
pub mod steps;
