//! Lists that may be long, in files without a name: what a copy consists of, and what of it is asked for. Memory holds a
//! buffer of each reader, whatever the tenant's volumes hold; the file goes with the job. Blocking.
//!
//! Not here: what is in the lists (manifest), carrying them out (target).

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use isyone_proto::plan::Role;

use super::manifest::Entry;
use crate::base::beneath::{Meta, RelPath};

/// What is buffered of a list that is written or read.
const BUFFER: usize = 64 << 10;

/// What is known of the part of a file that is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing is here that is of use.
    Nothing,
    /// As long as the whole, with this digest.
    Whole([u8; 32]),
    /// A part, whose digest so far is the one with this number.
    Part(u32),
}

/// An entry of a list: a file to ask for from `offset` on, or a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) entry: Entry,
    pub(super) offset: u64,
    pub(super) known: Known,
}

impl Ask {
    /// From its beginning.
    pub(super) fn whole(entry: Entry) -> Self {
        Self {
            entry,
            offset: 0,
            known: Known::Nothing,
        }
    }

    /// Appends its record. Only this process reads it again.
    pub(super) fn encode(&self, to: &mut Vec<u8>) {
        let Self {
            entry,
            offset,
            known,
        } = self;
        let (tag, number, digest) = match known {
            Known::Nothing => (0u8, 0, [0; 32]),
            Known::Whole(digest) => (1, 0, *digest),
            Known::Part(number) => (2, *number, [0; 32]),
        };
        let path = entry.path.bytes();
        let length = u16::try_from(path.len()).unwrap_or(u16::MAX); // at most 3,000, as parsed
        to.push(u8::from(entry.volume == Role::Odoo));
        to.push(u8::from(entry.size.is_some()));
        to.push(tag);
        to.extend_from_slice(&length.to_le_bytes());
        for word in [entry.meta.mode, entry.meta.uid, entry.meta.gid, number] {
            to.extend_from_slice(&word.to_le_bytes());
        }
        for long in [entry.size.unwrap_or(0), *offset] {
            to.extend_from_slice(&long.to_le_bytes());
        }
        to.extend_from_slice(&entry.meta.mtime_ns.to_le_bytes());
        if tag == 1 {
            to.extend_from_slice(&digest);
        }
        to.extend_from_slice(path);
    }

    fn decode(from: &mut impl Read) -> io::Result<Self> {
        let [odoo, file, tag] = bytes(from)?;
        let length = u16::from_le_bytes(bytes(from)?);
        let mut word = || bytes(from).map(u32::from_le_bytes);
        let (mode, uid, gid, number) = (word()?, word()?, word()?, word()?);
        let mut long = || bytes(from).map(u64::from_le_bytes);
        let (size, offset) = (long()?, long()?);
        let mtime_ns = i64::from_le_bytes(bytes(from)?);
        let known = match tag {
            0 => Known::Nothing,
            1 => Known::Whole(bytes(from)?),
            _ => Known::Part(number),
        };
        let mut path = vec![0; usize::from(length)];
        from.read_exact(&mut path)?;
        let path = RelPath::parse(&path).map_err(io::Error::other)?;
        Ok(Self {
            entry: Entry {
                volume: if odoo == 1 {
                    Role::Odoo
                } else {
                    Role::Postgres
                },
                path,
                size: (file == 1).then_some(size),
                meta: Meta {
                    mode,
                    uid,
                    gid,
                    mtime_ns,
                },
            },
            offset,
            known,
        })
    }
}

fn bytes<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A list that is being written.
pub(super) struct Writer {
    out: BufWriter<File>,
    record: Vec<u8>,
    directory: PathBuf,
    count: u64,
}

impl Writer {
    /// In a file without a name below a directory of ours.
    pub(super) fn new(directory: &Path) -> io::Result<Self> {
        Ok(Self {
            out: BufWriter::with_capacity(BUFFER, tempfile::tempfile_in(directory)?),
            record: Vec::new(),
            directory: directory.to_owned(),
            count: 0,
        })
    }

    pub(super) fn add(&mut self, ask: &Ask) -> io::Result<()> {
        self.record.clear();
        ask.encode(&mut self.record);
        self.count += 1;
        self.out.write_all(&self.record)
    }

    pub(super) fn finish(self) -> io::Result<Spool> {
        let file = self
            .out
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        Ok(Spool {
            file: Arc::new(file),
            directory: self.directory,
            count: self.count,
        })
    }
}

/// A list that is complete. May be read by several at once.
#[derive(Debug, Clone)]
pub(super) struct Spool {
    file: Arc<File>,
    directory: PathBuf,
    pub(super) count: u64,
}

impl Spool {
    pub(super) fn read(&self) -> Reader {
        let from = At(self.file.clone(), 0);
        Reader {
            from: BufReader::with_capacity(BUFFER, from),
            left: self.count,
        }
    }

    /// Another list, beside this one.
    pub(super) fn another(&self) -> io::Result<Writer> {
        Writer::new(&self.directory)
    }
}

/// Reads from a place of its own.
struct At(Arc<File>, u64);

impl Read for At {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read_at(into, self.1)?;
        self.1 += read as u64;
        Ok(read)
    }
}

pub(super) struct Reader {
    from: BufReader<At>,
    left: u64,
}

impl Iterator for Reader {
    type Item = io::Result<Ask>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let ask = Ask::decode(&mut self.from);
        if ask.is_err() {
            self.left = 0;
        }
        Some(ask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_it_was_written_by_several_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(dir.path()).unwrap();
        let asks: Vec<Ask> = (0..5_000u64)
            .map(|at| Ask {
                entry: Entry {
                    volume: [Role::Postgres, Role::Odoo][at as usize % 2],
                    path: RelPath::parse(format!("d/{at}\u{7f}").as_bytes()).unwrap(),
                    size: (at % 3 > 0).then_some(u64::MAX - at),
                    meta: Meta {
                        mode: 0o755,
                        uid: 7,
                        gid: u32::MAX - 1,
                        mtime_ns: -9,
                    },
                },
                offset: at << 40,
                known: match at % 3 {
                    0 => Known::Nothing,
                    1 => Known::Whole([at as u8; 32]),
                    _ => Known::Part(at as u32),
                },
            })
            .collect();
        asks.iter().for_each(|ask| writer.add(ask).unwrap());
        let spool = writer.finish().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let (mut first, mut second) = (spool.read(), spool.read());
        for ask in &asks {
            assert_eq!(&first.next().unwrap().unwrap(), ask);
        }
        assert!(first.next().is_none());
        assert_eq!(&second.next().unwrap().unwrap(), &asks[0]);
        assert_eq!(spool.another().unwrap().finish().unwrap().read().count(), 0);
    }
}
