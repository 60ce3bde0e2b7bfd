//! What tests of this crate and of others share beside the core's own (isyone_fleet::testing). Not part of the product.

pub mod dns;
