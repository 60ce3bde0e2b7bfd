//! The relay against what keeps workers from work, with an Odoo that has as few of them as the real one.
//!
//! Each test has a relay and an Odoo of its own, in this process, over real sockets. `ISYONE_LONG=1` makes the large ones large.

mod bodies;
mod client;
mod crowds;
mod heads;
mod kit;
mod leases;
mod odoo;
mod places;
mod restarts;
mod sockets;
