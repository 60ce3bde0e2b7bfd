//! Fragments of a document by name, kept in pages: so that a change of one fragment copies one page, a document is a
//! concatenation of few pieces, and a clone (what is published) shares all pages that did not change.
//!
//! Pure; the same fragments give the same bytes and the same digest, however they came to be here.
//! Not here: what the fragments say (content) and what stands around them (document).

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use bytes::{Bytes, BytesMut};
use imbl::OrdMap;
use sha2::{Digest as _, Sha256};

/// Fragments in a page at most. A change copies a page (some 60 KiB of Traefik's configuration, ten microseconds), and a
/// document has at least this many times fewer pieces than fragments.
const MAX: usize = 64;
/// Pages made of a fuller one are this full, so that the next few fragments find room.
const FILL: usize = 48;
/// A page with fewer is joined with a neighbour.
const MIN: usize = 16;

/// Places in a document where a fragment has a piece: Traefik's has one among the routers, one among the services and one
/// among the middlewares. Where a document has one place only, the other pieces are empty.
pub(crate) const PARTS: usize = 3;

/// A fragment, in its pieces.
pub(crate) type Parts = [Bytes; PARTS];

/// What a set of fragments has in common with no other: the sum of the fragments' SHA-256, and their number. Adding and
/// removing one costs the same whatever else is there.
///
/// Fragments carry their names, so none is there twice; two sets with one sum would have to be searched for with a
/// generalised-birthday attack on 256 bits by somebody who already decides on thousands of tenants, and all they would win
/// is that a reader who sends the entity tag keeps an old document until the next change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct SetDigest {
    sum: [u64; 4],
    count: u64,
}

impl SetDigest {
    fn add(&mut self, element: [u64; 4]) {
        self.count += 1;
        self.sum
            .iter_mut()
            .zip(element)
            .for_each(|(sum, e)| *sum = sum.wrapping_add(e));
    }

    fn remove(&mut self, element: [u64; 4]) {
        self.count -= 1;
        self.sum
            .iter_mut()
            .zip(element)
            .for_each(|(sum, e)| *sum = sum.wrapping_sub(e));
    }

    /// The digest as bytes, for a digest of digests.
    pub(crate) fn bytes(&self) -> [u8; 40] {
        let mut bytes = [0; 40];
        let words = self.sum.iter().chain([&self.count]);
        bytes
            .chunks_exact_mut(8)
            .zip(words)
            .for_each(|(place, word)| place.copy_from_slice(&word.to_be_bytes()));
        bytes
    }
}

/// The words of SHA-256 over the parts, each with its length before it.
fn digest(parts: &Parts) -> [u64; 4] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let hash = hasher.finalize();
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(hash.chunks_exact(8)) {
        *word = bytes
            .iter()
            .fold(0, |word, byte| word << 8 | u64::from(*byte));
    }
    words
}

/// One name's parts, as pieces of its page.
#[derive(Debug, Clone)]
struct PageEntry {
    name: String,
    digest: [u64; 4],
    parts: Parts,
}

/// Neighbours by name, and all of their first parts, all of their second ones, and so on, each in one piece.
#[derive(Debug, Clone)]
struct Page {
    entries: Vec<PageEntry>,
    parts: Parts,
}

impl Page {
    /// Copies the entries' parts together, and lets the entries share the copy.
    fn of(mut entries: Vec<PageEntry>) -> Self {
        let parts = std::array::from_fn(|part| {
            let mut whole =
                BytesMut::with_capacity(entries.iter().map(|e| e.parts[part].len()).sum());
            entries
                .iter()
                .for_each(|e| whole.extend_from_slice(&e.parts[part]));
            let whole = whole.freeze();
            let mut begin = 0;
            for entry in &mut entries {
                let end = begin + entry.parts[part].len();
                entry.parts[part] = whole.slice(begin..end);
                begin = end;
            }
            whole
        });
        Self { entries, parts }
    }
}

