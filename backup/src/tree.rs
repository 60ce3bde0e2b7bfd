//! Folders of a snapshot, as they lie in blobs.

use rustic_core::repofile::{Node, NodeType, Tree};

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
pub(crate) fn parse(json: &[u8]) -> Result<Vec<Item>, Fault> {
    let tree: Tree = serde_json::from_slice(json).map_err(|_| Fault::Malformed)?;
    if tree.nodes.len() > limits::ENTRIES {
        return Err(Fault::Swollen);
    }
    Ok(tree.nodes.into_iter().map(item).collect())
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
        let json = br#"{"nodes":[{"name":"a","type":"symlink","linktarget":"/etc"},{"name":"\\x2e\\x2e","type":"dir"}]}"#;
        let items = parse(json).unwrap();
        assert!(matches!(items[0].what, What::Special));
        assert_eq!(check(&items[1].name), Err(Refusal::Name), "{items:?}");
    }
}
