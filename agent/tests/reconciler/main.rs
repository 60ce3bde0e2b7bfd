//! The reconciler over a fake engine that fails and dies on command.
//!
//! Not here: decisions alone (plan::diff's own tests), real engines (the workspace's tests).

#![expect(clippy::disallowed_methods, reason = "tests' own directories")]

mod aside;
mod daemon;
mod data;
mod disk;
mod faults;
mod gone;
mod images;
mod installs;
mod keeper;
mod leases;
mod life;
mod links;
mod relay;
mod settings;
mod source;
mod turns;
mod wanted;
