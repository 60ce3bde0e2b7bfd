//! Harnesses for tests that need more than one part of isyone: the simulation of a whole fleet, and real components; the tests themselves
//! are in `tests/all`, one binary.

pub mod e2e;
pub mod simulation;
