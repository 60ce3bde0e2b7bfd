//! What somebody who means harm tries against a fleet in one process: with certificates that were stolen or made up, from the wire,
//! from inside a tenant's volumes. Each test was seen to fail before its border was closed.
//!
//! Not here: what only a real kernel, engine or Odoo can show (`e2e::adversary`).

mod backup;
mod disk;
mod identity;
mod net;
mod root;
mod rotation;
mod small;
