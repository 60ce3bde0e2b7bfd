//! `isy-coordinator`.
fn main() {}
