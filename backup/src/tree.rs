//! Folders of a snapshot, as they lie in blobs.

use std::{borrow::Cow, fmt};

use rustic_core::repofile::{Node, NodeType};
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use crate::{
    bridge::name,
    error::{Fault, Refusal},
    limits,
    store::Name,
};

/// What a name in a snapshot leads to.
#[derive(Debug)]
pub(crate) enum What {
    File {
        bytes: u64,
        content: Vec<Name>,
    },
    Folder(Option<Name>),
    /// A link, a device, a pipe, a socket.
    Special,
}

/// An entry of a folder.
#[derive(Debug)]
pub(crate) struct Item {
    /// Bytes as the file system has them; not yet known to be harmless.
    pub(crate) name: Vec<u8>,
    pub(crate) what: What,
    pub(crate) mode: Option<u32>,
    pub(crate) modified: Option<jiff::Timestamp>,
}

/// The entries of a folder, in their order.
///
/// Counted as they come: a blob of some kilobytes can hold millions, and each of rustic's nodes takes some hundred bytes.
pub(crate) fn parse(json: &[u8]) -> Result<Vec<Item>, Fault> {
    parse_up_to(json, limits::ENTRIES)
}

fn parse_up_to(json: &[u8], most: usize) -> Result<Vec<Item>, Fault> {
    let mut taken = Taken {
        items: Vec::new(),
        most,
        swollen: false,
    };
    let mut json = serde_json::Deserializer::from_slice(json);
    let read = (&mut json)
        .deserialize_map(Folder(&mut taken))
        .and_then(|()| json.end());
    match read {
        Ok(()) => Ok(taken.items),
        Err(_) if taken.swollen => Err(Fault::Swollen),
        Err(_) => Err(Fault::Malformed),
    }
}

/// What was read so far.
struct Taken {
    items: Vec<Item>,
    most: usize,
    swollen: bool,
}

/// `{"nodes": [...]}`, as restic and rustic write it.
struct Folder<'t>(&'t mut Taken);

impl<'de> Visitor<'de> for Folder<'_> {
    type Value = ();

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a folder")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut is_there = false;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if key != "nodes" {
                map.next_value::<IgnoredAny>()?;
            } else if is_there {
                return Err(A::Error::duplicate_field("nodes"));
            } else {
                is_there = true;
                map.next_value_seed(Entries(self.0))?;
            }
        }
        is_there
            .then_some(())
            .ok_or_else(|| A::Error::missing_field("nodes"))
    }
}

/// The list of entries; `null` is an empty one.
struct Entries<'t>(&'t mut Taken);

impl<'de> DeserializeSeed<'de> for Entries<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("entries")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(node) = list.next_element::<Node>()? {
            if self.0.items.len() == self.0.most {
                self.0.swollen = true;
                return Err(A::Error::custom("too many entries"));
            }
            self.0.items.push(item(node));
        }
        Ok(())
    }
}

fn item(node: Node) -> Item {
    use std::os::unix::ffi::OsStrExt as _;

    let written = node.name().as_bytes().to_vec();
    let what = match node.node_type {
        NodeType::File => What::File {
            bytes: node.meta.size,
            content: node.content.iter().flatten().map(|id| name(id)).collect(),
        },
        NodeType::Dir => What::Folder(node.subtree.as_ref().map(|id| name(id))),
        _ => What::Special,
    };
    Item {
        name: written,
        what,
        mode: node.meta.mode,
        modified: node.meta.mtime,
    }
}

/// Whether a name stays within its folder.
pub(crate) fn check(name: &[u8]) -> Result<(), Refusal> {
    let stays = !name.is_empty()
        && name != b"."
        && name != b".."
        && name.len() <= limits::NAME_BYTES
        && !name.contains(&b'/')
        && !name.contains(&0);
    stays.then_some(()).ok_or(Refusal::Name)
}

/// A path for people, whatever its bytes are.
pub(crate) fn join(folder: &str, name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    match folder {
        "" => name.into_owned(),
        folder => format!("{folder}/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_none() {
        for wrong in [
            &b""[..],
            b".",
            b"..",
            b"/",
            b"a/b",
            b"../a",
            b"/etc",
            b"a\0b",
            &[b'a'; 256],
        ] {
            assert_eq!(check(wrong), Err(Refusal::Name));
        }
        for right in [&b"a"[..], b"...", b"..a", b"\xff", &[b'a'; 255]] {
            assert_eq!(check(right), Ok(()));
        }
    }

    #[test]
    fn what_is_no_tree_is_malformed_and_links_are_special() {
        for wrong in [&b""[..], b"{", b"[]", b"{\"nodes\":[{}]}", b"\xff"] {
            assert_eq!(parse(wrong).map(drop), Err(Fault::Malformed));
        }
        assert!(parse(br#"{"nodes":null}"#).unwrap().is_empty());
        let two = br#"{"nodes":[{"name":"a","type":"dir"},{"name":"b","type":"dir"}]}"#;
        assert_eq!(parse_up_to(two, 2).unwrap().len(), 2);
        assert_eq!(parse_up_to(two, 1).map(drop), Err(Fault::Swollen));
        let json = br#"{"nodes":[{"name":"a","type":"symlink","linktarget":"/etc"},{"name":"\\x2e\\x2e","type":"dir"}]}"#;
        let items = parse(json).unwrap();
        assert!(matches!(items[0].what, What::Special));
        assert_eq!(check(&items[1].name), Err(Refusal::Name), "{items:?}");
    }
}
