//! One file per noun: its options, its calls and its tables.

pub mod backup;
pub mod cert;
pub mod context;
pub mod doctor;
pub mod edge;
pub mod events;
pub mod host;
pub mod op;
pub mod operator;
pub mod rebalance;
pub mod tenant;
pub mod top;
pub mod version;
