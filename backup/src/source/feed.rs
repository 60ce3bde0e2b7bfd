//! Feeds parts to rustic, and counts for itself: rustic 0.13 logs what it cannot read and goes on without it.
//!
//! The first failure is kept and ends everything: no further entry, no further byte. A part begins when those before have been
//! read to their ends: a stream waits when it is opened, a folder between itself and its first entry. (Not earlier: rustic takes
//! an entry only when it has seen the next.) [`Feed::verdict`] says afterwards whether all that was announced was also read.

use std::{
    collections::VecDeque,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use rustic_core::{
    ErrorKind, ReadSource, ReadSourceEntry, ReadSourceOpen, RusticError, RusticResult,
    repofile::{Metadata, Node, NodeType},
};

use super::{
    LeftOut, Part, Producer, Start, What, WhyLeftOut,
    walk::{Found, Planned, Step, Walk},
};
use crate::{error::Error, job::Job};

/// How often a part that waits for the one before looks whether the job was stopped.
const LOOK: Duration = Duration::from_millis(200);

/// What entries, readers and the job share.
#[derive(Debug)]
struct Shared {
    job: Job,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    failed: Option<(String, io::Error)>,
    /// For each part, the files that were announced and are not read to their end.
    open: Vec<u64>,
    /// Files that rustic was given and could know from before.
    announced: u64,
    folders: u64,
    left_out: LeftOut,
    /// Streams that are complete, with their lengths.
    streams: Vec<(String, u64)>,
    bytes: u64,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, path: &str, error: io::Error) {
        let mut state = self.state();
        state.failed.get_or_insert((path.to_owned(), error));
        self.changed.notify_all();
    }

    fn may_go_on(&self) -> bool {
        !self.job.stop.is_stopped() && self.state().failed.is_none()
    }

    /// Waits until all parts before this one are read, or nothing will be any more.
    fn wait_for_parts_before(&self, part: usize) {
        let mut state = self.state();
        let busy = |state: &State| state.open.iter().take(part).any(|open| *open > 0);
        while busy(&state) && state.failed.is_none() && !self.job.stop.is_stopped() {
            let waited = self.changed.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// What a feed came to.
#[derive(Debug)]
pub(crate) struct Fed {
    pub(crate) files: u64,
    pub(crate) folders: u64,
    pub(crate) bytes: u64,
    pub(crate) left_out: LeftOut,
    /// Lengths of streams, which nobody knew before.
    pub(crate) streams: Vec<(String, u64)>,
}

/// Parts on their way to rustic.
#[derive(Debug)]
pub(crate) struct Feed {
    parts: Mutex<VecDeque<Part>>,
    streams: usize,
    time: Timestamp,
    shared: Arc<Shared>,
}

impl Feed {
    /// Of parts in the order of their names. `time` is what streams are dated.
    pub(crate) fn new(parts: Vec<Part>, time: Timestamp, job: &Job) -> Self {
        let is_stream = |part: &&Part| matches!(part.what, What::Stream(_));
        Self {
            streams: parts.iter().filter(is_stream).count(),
            time,
            shared: Arc::new(Shared {
                job: job.clone(),
                state: Mutex::new(State {
                    open: vec![0; parts.len()],
                    ..State::default()
                }),
                changed: Condvar::new(),
            }),
            parts: Mutex::new(parts.into()),
        }
    }

    /// The failure that ended it, if one did.
    pub(crate) fn failure(&self) -> Option<Error> {
        if self.shared.job.stop.is_stopped() {
            return Some(Error::Stopped);
        }
        let failed = self.shared.state().failed.take();
        failed.map(|(path, source)| Error::Source { path, source })
    }

    /// What was read, if `files` and `folders` of rustic's count are all that it was given.
    pub(crate) fn verdict(&self, files: u64, folders: u64) -> Result<Fed, Error> {
        if let Some(failure) = self.failure() {
            return Err(failure);
        }
        let state = self.shared.state();
        // A part that vanished between its announcement and its opening is in neither.
        let is_whole = state.open.iter().all(|open| *open == 0)
            && state.announced == files
            && state.folders <= folders
            && state.streams.len() == self.streams;
        if !is_whole {
            return Err(Error::Library {
                doing: "written",
                said: format!(
                    "{files} files of {} and {} streams of {} arrived, {:?} are open",
                    state.announced,
                    state.streams.len(),
                    self.streams,
                    state.open
                ),
            });
        }
        Ok(Fed {
            files,
            folders,
            bytes: state.bytes,
            left_out: state.left_out.clone(),
            streams: state.streams.clone(),
        })
    }
}

impl ReadSource for Feed {
    type Open = Opening;
    type Iter = Entries;

    fn size(&self) -> RusticResult<Option<u64>> {
        Ok(None)
    }

    fn entries(&self) -> Entries {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        Entries {
            parts: std::mem::take(&mut *parts),
            number: 0,
            planned: None,
            walk: None,
            time: self.time,
            shared: self.shared.clone(),
        }
    }
}

/// Entries in order.
#[derive(Debug)]
pub(crate) struct Entries {
    parts: VecDeque<Part>,
    /// The part under way, from 1.
    number: usize,
    planned: Option<Planned>,
    walk: Option<Walk>,
    time: Timestamp,
    shared: Arc<Shared>,
}

type Item = ReadSourceEntry<Opening>;

impl Entries {
    fn begin(&mut self, part: Part) -> Option<Item> {
        let path = part.name;
        match part.what {
            // Its length is put right afterwards: see `write`.
            What::Stream(start) => Some(self.stream(path, 0, Begin::Stream(start))),
            What::Bytes(bytes) => {
                let length = bytes.len() as u64;
                Some(self.stream(path, length, Begin::Bytes(bytes)))
            }
            What::Folder(folder, only) => {
                let planned = Planned::new(&path, folder, only);
                let root = planned.root();
                self.planned = Some(planned);
                self.step(root.map_err(|e| (path.into(), e)))
            }
        }
    }

    /// The next entry of the part under way, or its end.
    fn go_on(&mut self) -> Option<Item> {
        if let Some(planned) = self.planned.take() {
            self.shared.wait_for_parts_before(self.number - 1);
            if !self.shared.may_go_on() {
                return None;
            }
            let planned_path = planned.path().display().to_string();
            match planned.begin() {
                Ok(walk) => self.walk = Some(walk),
                Err(e) => self.shared.fail(&planned_path, e),
            }
        }
        while self.shared.may_go_on() {
            match self.walk.as_mut().and_then(Walk::next) {
                None => self.walk = None,
                Some(step) => match self.step(step) {
                    None => continue,
                    entry => return entry,
                },
            }
            break;
        }
        None
    }

    fn step(&mut self, step: Result<Step, (PathBuf, io::Error)>) -> Option<Item> {
        match step {
            Ok(step) => self.entry(step),
            Err((path, e)) => {
                self.shared.fail(&path.display().to_string(), e);
                None
            }
        }
    }

    fn stream(&self, name: String, size: u64, begin: Begin) -> Item {
        let meta = Metadata {
            mode: Some(0o600),
            // Not a time that an earlier stream of this name had: rustic would take it for the same.
            mtime: Some(self.time),
            ctime: Some(self.time),
            size,
            links: 1,
            ..Metadata::default()
        };
        let node = Node::new_node(name.as_ref(), NodeType::File, meta);
        self.announce(PathBuf::from(name), node, begin)
    }

    fn announce(&self, path: PathBuf, node: Node, begin: Begin) -> Item {
        let mut state = self.shared.state();
        state.open[self.number - 1] += 1;
        state.announced += 1;
        drop(state);
        let token = Token {
            part: self.number - 1,
            path: path.display().to_string(),
            shared: self.shared.clone(),
        };
        let open = Opening {
            size: node.meta.size,
            begin,
            token,
        };
        ReadSourceEntry {
            path,
            node,
            open: Some(open),
        }
    }

    fn entry(&self, step: Step) -> Option<Item> {
        let left_out = |path: &Path, why| {
            let path = path.display().to_string();
            self.shared.state().left_out.add(path, why);
            None
        };
        match step {
            Step::Folder(path, node) => {
                self.shared.state().folders += 1;
                Some(ReadSourceEntry {
                    path,
                    node,
                    open: None,
                })
            }
            Step::File(path, node, found) => Some(self.announce(path, node, Begin::File(found))),
            Step::Special(path) => left_out(&path, WhyLeftOut::Special),
            Step::Vanished(path) => left_out(&path, WhyLeftOut::Vanished),
        }
    }
}

impl Iterator for Entries {
    type Item = RusticResult<Item>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.shared.may_go_on() {
            if let Some(entry) = self.go_on() {
                return Some(Ok(entry));
            }
            if self.shared.may_go_on() {
                let part = self.parts.pop_front()?;
                self.number += 1;
                if let Some(entry) = self.begin(part) {
                    return Some(Ok(entry));
                }
            }
        }
        None
    }
}

/// Counts a file as done when it is dropped, however that comes about: rustic drops what it knows from before unopened.
#[derive(Debug)]
struct Token {
    part: usize,
    path: String,
    shared: Arc<Shared>,
}

impl Drop for Token {
    fn drop(&mut self) {
        self.shared.state().open[self.part] -= 1;
        self.shared.changed.notify_all();
    }
}

enum Begin {
    Stream(Start),
    Bytes(Vec<u8>),
    File(Found),
}

/// An announced file.
pub(crate) struct Opening {
    size: u64,
    begin: Begin,
    token: Token,
}

fn told() -> Box<RusticError> {
    // Its text is for nobody: what happened is in `Shared`.
    RusticError::new(ErrorKind::InputOutput, "the source failed")
}

impl ReadSourceOpen for Opening {
    type Reader = Counted;

    fn open(self) -> RusticResult<Counted> {
        let Self { size, begin, token } = self;
        let shared = token.shared.clone();
        shared.wait_for_parts_before(token.part);
        if !shared.may_go_on() {
            return Err(told());
        }
        let (opened, is_stream, exact) = match begin {
            Begin::Stream(start) => (start(), true, None),
            Begin::Bytes(bytes) => (Ok(plain(io::Cursor::new(bytes))), false, Some(size)),
            Begin::File(found) => (found.open().map(plain), false, Some(size)),
        };
        match opened {
            Ok(inner) => Ok(Counted {
                inner,
                exact,
                is_stream,
                read: 0,
                ended: exact == Some(0),
                token,
            }),
            // Odoo removed it since it was listed; rustic goes on without it, and so it should.
            Err(e) if !is_stream && e.kind() == io::ErrorKind::NotFound => {
                let mut state = shared.state();
                state.announced -= 1;
                state.left_out.add(token.path.clone(), WhyLeftOut::Vanished);
                drop(state);
                Err(told())
            }
            Err(e) => {
                shared.fail(&token.path, e);
                Err(told())
            }
        }
    }
}

fn plain(read: impl Read + Send + 'static) -> Box<dyn Producer> {
    Box::new(super::Plain(read))
}

/// A reader whose errors are counted, and whose end is believed only when it is one.
pub(crate) struct Counted {
    inner: Box<dyn Producer>,
    /// How long it was announced to be.
    exact: Option<u64>,
    is_stream: bool,
    read: u64,
    ended: bool,
    token: Token,
}

impl Counted {
    fn next(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.token.shared.may_go_on() {
            return Err(io::Error::other("stopped"));
        }
        // No more than was announced, should it grow meanwhile.
        let room = self.exact.map_or(u64::MAX, |exact| exact - self.read);
        let room = usize::try_from(room)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let length = match room {
            0 => 0,
            room => self.inner.read(&mut buffer[..room])?,
        };
        self.read += length as u64;
        // What was announced with its length has ended with its last byte: nobody may ask for more.
        if (length == 0 && !buffer.is_empty()) || self.exact == Some(self.read) {
            self.end()?;
        }
        self.token.shared.job.pass_source(length as u64);
        Ok(length)
    }

    fn end(&mut self) -> io::Result<()> {
        if self.ended {
            return Ok(());
        }
        if self.exact.is_some_and(|exact| exact != self.read) {
            return Err(io::Error::other("it became shorter while it was read"));
        }
        self.inner.finish()?;
        self.ended = true;
        let mut state = self.token.shared.state();
        state.bytes += self.read;
        if self.is_stream {
            state.streams.push((self.token.path.clone(), self.read));
        }
        Ok(())
    }
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.next(buffer);
        match read {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                let again = io::Error::other("the source failed");
                self.token.shared.fail(&self.token.path, e);
                Err(again)
            }
            read => read,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // rustic let go of it before its end: nothing that it read may count.
        if !self.ended {
            let error = io::Error::other("it was not read to its end");
            self.token.shared.fail(&self.token.path, error);
        }
    }
}
