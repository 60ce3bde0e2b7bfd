//! Harnesses for tests that need more than one part of isyone: the simulation of a whole fleet, a real fleet in one
//! process, and real components; a mix of faults for these; what hostile inputs must not do. The tests themselves are in `tests/all`,
//! one binary.

pub mod chaos;
pub mod collector;
pub mod e2e;
pub mod fleet;
pub mod hostile;
pub mod simulation;
