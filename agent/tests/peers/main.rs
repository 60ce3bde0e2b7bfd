//! Two agents over real TLS on loopback: a copy goes from one to the other whatever happens on the way, and nothing goes
//! to whom nothing is granted. The engines are fakes, their volumes real directories.

#![expect(clippy::disallowed_methods, reason = "tests' own directories")]

mod calls;
mod copies;
mod engine;
mod following;
mod jail;
mod leases;
mod node;
mod proxy;
mod real;
mod refusals;
mod relayed;
mod returns;
mod standing;
mod tunnels;
