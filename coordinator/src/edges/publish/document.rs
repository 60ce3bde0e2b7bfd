//! A published document: a frame around the fragments of one or more shares, its entity tag, and its pieces.
//!
//! The cost of making one does not grow with the fragments; its pieces are collected on first use.
//! Not here: what the fragments say (content).

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::pages::Pages;

/// A place in the document that holds fragments.
#[derive(Debug, Clone)]
struct Section {
    before: Bytes,
    content: Content,
    after: Bytes,
    /// Nothing precedes the first fragment, so drop its comma.
    first: bool,
    /// Left out entirely when there are no fragments.
    optional: bool,
}

/// What a section holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// This part of each fragment.
    Part(usize),
    /// All certificates of the scope.
    Certificates,
    /// The entity tag, without its quotes.
    Version,
    /// Nothing: the section is frame only.
    Nothing,
}

/// The text around fragments, the same for all documents of a kind.
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
        Self {
            sections,
            digest: hasher.finalize().into(),
        }
    }

    /// Traefik's dynamic configuration.
    pub(crate) fn traefik(frame: isyone_traefik::Frame) -> Self {
        let section = |[before, after]: [String; 2], content| Section {
            before: before.into(),
            content,
            after: after.into(),
            first: false,
            optional: false,
        };
        let certificates = section(frame.certificates, Content::Certificates);
        Self::new(vec![
            section(frame.head, Content::Version),
            section(frame.middlewares, Content::Part(2)),
            section(frame.routers, Content::Part(0)),
            section(frame.services, Content::Part(1)),
            Section {
                first: true,
                optional: true,
                ..certificates
            },
            section([frame.tail.to_owned(), String::new()], Content::Nothing),
        ])
    }

    /// A list or a map of the fragments' first parts.
    pub(crate) fn list([before, after]: [Bytes; 2]) -> Self {
        let content = Content::Part(0);
        Self::new(vec![Section {
            before,
            content,
            after,
            first: true,
            optional: false,
        }])
    }
}

/// A document as served over HTTP and stored in files.
#[derive(Debug)]
pub struct Document {
    frame: Arc<Frame>,
    shares: Vec<Pages>,
    certificates: Vec<Pages>,
    etag: String,
    pieces: OnceLock<Vec<Bytes>>,
}

impl Document {
    /// Of the shares' fragments, share after share.
    pub(crate) fn new(frame: Arc<Frame>, shares: Vec<Pages>) -> Self {
        Self::with_certificates(frame, shares, Vec::new())
    }

    /// Like [`Document::new`], with certificates.
    pub(crate) fn with_certificates(
        frame: Arc<Frame>,
        shares: Vec<Pages>,
        certificates: Vec<Pages>,
    ) -> Self {
        let mut hasher = Sha256::new_with_prefix(frame.digest);
        shares
            .iter()
            .chain(&certificates)
            .for_each(|share| hasher.update(share.digest().bytes()));
        let etag = format!("\"{}\"", hex::encode(&hasher.finalize()[..16]));
        Self {
            frame,
            shares,
            certificates,
            etag,
            pieces: OnceLock::new(),
        }
    }

    /// Strong entity tag, quoted: the same content always has the same tag, even after a restart.
    pub fn etag(&self) -> &str {
        &self.etag
    }

    /// Number of fragments: for documents about tenants, the number of tenants.
    pub fn fragments(&self) -> u64 {
        self.shares.iter().map(Pages::len).sum()
    }

    /// The entity tag without quotes: what an edge that runs this document reports.
    pub fn version(&self) -> &str {
        self.etag.trim_matches('"')
    }

    /// Length of the whole document, in bytes.
    pub fn length(&self) -> u64 {
        let section = |section: &Section| {
            let frame = section.before.len() + section.after.len();
            match self.content_length(section.content) {
                0 if section.optional => 0,
                0 => frame,
                // Minus the first comma.
                content => frame + content - usize::from(section.first),
            }
        };
        self.frame.sections.iter().map(section).sum::<usize>() as u64
    }

    /// The content in pieces.
    pub fn pieces(&self) -> &[Bytes] {
        self.pieces.get_or_init(|| {
            self.frame
                .sections
                .iter()
                .flat_map(|s| self.section(s))
                .collect()
        })
    }

    /// The content as one string: for tests and people, not for large fleets.
    pub fn text(&self) -> String {
        self.pieces()
            .iter()
            .map(|piece| String::from_utf8_lossy(piece))
            .collect()
    }

    fn content_length(&self, content: Content) -> usize {
        match content {
            Content::Version => self.version().len(),
            Content::Part(part) => self.shares.iter().map(|share| share.length(part)).sum(),
            Content::Certificates => self.certificates.iter().map(|share| share.length(0)).sum(),
            Content::Nothing => 0,
        }
    }

    fn section(&self, section: &Section) -> Vec<Bytes> {
        let mut pieces: Vec<Bytes> = match section.content {
            Content::Version => vec![Bytes::copy_from_slice(self.version().as_bytes())],
            Content::Part(part) => self
                .shares
                .iter()
                .flat_map(|share| share.part(part))
                .cloned()
                .collect(),
            Content::Certificates => self
                .certificates
                .iter()
                .flat_map(|share| share.part(0))
                .cloned()
                .collect(),
            Content::Nothing => Vec::new(),
        };
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
