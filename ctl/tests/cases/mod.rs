//! The test cases, by topic.

mod access;
mod busy;
mod contexts;
mod errors;
mod golden;
mod hands;
mod python;
mod remote;
mod top;
mod verify;
mod waiting;
