//! A seeded mix of orders and faults for a fleet with real daemons, and what must be true once it is over: everything here is pure.
//!
//! The same seed gives the same steps. What an order becomes depends on how its tenant is by then (`draw::resolve`), and daemons keep
//! their own time, so a failure may take several runs of its seed. Not here: doing it (the test e2e::chaos), a fleet in one process
//! (fleet::chaos), the simulated one (simulation).

pub mod draw;
pub mod judge;
pub mod truth;

/// Tenants that come and go.
pub const TENANTS: [&str; 6] = ["alfa", "beta", "gama", "delta", "echo", "fox"];
pub const HOSTS: usize = 3;
