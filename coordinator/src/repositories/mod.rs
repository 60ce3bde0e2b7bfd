//! Tenants' repositories on this machine: where they lie (places), served to the hosts that add to them (service), whose turn it is
//! (rota), how that looks from outside (collector), and what only the coordinator does with them: forgetting, pruning, removing
//! (upkeep, by what is known of snapshots from elsewhere: evidence), copies of them in buckets (buckets).
//!
//! A host reaches only the repositories of tenants that are placed there, and can only add to them: whoever has taken one over can
//! neither remove nor change what is there, nor see what others have. Whatever comes from a host is hostile; nothing of it is kept
//! in memory.
//! Not here: what a repository holds (isyone-backup), what is due and what is kept (isyone_fleet::backups).

pub mod buckets;
pub mod collector;
mod evidence;
pub mod places;
pub mod rota;
pub mod service;
pub mod shares;
pub mod upkeep;
pub mod verified;
