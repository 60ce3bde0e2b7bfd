//! Agents, which dial in: how they join, their sessions (plans down, reports up), and streams of bulk data to them.
//!
//! Not here: what a plan contains (isyone_fleet::views), the ports (ports/listener), what operators may ask
//! (operators).

pub mod enroll;
pub mod session;
pub mod streams;
