//! The HTTP relay of a host: it stands between the edges and the tenants' Odoo, and takes upon itself what would keep a worker from work.
//!
//! It takes bodies in whole before a worker sees them, lets answers go as slowly as their readers are, has requests wait their turn
//! (fairly, by visitor) and holds them while a tenant restarts or moves, bounds what one visitor can take, and hands its sockets over
//! to its successor. It never sends a request twice. Deciding parts are pure (`judge`, `turns`, `shares`, `budget`, `pace`,
//! `visitor`, `pages`, `routes`, `limits`); the others act on what these decide.
//!
//! Not here: TLS and names (the edges'), what a tenant is and when it is held (the agent writes `Routes`), and the program around it.

#![warn(missing_docs)]

mod admin;
mod admitted;
mod budget;
mod clock;
mod figures;
mod file;
mod gate;
mod handover;
mod intake;
mod judge;
mod lapse;
pub mod lease;
mod ledger;
pub mod limits;
mod line;
mod listeners;
mod pace;
mod pages;
mod pipe;
mod place;
mod relay;
pub mod routes;
mod serve;
mod shares;
mod spool;
mod tenant;
mod tunnel;
mod turns;
mod upstream;
mod visitor;

pub use admin::{Health, OfTenant};
pub use figures::Now;
pub use pages::ANSWER_HEADER;
pub use relay::{Drained, Relay, RoutesFault, Settings, StartError};
