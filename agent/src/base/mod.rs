//! What every room may use and what knows no other room: the clock, files, paths of the data directory, crash points
//! for tests, limits on bytes per second, places, files below a directory that somebody else fills, the kernel's files and
//! announcements, the program `btrfs`, bytes in messages as one stream.
//!
//! Not here: anything about tenants or Docker.

pub mod beneath;
pub mod btrfs;
pub mod bulk;
pub mod clock;
pub mod config;
pub mod failpoints;
pub mod fsutil;
pub mod kernel;
pub mod netlink;
pub mod shares;
pub mod throttle;
pub mod tree;
