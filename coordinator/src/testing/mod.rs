//! Helpers for tests of this crate and others, besides the core's own (isyone_fleet::testing). Not part of the product.

pub mod dns;
