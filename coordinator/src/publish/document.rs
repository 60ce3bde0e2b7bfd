//! A published document: a frame around the fragments of one share or of several, its entity tag, and its pieces.
//!
//! Making one costs nothing that grows with the fragments; its pieces are looked up when it is first asked for.
//! Not here: what the fragments say (content).

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::pages::{PARTS, Pages};

/// A place where fragments stand.
#[derive(Debug, Clone)]
struct Section {
    before: Bytes,
    /// Which part of each fragment.
    part: usize,
    after: Bytes,
    /// Nothing is before the first fragment: its comma goes.
    first: bool,
    /// Left out as a whole when there is no fragment.
    optional: bool,
}

/// What is around fragments: the same for all documents of a kind.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    sections: Vec<Section>,
    digest: [u8; 32],
}

impl Frame {
    fn new(sections: Vec<Section>) -> Self {
        let mut hasher = Sha256::new();
        for bytes in sections.iter().flat_map(|s| [&s.before, &s.after]) {
            hasher.update((bytes.len() as u64).to_be_bytes());
            hasher.update(bytes);
        }
        Self { sections, digest: hasher.finalize().into() }
    }

    /// Traefik's dynamic configuration.
    pub(crate) fn traefik(frame: isyone_traefik::Frame) -> Self {
        let section = |[before, after]: [Bytes; 2], part, first| Section {
            before,
            part,
            after,
            first,
            optional: first,
        };
        let head = [frame.head.into(), Bytes::new()];
        let nothing = Section { optional: false, ..section(head, NO_PART, false) };
        Self::new(vec![
            nothing,
            section(frame.routers.map(Bytes::from), 0, true),
            section(frame.services.map(Bytes::from), 1, false),
        ])
    }

    /// A list or a map of the fragments' first parts.
    pub(crate) fn list([before, after]: [Bytes; 2]) -> Self {
        Self::new(vec![Section { before, part: 0, after, first: true, optional: false }])
    }
}

/// A section of the frame alone.
const NO_PART: usize = usize::MAX;

/// A document as HTTP serves it and files keep it.
#[derive(Debug)]
pub struct Document {
    frame: Arc<Frame>,
    shares: Vec<Pages>,
    etag: String,
    pieces: OnceLock<Vec<Bytes>>,
}

impl Document {
    /// The shares' fragments, share after share.
    pub(crate) fn new(frame: Arc<Frame>, shares: Vec<Pages>) -> Self {
        let mut hasher = Sha256::new_with_prefix(frame.digest);
        shares.iter().for_each(|share| hasher.update(share.digest().bytes()));
        let etag = format!("\"{}\"", hex::encode(&hasher.finalize()[..16]));
        Self { frame, shares, etag, pieces: OnceLock::new() }
    }

    /// Strong entity tag, quoted: the same content has the same one, also after a restart.
    pub fn etag(&self) -> &str {
        &self.etag
    }

    /// Number of fragments.
    pub fn fragments(&self) -> u64 {
        self.shares.iter().map(Pages::len).sum()
    }

    /// Bytes altogether.
    pub fn length(&self) -> u64 {
        let parts = self.shares.iter().flat_map(|share| (0..PARTS).map(|part| share.length(part)));
        let fragments: usize = parts.sum();
        let frame = |section: &Section| match self.is_empty(section) {
            true if section.optional => 0,
            true => section.before.len() + section.after.len(),
            // Without the first comma.
            false => section.before.len() + section.after.len() - usize::from(section.first),
        };
        (fragments + self.frame.sections.iter().map(frame).sum::<usize>()) as u64
    }

    /// The content, piece by piece.
    pub fn pieces(&self) -> &[Bytes] {
        self.pieces.get_or_init(|| self.frame.sections.iter().flat_map(|s| self.section(s)).collect())
    }

    /// The content in one piece: for tests and people, not for large fleets.
    pub fn text(&self) -> String {
        self.pieces().iter().map(|piece| String::from_utf8_lossy(piece)).collect()
    }

    fn is_empty(&self, section: &Section) -> bool {
        section.part == NO_PART || self.shares.iter().all(|share| share.length(section.part) == 0)
    }

    fn section(&self, section: &Section) -> Vec<Bytes> {
        let fragments = self.shares.iter().filter(|_| section.part != NO_PART);
        let mut pieces: Vec<Bytes> = fragments.flat_map(|share| share.part(section.part)).cloned().collect();
        if pieces.is_empty() && section.optional {
            return pieces;
        }
        if section.first
            && let Some(piece) = pieces.first_mut()
        {
            // Every fragment begins with a comma.
            *piece = piece.slice(1..);
        }
        pieces.insert(0, section.before.clone());
        pieces.push(section.after.clone());
        pieces.retain(|piece| !piece.is_empty());
        pieces
    }
}
