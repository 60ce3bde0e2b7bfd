//! The tests, by what they look at.

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
