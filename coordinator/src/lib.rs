//! The coordinator's acting parts around the core (isyone-fleet): one writer that changes the Fleet and stores it, and
//! everything that serves, publishes, probes and reports the result.
//!
//! The modules: `base` (the foundation), `writer` (with the store), `wire` (answers and errors), `edges`, `agents`,
//! `ports`, `operators`, `rotation`, `shipping`; `server` assembles them; `init`, `rebuild`, `backup`, `doctor` and `program` are the command line. See ARCHITECTURE.md. Not
//! here: what any change or report means, which isyone-fleet decides.

pub mod agents;
pub mod backup;
pub mod base;
pub mod doctor;
pub mod edges;
pub mod init;
pub mod operators;
pub mod ports;
pub mod program;
pub mod rebuild;
pub mod repositories;
pub mod rotation;
pub mod server;
pub mod shipping;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod wire;
pub mod writer;
