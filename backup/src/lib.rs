//! Backups of tenants: snapshots in a repository of the restic format, one repository and one random key for each tenant.
//!
//! What is written here, stock `restic` lists, checks and restores with [`Key::restic_password`]. Writing and pruning are
//! rustic_core's, held on a short lead: it only logs what it cannot read, so [`source`] counts for itself, its snapshots are
//! withheld until everything about them is known to be good, and its panics are errors here. Reading is our own: what lies in a
//! repository was written by a host, and whoever restores must not trust it; sizes, depths and names are checked before use.
//!
//! Everything blocks and belongs on a thread of its own.
//!
//! Not here: what a backup consists of, when it is made, how PostgreSQL is asked for it, where keys are kept; S3 and other
//! destinations (they are a [`Store`] each).

mod bridge;
mod copy;
mod error;
mod index;
mod job;
mod key;
mod limits;
mod reader;
mod repository;
mod restore;
mod retention;
mod seal;
mod snapshot;
pub mod source;
pub mod store;
mod tree;
mod verify;
mod write;

pub use copy::{Copied, Known, Tidied, copy, only_in_copy};
pub use error::{Error, Fault};
pub use job::{Job, Pace, Progress, Stop};
pub use key::Key;
pub use reader::{Entry, EntryKind, Found, Reader};
pub use repository::Repository;
pub use restore::{Existing, Owner, Restored, Target};
pub use retention::{Evidence, Keep, Kept, forgettable, kept};
pub use snapshot::{Label, Listing, Purpose, Snapshot};
pub use source::Part;
pub use store::Store;
pub use verify::{Damage, Report, Share};
pub use write::Written;
