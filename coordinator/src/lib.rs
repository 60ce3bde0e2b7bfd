//! The coordinator: one value, the Fleet, changed by one writer; everything else is a view of it.
//!
//! Pure: `fleet`, `change`, `placement`, `views`, `liveness`. Acting: the rest. See ARCHITECTURE.md.

pub mod change;
pub mod config;
pub mod fleet;
pub mod liveness;
pub mod observed;
pub mod placement;
pub mod settings;
pub mod state;
pub mod store;
pub mod views;
pub mod writer;
