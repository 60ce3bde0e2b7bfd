//! Paths inside a volume, as bytes: relative, without a way out, bounded. Pure.
//!
//! Not here: opening them (the parent).

use std::{
    cmp::Ordering,
    ffi::{OsStr, OsString},
    fmt,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

/// Linux' limit for a path; ours end within it even when a volume's own directory is put before them.
const MAX_PATH_BYTES: usize = 3_000;
/// Linux' limit for a name.
const MAX_NAME_BYTES: usize = 255;
/// PostgreSQL and Odoo nest four deep. Each level costs a descriptor while a tree is walked.
pub const MAX_DEPTH: usize = 64;

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// `.`, `..`, an empty name or a NUL.
    #[error("a name in it is none")]
    Name,
    /// Longer or deeper than anything that programs in a tenant make.
    #[error("it is too long or too deep")]
    Long,
}

/// A path below a volume's directory; empty: that directory itself. Ordered as a walk meets them: a directory before
/// what is in it, names in one directory by their bytes.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct RelPath(Box<[u8]>);

impl RelPath {
    /// The volume's directory itself.
    pub fn root() -> Self {
        Self::default()
    }

    /// Checks a path that somebody else names.
    pub fn parse(bytes: &[u8]) -> Result<Self, PathError> {
        if bytes.len() > MAX_PATH_BYTES {
            return Err(PathError::Long);
        }
        if bytes.is_empty() {
            return Ok(Self::root());
        }
        for (depth, name) in bytes.split(|b| *b == b'/').enumerate() {
            check_name(name)?;
            if depth >= MAX_DEPTH {
                return Err(PathError::Long);
            }
        }
        Ok(Self(bytes.into()))
    }

    /// The path of a name in this directory.
    pub fn join(&self, name: &[u8]) -> Result<Self, PathError> {
        check_name(name)?;
        let mut bytes = self.0.to_vec();
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Self::parse(&bytes)
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The directory that it is in, and its name there; `None` for the root.
    pub fn split(&self) -> Option<(Self, &[u8])> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.iter().rposition(|b| *b == b'/') {
            Some(at) => (Self(self.0[..at].into()), &self.0[at + 1..]),
            None => (Self::root(), &self.0),
        })
    }

    /// For calls below a directory handle.
    pub(super) fn as_path(&self) -> &Path {
        if self.is_root() {
            return Path::new(".");
        }
        Path::new(OsStr::from_bytes(&self.0))
    }

    fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|name| !name.is_empty())
    }
}

fn check_name(name: &[u8]) -> Result<(), PathError> {
    if name.is_empty() || name == b"." || name == b".." || name.contains(&0) || name.contains(&b'/')
    {
        return Err(PathError::Name);
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(PathError::Long);
    }
    Ok(())
}

impl Ord for RelPath {
    fn cmp(&self, other: &Self) -> Ordering {
        self.names().cmp(other.names())
    }
}

impl PartialOrd for RelPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Quoted, with everything escaped that could fool a terminal: a tenant chose it.
impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl From<RelPath> for PathBuf {
    fn from(path: RelPath) -> Self {
        OsString::from_vec(path.0.into_vec()).into()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Component;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ways_out_are_no_paths() {
        for bad in [
            &b"/etc/passwd"[..],
            b"..",
            b"a/../b",
            b"a/..",
            b".",
            b"a/./b",
            b"a//b",
            b"a/",
            b"a\0b",
            &[b'x'; 256],
            &b"a/".repeat(64)[..],
            &[b"abcdefg/".repeat(400), b"x".to_vec()].concat(),
        ] {
            assert!(RelPath::parse(bad).is_err(), "{}", bad.escape_ascii());
        }
        for good in [&b""[..], b"a", b"a/b", b"..a/b..", b"a\xff", b"\n"] {
            assert_eq!(RelPath::parse(good).unwrap().bytes(), good);
        }
        assert!(RelPath::root().join(b"a/b").is_err());
        assert_eq!(
            RelPath::parse(b"a\x1b[2J").unwrap().to_string(),
            r#""a\x1b[2J""#
        );
    }

    proptest! {
        #[test]
        fn whatever_passes_stays_below(bytes in proptest::collection::vec(prop_oneof![Just(b'.'), Just(b'/'), Just(b'a'), any::<u8>()], 0..40)) {
            if let Ok(path) = RelPath::parse(&bytes) {
                let below = path.as_path().components().all(|c| matches!(c, Component::Normal(_)));
                prop_assert!(path.is_root() || below);
                match path.split() {
                    Some((parent, name)) => {
                        prop_assert_eq!(parent.join(name).unwrap(), path.clone());
                        prop_assert!(parent < path);
                    }
                    None => prop_assert!(path.is_root()),
                }
            }
        }

        #[test]
        fn the_order_is_that_of_names(a in "[a-c!/]{0,6}", b in "[a-c!/]{0,6}") {
            let (Ok(a), Ok(b)) = (RelPath::parse(a.as_bytes()), RelPath::parse(b.as_bytes())) else { return Ok(()) };
            let names = |p: &RelPath| p.as_path().components().filter(|c| matches!(c, Component::Normal(_))).map(|c| c.as_os_str().to_owned()).collect::<Vec<_>>();
            prop_assert_eq!(a.cmp(&b), names(&a).cmp(&names(&b)));
        }
    }
}
