//! The host agent's program.
fn main() {}
