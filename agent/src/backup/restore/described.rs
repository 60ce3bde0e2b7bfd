//! What a snapshot says of itself, as whoever restores it reads it.
//!
//! Not here: writing it (backup::manifest), where it comes from (fill).

use std::io::{self, Write};

use isyone_proto::{
    backup::{Counts, Segments},
    ids::TenantName,
    plan::UnixMs,
};
use serde::Deserialize;

/// A manifest is some kilobytes.
const MOST_MANIFEST: u64 = 1 << 20;
/// Formats of manifests that this program reads.
const FORMAT: u32 = 1;

/// A manifest, as far as a restore needs it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Manifest {
    format: u32,
    pub at: UnixMs,
    pub segments: Option<Segments>,
    pub segment_bytes: Option<u64>,
    #[serde(default)]
    pub counts: Counts,
    pub tenant: Whose,
}

/// Whose backup it is.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Whose {
    pub name: TenantName,
}

impl Manifest {
    /// `Err`: it cannot be used, and why.
    pub(super) fn read(json: &Bounded) -> Result<Self, String> {
        let manifest = serde_json::from_slice::<Self>(&json.0);
        let manifest = manifest.map_err(|_| "its manifest cannot be read".to_owned())?;
        if manifest.format != FORMAT {
            return Err(format!(
                "it is of format {}, and this agent knows {FORMAT}: upgrade the agent",
                manifest.format
            ));
        }
        Ok(manifest)
    }
}

/// Takes so many bytes and no more.
#[derive(Default)]
pub(super) struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if (self.0.len() + bytes.len()) as u64 > MOST_MANIFEST {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
