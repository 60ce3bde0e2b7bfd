//! How large a repository's parts may be. What exceeds a bound was not written by us, and is refused before it costs memory.

/// A pack is 16 MiB and at most one blob (8 MiB) more; restic's largest default is 16 MiB as well.
pub(crate) const PACK_BYTES: u64 = 64 << 20;
/// Any other file. Index files hold some 50,000 blobs (5 MB).
pub(crate) const FILE_BYTES: u64 = 32 << 20;
/// What an index or a snapshot file may unpack to.
pub(crate) const PLAIN_BYTES: usize = 128 << 20;
/// A blob, unpacked: chunks are at most 8 MiB, and a folder of 100,000 files is described in some 50 MB.
pub(crate) const BLOB_BYTES: u32 = 64 << 20;
/// Blobs of a repository: 48 bytes each in memory while it is read. 4 TB of large files, or 4 million small ones.
pub(crate) const BLOBS: usize = 4_000_000;
/// Files of one kind in a repository.
pub(crate) const FILES: usize = 1_000_000;
/// Snapshots of a repository: one each five minutes for a month are 8,640.
pub(crate) const SNAPSHOTS: usize = 50_000;
/// Folders within folders. Odoo's filestore has 3, PostgreSQL's data directory 4.
pub(crate) const DEPTH: usize = 32;
/// Entries of one folder.
pub(crate) const ENTRIES: usize = 1_000_000;
/// Names that a report repeats; what is beyond is counted.
pub(crate) const NAMED: usize = 100;
/// Parts of one snapshot.
pub(crate) const PARTS: usize = 16;
/// How long a name may be: Linux' own bound.
pub(crate) const NAME_BYTES: usize = 255;

/// The sizes of packs we write: small enough for two of each kind in memory, large enough that 5 GB are 300 files.
pub(crate) const DATA_PACK: u64 = 16 << 20;
pub(crate) const TREE_PACK: u64 = 4 << 20;
/// zstd's own default; higher levels cost more than they save on databases' pages.
pub(crate) const COMPRESSION: i32 = 3;
