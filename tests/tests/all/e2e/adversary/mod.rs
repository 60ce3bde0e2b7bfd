//! What somebody who means harm tries against real parts: from inside a tenant's containers and volumes, from another host, as an
//! operator with a lower role. Each test was seen to fail before its border was closed.
//!
//! Not here: what a fleet in one process can show (`adversary`).

mod disk;
mod net;
mod root;
mod rotation;
mod small;