/// The fragments of one kind and share, in pages that clones share.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pages {
    /// By their first names.
    pages: OrdMap<String, Arc<Page>>,
    digest: SetDigest,
    /// Length of each part over all pages, in bytes.
    lengths: [usize; PARTS],
}

/// What becomes of names: other parts, or nothing.
pub(crate) type Edits = BTreeMap<String, Option<Parts>>;

impl Pages {
    /// How many fragments there are.
    pub(crate) fn len(&self) -> u64 {
        self.digest.count
    }

    /// What this set of fragments has in common with no other.
    pub(crate) fn digest(&self) -> SetDigest {
        self.digest
    }

    /// Bytes of one part of all fragments.
    pub(crate) fn length(&self, part: usize) -> usize {
        self.lengths[part]
    }

    /// The pieces of one part, in the order of names.
    pub(crate) fn part(&self, part: usize) -> impl Iterator<Item = &Bytes> {
        self.pages
            .values()
            .map(move |page| &page.parts[part])
            .filter(|bytes| !bytes.is_empty())
    }

    /// Applies edits; `false` when everything was so already. Costs what the touched pages cost.
    pub(crate) fn apply(&mut self, edits: Edits) -> bool {
        let before = self.digest;
        let mut edits = edits.into_iter().peekable();
        while let Some((name, _)) = edits.peek() {
            let home = self.home(name);
            let end = home
                .as_ref()
                .and_then(|home| self.behind(home))
                .map(|(next, _)| next.clone());
            let mut own = BTreeMap::new();
            while let Some((name, edit)) =
                edits.next_if(|(name, _)| end.as_ref().is_none_or(|end| name < end))
            {
                own.insert(name, edit);
            }
            self.edit_page(home, own);
        }
        self.digest != before
    }

    /// Where a name is, or would be.
    fn home(&self, name: &str) -> Option<String> {
        let first = || self.pages.get_min().map(|(first, _)| first);
        self.before(name)
            .map(|(home, _)| home)
            .or_else(first)
            .cloned()
    }

    /// The last page that begins at a name or before it.
    fn before(&self, name: &str) -> Option<(&String, &Arc<Page>)> {
        self.pages
            .range::<_, str>((Bound::Unbounded, Bound::Included(name)))
            .next_back()
    }

    /// The first page that begins behind a name.
    fn behind(&self, name: &str) -> Option<(&String, &Arc<Page>)> {
        self.pages
            .range::<_, str>((Bound::Excluded(name), Bound::Unbounded))
            .next()
    }

    fn edit_page(&mut self, home: Option<String>, edits: Edits) {
        let page = home.as_ref().and_then(|home| self.pages.get(home)).cloned();
        let mut entries: BTreeMap<String, PageEntry> = page
            .iter()
            .flat_map(|page| &page.entries)
            .map(|entry| (entry.name.clone(), entry.clone()))
            .collect();
        let mut changed = false;
        for (name, edit) in edits {
            let new = edit.map(|parts| PageEntry {
                name: name.clone(),
                digest: digest(&parts),
                parts,
            });
            if entries.get(&name).map(|entry| entry.digest)
                == new.as_ref().map(|entry| entry.digest)
            {
                continue;
            }
            changed = true;
            if let Some(old) = entries.remove(&name) {
                self.digest.remove(old.digest);
                self.lengths
                    .iter_mut()
                    .zip(&old.parts)
                    .for_each(|(length, part)| *length -= part.len());
            }
            if let Some(new) = new {
                self.digest.add(new.digest);
                self.lengths
                    .iter_mut()
                    .zip(&new.parts)
                    .for_each(|(length, part)| *length += part.len());
                entries.insert(name, new);
            }
        }
        if changed {
            home.iter().for_each(|home| drop(self.pages.remove(home)));
            self.put(entries.into_values().collect());
        }
    }

