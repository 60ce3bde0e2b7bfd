//! A published document: a frame around the fragments of one share or of several, its entity tag, and its pieces.
//!
//! Making one costs nothing that grows with the fragments; its pieces are looked up when it is first asked for.
//! Not here: what the fragments say (content).

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::pages::Pages;

/// A place where fragments stand.
#[derive(Debug, Clone)]
struct Section {
    before: Bytes,
    /// Whose fragments; none: a section of the frame alone.
    of: Option<(Source, usize)>,
    after: Bytes,
    /// Nothing is before the first fragment: its comma goes.
    first: bool,
    /// Left out as a whole when there is no fragment.
    optional: bool,
}

/// Where a section's fragments come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Shares,
    Certificates,
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
        let alone = |text: Bytes| Section {
            before: text,
            of: None,
            after: Bytes::new(),
            first: false,
            optional: false,
        };
        let section = |place: isyone_traefik::Place, source, part| Section {
            before: place.before.into(),
            of: Some((source, part)),
            after: place.after.into(),
            first: place.bare,
            optional: place.bare,
        };
        Self::new(vec![
            alone(frame.head.into()),
            section(frame.routers, Source::Shares, 0),
            section(frame.services, Source::Shares, 1),
            section(frame.certificates, Source::Certificates, 0),
            alone(frame.tail.into()),
        ])
    }

    /// A list or a map of the fragments' first parts.
    pub(crate) fn list([before, after]: [Bytes; 2]) -> Self {
        let of = Some((Source::Shares, 0));
        Self::new(vec![Section { before, of, after, first: true, optional: false }])
    }
}

/// A document as HTTP serves it and files keep it.
#[derive(Debug)]
pub struct Document {
    frame: Arc<Frame>,
    shares: Vec<Pages>,
    certificates: Vec<Pages>,
    etag: String,
    pieces: OnceLock<Vec<Bytes>>,
}

impl Document {
    /// The shares' fragments, share after share.
    pub(crate) fn new(frame: Arc<Frame>, shares: Vec<Pages>) -> Self {
        Self::with_certificates(frame, shares, Vec::new())
    }

    /// And certificates, likewise.
    pub(crate) fn with_certificates(frame: Arc<Frame>, shares: Vec<Pages>, certificates: Vec<Pages>) -> Self {
        let mut hasher = Sha256::new_with_prefix(frame.digest);
        shares.iter().chain(&certificates).for_each(|share| hasher.update(share.digest().bytes()));
        let etag = format!("\"{}\"", hex::encode(&hasher.finalize()[..16]));
        Self { frame, shares, certificates, etag, pieces: OnceLock::new() }
    }

    /// Strong entity tag, quoted: the same content has the same one, also after a restart.
    pub fn etag(&self) -> &str {
        &self.etag
    }

    /// Number of fragments: tenants, where it is about them.
    pub fn fragments(&self) -> u64 {
        self.shares.iter().map(Pages::len).sum()
    }

    /// Bytes altogether.
    pub fn length(&self) -> u64 {
        let section = |section: &Section| {
            let frame = section.before.len() + section.after.len();
            match self.fragments_length(section) {
                0 if section.optional => 0,
                0 => frame,
                // Without the first comma.
                fragments => frame + fragments - usize::from(section.first),
            }
        };
        self.frame.sections.iter().map(section).sum::<usize>() as u64
    }

    /// The content, piece by piece.
    pub fn pieces(&self) -> &[Bytes] {
        self.pieces.get_or_init(|| self.frame.sections.iter().flat_map(|s| self.section(s)).collect())
    }

    /// The content in one piece: for tests and people, not for large fleets.
    pub fn text(&self) -> String {
        self.pieces().iter().map(|piece| String::from_utf8_lossy(piece)).collect()
    }

    fn source(&self, source: Source) -> &[Pages] {
        match source {
            Source::Shares => &self.shares,
            Source::Certificates => &self.certificates,
        }
    }

    fn fragments_length(&self, section: &Section) -> usize {
        let Some((source, part)) = section.of else { return 0 };
        self.source(source).iter().map(|share| share.length(part)).sum()
    }

    fn section(&self, section: &Section) -> Vec<Bytes> {
        let fragments = section
            .of
            .iter()
            .flat_map(|(source, part)| self.source(*source).iter().flat_map(|share| share.part(*part)));
        let mut pieces: Vec<Bytes> = fragments.cloned().collect();
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
