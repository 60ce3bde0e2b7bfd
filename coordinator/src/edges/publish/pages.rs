//! Fragments of a document by name, kept in pages. A change of one fragment copies one page, a document is a
//! concatenation of few pieces, and a clone (what is published) shares all unchanged pages.
//!
//! Pure; the same fragments give the same bytes and the same digest, whatever their history.
//! Not here: what the fragments say (content), the text around them (document).

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use bytes::{Bytes, BytesMut};
use imbl::OrdMap;
use sha2::{Digest as _, Sha256};

/// Most fragments in a page. A change copies a page (some 60 KiB of Traefik's configuration, ten microseconds), and a
/// document has far fewer pieces than fragments.
const MAX: usize = 64;
/// Pages made by splitting get this many, which leaves room for the next few fragments.
const FILL: usize = 48;
/// A page with fewer is merged with a neighbour.
const MIN: usize = 16;

/// Places in a document where a fragment has a piece: Traefik's document has one each among the routers, the services
/// and the middlewares. In documents with a single place the other pieces are empty.
pub(crate) const PARTS: usize = 3;

/// A fragment, in its pieces.
pub(crate) type Parts = [Bytes; PARTS];

/// Identifies a set of fragments: the sum of the fragments' SHA-256, and their number. Adding or removing one costs the
/// same whatever the size of the set.
///
/// Fragments carry their names, so none occurs twice. Finding two sets with one sum takes a generalised-birthday attack
/// on 256 bits by somebody who already controls thousands of tenants, and wins only that a reader who sends the entity
/// tag keeps an old document until the next change.
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

    /// The digest as bytes, to be hashed again.
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

/// SHA-256 over the parts, each prefixed with its length, as four words.
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

/// One name's parts, as slices of its page.
#[derive(Debug, Clone)]
struct PageEntry {
    name: String,
    digest: [u64; 4],
    parts: Parts,
}

/// Neighbours by name; all their first parts are one piece, all their second ones another, and so on.
#[derive(Debug, Clone)]
struct Page {
    entries: Vec<PageEntry>,
    parts: Parts,
}

impl Page {
    /// Concatenates the entries' parts, and makes the entries share that copy.
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
    /// Pages by their first names.
    pages: OrdMap<String, Arc<Page>>,
    digest: SetDigest,
    /// Total length of each part, in bytes.
    lengths: [usize; PARTS],
}

/// Edits by name: new parts, or `None` to remove the name.
pub(crate) type Edits = BTreeMap<String, Option<Parts>>;

impl Pages {
    pub(crate) fn len(&self) -> u64 {
        self.digest.count
    }

    /// Identifies this set of fragments.
    pub(crate) fn digest(&self) -> SetDigest {
        self.digest
    }

    /// Total bytes of one part.
    pub(crate) fn length(&self, part: usize) -> usize {
        self.lengths[part]
    }

    /// One part's pieces, in the order of names.
    pub(crate) fn part(&self, part: usize) -> impl Iterator<Item = &Bytes> {
        self.pages
            .values()
            .map(move |page| &page.parts[part])
            .filter(|bytes| !bytes.is_empty())
    }

    /// Applies edits; `false` if nothing changed. The cost is proportional to the touched pages.
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

    /// The key of the page that has a name or would have it.
    fn home(&self, name: &str) -> Option<String> {
        let first = || self.pages.get_min().map(|(first, _)| first);
        self.before(name)
            .map(|(home, _)| home)
            .or_else(first)
            .cloned()
    }

    /// The last page that begins at or before a name.
    fn before(&self, name: &str) -> Option<(&String, &Arc<Page>)> {
        self.pages
            .range::<_, str>((Bound::Unbounded, Bound::Included(name)))
            .next_back()
    }

    /// The first page that begins after a name.
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

    /// Inserts the entries of a page that was taken out: splits them if many, merges them with a neighbour's if few.
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
        /// Whatever is inserted and removed, in steps of any size: the bytes are those of the fragments in order, the
        /// digest equals a fresh start's, and pages stay within their bounds.
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
        // One by one, as tenants leave.
        for name in (0..5_000).filter(|name| name % 50 != 0) {
            assert!(pages.apply([edit(name, None)].into()));
        }
        assert_eq!(pages.len(), 100);
        assert!(pages.pages.len() < 15, "{}", pages.pages.len());
    }
}
