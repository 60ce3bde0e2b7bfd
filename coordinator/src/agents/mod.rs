//! Agents, which dial in: how they join, their sessions (plans down, reports up), streams of bulk data to them, and between
//! two of them that cannot reach each other (relay); how often they may call (rates).
//!
//! Not here: what a plan contains (isyone_fleet::views), the ports (ports/listener), what operators may ask
//! (operators).

pub mod enroll;
pub mod ours;
pub mod rates;
pub mod relay;
pub mod session;
pub mod streams;
