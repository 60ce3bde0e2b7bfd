//! The coordinator: one value, the Fleet, changed by one writer; everything else is a view of it.
//!
//! Pure: `fleet`, `change`, `placement`, `views`, `liveness`. Acting: the rest. See ARCHITECTURE.md.

pub mod change;
pub mod clock;
pub mod config;
pub mod files;
pub mod fleet;
pub mod listener;
pub mod liveness;
pub mod observed;
pub mod pki;
pub mod placement;
pub mod secrets;
pub mod settings;
pub mod state;
pub mod store;
pub mod views;
pub mod writer;

#[doc(hidden)]
pub mod testing;
