//! The test cases, by topic.

mod access;
mod busy;
mod contexts;
mod errors;
mod golden;
mod python;
mod remote;
mod top;
mod verify;
mod waiting;