    /// Puts entries in place of a page that is out already: split when they are many, joined with a neighbour when they are few.
    fn put(&mut self, mut entries: Vec<PageEntry>) {
        if entries.len() < MIN
            && let Some(first) = entries.first()
        {
            let neighbours = [self.before(&first.name), self.behind(&first.name)];
            let fits =
                |(_, page): &(&String, &Arc<Page>)| page.entries.len() + entries.len() <= FILL;
            let found = neighbours
                .into_iter()
                .flatten()
                .find(fits)
                .map(|(k, page)| (k.clone(), page.clone()));
            if let Some((neighbour, page)) = found {
                self.pages.remove(&neighbour);
                entries.extend(page.entries.iter().cloned());
                entries.sort_by(|a, b| a.name.cmp(&b.name));
            }
        }
        let size = if entries.len() > MAX { FILL } else { MAX };
        for chunk in entries.chunks(size) {
            self.pages
                .insert(chunk[0].name.clone(), Arc::new(Page::of(chunk.to_vec())));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(name: &str, version: u8) -> Parts {
        [
            format!(",{name}:{version}").into(),
            if version == 0 {
                Bytes::new()
            } else {
                format!(";{name}").into()
            },
            if version == 1 {
                Bytes::new()
            } else {
                format!(".{name}").into()
            },
        ]
    }

    fn edit(name: u16, version: Option<u8>) -> (String, Option<Parts>) {
        let name = format!("{name:04}");
        (name.clone(), version.map(|v| parts(&name, v)))
    }

    fn text(pages: &Pages, part: usize) -> String {
        pages
            .part(part)
            .map(|bytes| std::str::from_utf8(bytes).unwrap())
            .collect()
    }

    proptest! {
        /// Whatever is put in and taken out, in however large steps: the bytes are those of the fragments in order, the digest
        /// is that of a fresh start, and pages stay within their bounds.
        #[test]
        fn the_content_is_what_was_put_in_and_nothing_else(
            rounds in proptest::collection::vec(
                proptest::collection::btree_map(0..400_u16, proptest::option::weighted(0.6, 0..3_u8), 0..200), 0..12)
        ) {
            let (mut pages, mut model) = (Pages::default(), BTreeMap::new());
            for round in rounds {
                let published = (pages.clone(), text(&pages, 0));
                let before: BTreeMap<u16, u8> = model.clone();
                for (name, version) in &round {
                    match version {
                        Some(version) => model.insert(*name, *version),
                        None => model.remove(name),
                    };
                }
                let edits = round.iter().map(|(name, v)| edit(*name, *v)).collect();
                prop_assert_eq!(pages.apply(edits), before != model);
                let wanted: Vec<Parts> = model.iter().filter_map(|(name, v)| edit(*name, Some(*v)).1).collect();
                for part in 0..PARTS {
                    let wanted: String = wanted.iter()
                        .map(|parts| String::from_utf8(parts[part].to_vec()).unwrap()).collect();
                    prop_assert_eq!(wanted.len(), pages.length(part));
                    prop_assert_eq!(text(&pages, part), wanted);
                }
                let mut fresh = Pages::default();
                fresh.apply(model.iter().map(|(name, v)| edit(*name, Some(*v))).collect());
                prop_assert_eq!(fresh.digest(), pages.digest());
                prop_assert_eq!(pages.len(), model.len() as u64);
                prop_assert!(pages.pages.values().all(|p| (1..=MAX).contains(&p.entries.len())));
                prop_assert_eq!(&text(&published.0, 0), &published.1, "what was published does not change");
            }
        }
    }

    #[test]
    fn few_are_left_in_few_pages() {
        let mut pages = Pages::default();
        pages.apply((0..5_000).map(|name| edit(name, Some(1))).collect());
        assert_eq!(pages.pages.len(), 5_000_usize.div_ceil(FILL));
        // One by one, as tenants go.
        for name in (0..5_000).filter(|name| name % 50 != 0) {
            assert!(pages.apply([edit(name, None)].into()));
        }
        assert_eq!(pages.len(), 100);
        assert!(pages.pages.len() < 15, "{}", pages.pages.len());
    }
}
