//! The coordinator: one value, the Fleet, changed by one writer; everything else is a view of it.
//!
//! Pure: `fleet`, `change`, `placement`, `views`, `liveness`. Acting: the rest. See ARCHITECTURE.md.

pub mod acme;
pub mod api;
pub mod blackbox;
pub mod certificates;
pub mod change;
pub mod clock;
pub mod config;
pub mod context;
pub mod dns;
pub mod domains;
pub mod edges;
pub mod enroll;
pub mod files;
pub mod fleet;
pub mod http;
pub mod init;
pub mod listener;
pub mod liveness;
pub mod memory;
pub mod metrics;
pub mod observed;
pub mod pki;
pub mod placement;
pub mod program;
pub mod publish;
pub mod scraper;
pub mod secrets;
pub mod server;
pub mod session;
pub mod settings;
pub mod shards;
pub mod state;
pub mod store;
pub mod streams;
pub mod telemetry;
pub mod timings;
pub mod top;
pub mod traces;
pub mod views;
pub mod writer;

#[doc(hidden)]
pub mod testing;
