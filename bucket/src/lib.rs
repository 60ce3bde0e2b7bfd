//! S3-compatible buckets: files by their keys, and tenants' repositories among them.
//!
//! Apart from the others, because opendal brings some 60 crates, and because only the coordinator may have a bucket's credentials: no
//! agent depends on this. Blocking, on a runtime that is lent: never to be called on one of its own threads.
//! Not here: what is kept where and when (the coordinator), the format of a repository (isyone-backup).

mod access;
mod bucket;
mod error;
mod store;
#[cfg(feature = "testing")]
pub mod testing;

pub use access::{Access, Patience};
pub use bucket::{Bucket, Object, Removals};
pub use error::BucketError;
pub use store::InBucket;
