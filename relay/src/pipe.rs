//! An answer between Odoo, which gives it at full speed, and its reader, who takes it at his own.
//!
//! What the reader has not taken yet lies in memory, beyond that in the spool; when there is no more room, Odoo waits. Bytes go on
//! as soon as they come: nothing is collected while the reader keeps up.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use tokio::{sync::Notify, task::JoinHandle};

use crate::{
    ledger::{Held, locked},
    spool::{self, Spool},
};

/// What is read from a file at once.
const PIECE: u64 = 256 * 1024;
/// After how much that was read its disk space is given back: few calls.
const PUNCH: u64 = 1024 * 1024;
/// Pieces in memory: small ones cost more than their bytes.
const MAX_PIECES: usize = 256;

/// Where what was not read may lie.
#[derive(Debug)]
pub(crate) struct Room {
    /// Memory for it.
    pub(crate) memory: Held,
    /// Disk space for it.
    pub(crate) disk: Held,
    /// Of memory at most, bytes.
    pub(crate) most_memory: u64,
    /// Of disk space at most, bytes.
    pub(crate) most_disk: u64,
    /// The directory.
    pub(crate) spool: Arc<Spool>,
}

#[derive(Debug)]
struct Pipe {
    inner: Mutex<Inner>,
    /// The reader took something.
    taken: Notify,
    /// The reader is gone.
    gone: Notify,
    spool: Arc<Spool>,
}

#[derive(Debug)]
struct Inner {
    /// Older than what is in the file. With each piece how much of it is held of the stock.
    pieces: VecDeque<(Bytes, u64)>,
    in_memory: u64,
    file: Option<Arc<File>>,
    /// Up to where the file is written, read, and given back. They only grow.
    written: u64,
    read: u64,
    given_back: u64,
    disk_fails: bool,
    ended: Option<bool>,
    is_reader_gone: bool,
    waker: Option<Waker>,
    room: RoomLeft,
}

#[derive(Debug)]
struct RoomLeft {
    memory: Held,
    disk: Held,
    most_memory: u64,
    most_disk: u64,
}

/// The end into which an answer is written.
#[derive(Debug)]
pub(crate) struct Writer(Arc<Pipe>);

/// The end from which it is read.
#[derive(Debug)]
pub(crate) struct Reader {
    pipe: Arc<Pipe>,
    reading: Option<JoinHandle<io::Result<(Bytes, bool)>>>,
}

/// Nobody reads any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

/// What came of a write beside being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Wrote {
    /// Odoo had to wait for the reader.
    pub(crate) had_to_wait: bool,
    /// It went to the spool.
    pub(crate) is_spooled: bool,
}

/// Both ends.
pub(crate) fn pipe(room: Room) -> (Writer, Reader) {
    let Room {
        memory,
        disk,
        most_memory,
        most_disk,
        spool,
    } = room;
    let pipe = Arc::new(Pipe {
        inner: Mutex::new(Inner {
            pieces: VecDeque::new(),
            in_memory: 0,
            file: None,
            written: 0,
            read: 0,
            given_back: 0,
            disk_fails: false,
            ended: None,
            is_reader_gone: false,
            waker: None,
            room: RoomLeft {
                memory,
                disk,
                most_memory,
                most_disk,
            },
        }),
        taken: Notify::new(),
        gone: Notify::new(),
        spool,
    });
    let reader = Reader {
        pipe: Arc::clone(&pipe),
        reading: None,
    };
    (Writer(pipe), reader)
}

enum Where {
    Done,
    File(u64),
    Nowhere,
    Gone,
}

impl Inner {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn is_behind(&self) -> bool {
        self.read < self.written || self.in_memory >= self.room.most_memory
    }

    /// Puts a piece into memory, or says where else it goes. Order is kept: while something is in the file, what follows goes there.
    fn place(&mut self, bytes: &Bytes) -> Where {
        let length = bytes.len() as u64;
        let room = &mut self.room;
        if self.is_reader_gone {
            return Where::Gone;
        }
        let is_file_empty = self.read == self.written;
        let fits = self.in_memory + length <= room.most_memory && self.pieces.len() < MAX_PIECES;
        if is_file_empty && fits && room.memory.grow(length).is_ok() {
            self.push(bytes, length);
            return Where::Done;
        }
        let in_file = self.written - self.read;
        let fits = !self.disk_fails && in_file + length <= room.most_disk;
        if fits && room.disk.grow(length).is_ok() {
            return Where::File(self.written);
        }
        // One piece always has room, or nothing would ever move.
        if is_file_empty && self.pieces.is_empty() {
            self.push(bytes, 0);
            return Where::Done;
        }
        Where::Nowhere
    }

    fn push(&mut self, bytes: &Bytes, held: u64) {
        self.in_memory += bytes.len() as u64;
        self.pieces.push_back((bytes.clone(), held));
        self.wake();
    }
}

impl Writer {
    /// Gives a piece on. Waits while there is no room for it.
    pub(crate) async fn write(&self, bytes: Bytes) -> Result<Wrote, Gone> {
        let mut wrote = Wrote::default();
        loop {
            let place = locked(&self.0.inner).place(&bytes);
            match place {
                Where::Done => return Ok(wrote),
                Where::Gone => return Err(Gone),
                Where::Nowhere => {
                    wrote.had_to_wait = true;
                    tokio::select! {
                        () = self.0.taken.notified() => {}
                        () = self.0.gone.notified() => return Err(Gone),
                    }
                }
                Where::File(offset) => {
                    if self.to_file(&bytes, offset).await {
                        wrote.is_spooled = true;
                        return Ok(wrote);
                    }
                }
            }
        }
    }

    async fn to_file(&self, bytes: &Bytes, offset: u64) -> bool {
        let length = bytes.len() as u64;
        let written = self.try_to_file(bytes, offset).await;
        let mut inner = locked(&self.0.inner);
        match &written {
            Ok(file) => {
                inner.file.get_or_insert_with(|| Arc::clone(file));
                inner.written += length;
                inner.wake();
            }
            Err(error) => {
                tracing::warn!(%error, "an answer could not be written to the spool; Odoo waits for its reader");
                inner.disk_fails = true;
                inner.room.disk.shrink(length);
            }
        }
        written.is_ok()
    }

    async fn try_to_file(&self, bytes: &Bytes, offset: u64) -> io::Result<Arc<File>> {
        let file = locked(&self.0.inner).file.clone();
        let file = match file {
            Some(file) => file,
            None => spool::create(&self.0.spool).await?,
        };
        spool::write_at(&file, bytes.clone(), offset).await?;
        Ok(file)
    }

    /// Whether the reader is so far behind that collecting pieces costs nobody anything.
    pub(crate) fn is_behind(&self) -> bool {
        locked(&self.0.inner).is_behind()
    }

    /// Ends when nobody reads any more.
    pub(crate) async fn gone(&self) {
        self.0.gone.notified().await;
    }

    /// The answer is whole (or not).
    pub(crate) fn end(self, is_whole: bool) {
        let mut inner = locked(&self.0.inner);
        inner.ended = Some(is_whole);
        inner.wake();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut inner = locked(&self.0.inner);
        inner.ended.get_or_insert(false);
        inner.wake();
    }
}

impl Reader {
    /// The next piece; `None` at the end; an error when the answer is not whole.
    pub(crate) fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            if let Some(reading) = &mut self.reading {
                let done = ready!(Pin::new(reading).poll(context));
                self.reading = None;
                let done = done.unwrap_or_else(|error| Err(io::Error::other(error)));
                return Poll::Ready(Some(
                    done.map(|(bytes, is_back)| self.was_read(bytes, is_back)),
                ));
            }
            let mut inner = locked(&self.pipe.inner);
            if let Some((bytes, held)) = inner.pieces.pop_front() {
                inner.in_memory -= bytes.len() as u64;
                inner.room.memory.shrink(held);
                self.pipe.taken.notify_one();
                return Poll::Ready(Some(Ok(bytes)));
            }
            if let Some(file) = inner.file.clone().filter(|_| inner.read < inner.written) {
                let (from, end) = (inner.read, inner.written);
                let given_back = inner.given_back;
                let length = (end - from).min(PIECE);
                self.reading = Some(tokio::task::spawn_blocking(move || {
                    let bytes = spool::read_at(&file, from, usize::try_from(length).unwrap_or(0))?;
                    let read = from + length;
                    let is_time = read == end || read - given_back >= PUNCH;
                    let is_back = is_time && spool::punch(&file, given_back, read - given_back);
                    Ok((bytes, is_back))
                }));
                continue;
            }
            return match inner.ended {
                Some(true) => Poll::Ready(None),
                Some(false) => Poll::Ready(Some(Err(io::Error::other(
                    "Odoo ended in the middle of its answer",
                )))),
                None => {
                    inner.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            };
        }
    }

    fn was_read(&self, bytes: Bytes, is_back: bool) -> Bytes {
        let mut inner = locked(&self.pipe.inner);
        inner.read += bytes.len() as u64;
        if is_back {
            let amount = inner.read - inner.given_back;
            inner.room.disk.shrink(amount);
            inner.given_back = inner.read;
        }
        self.pipe.taken.notify_one();
        bytes
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut inner = locked(&self.pipe.inner);
        inner.is_reader_gone = true;
        inner.pieces.clear();
        let held = inner.room.memory.amount();
        inner.room.memory.shrink(held);
        self.pipe.gone.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, net::IpAddr, time::Duration};

    use super::*;
    use crate::{ledger::Common, ledger::Ledger};

    struct Test {
        memory: Arc<Ledger>,
        disk: Arc<Ledger>,
        spool: Arc<Spool>,
        _folder: tempfile::TempDir,
    }

    impl Test {
        fn new(memory: u64, disk: u64) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let ledger = |bound| Ledger::new(&Common::new(u64::MAX / 4), 1, bound, bound, 1);
            Self {
                memory: ledger(memory),
                disk: ledger(disk),
                spool: Arc::new(Spool::open(&folder.path().join("spool")).unwrap()),
                _folder: folder,
            }
        }

        fn pipe(&self, most_memory: u64, most_disk: u64) -> (Writer, Reader) {
            let visitor = IpAddr::from([203, 0, 113, 1]).into();
            pipe(Room {
                memory: self.memory.hold(visitor),
                disk: self.disk.hold(visitor),
                most_memory,
                most_disk,
                spool: Arc::clone(&self.spool),
            })
        }
    }

    async fn next(reader: &mut Reader) -> Option<io::Result<Bytes>> {
        poll_fn(|context| reader.poll_next(context)).await
    }

    async fn all(mut reader: Reader) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(piece) = next(&mut reader).await {
            out.extend_from_slice(&piece.unwrap());
        }
        out
    }

    fn piece(n: u64) -> Bytes {
        Bytes::from(vec![
            u8::try_from(n % 251).unwrap();
            10_000 + usize::try_from(n * 37 % 5_000).unwrap()
        ])
    }

    fn expected(count: u64) -> Vec<u8> {
        (0..count).flat_map(piece).collect()
    }

    #[tokio::test]
    async fn order_is_kept_through_memory_and_file_and_everything_is_given_back() {
        let test = Test::new(1 << 20, 1 << 30);
        let (writer, reader) = test.pipe(30_000, 1 << 30);
        let mut spooled = 0;
        for n in 0..300 {
            spooled += u32::from(writer.write(piece(n)).await.unwrap().is_spooled);
        }
        assert!(spooled > 290 && test.memory.used() <= 30_000 && test.disk.used() > 3_000_000);
        writer.end(true);
        assert_eq!(all(reader).await, expected(300));
        assert_eq!((test.memory.used(), test.disk.used()), (0, 0));
    }

    #[tokio::test]
    async fn without_room_the_writer_waits_and_goes_on() {
        for (memory, disk) in [(20_000, 50_000), (20_000, 0), (0, 0)] {
            let test = Test::new(memory, disk);
            let (writer, reader) = test.pipe(20_000, 50_000);
            let writing = tokio::spawn(async move {
                let mut waits = 0;
                for n in 0..100 {
                    waits += u32::from(writer.write(piece(n)).await.unwrap().had_to_wait);
                }
                writer.end(true);
                waits
            });
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(!writing.is_finished());
            assert_eq!(all(reader).await, expected(100), "{memory} {disk}");
            assert!(writing.await.unwrap() > 0);
            assert_eq!((test.memory.used(), test.disk.used()), (0, 0));
        }
    }

    #[tokio::test]
    async fn bytes_go_on_at_once_and_a_half_answer_is_an_error() {
        let test = Test::new(1 << 20, 1 << 20);
        let (writer, mut reader) = test.pipe(30_000, 1 << 20);
        for n in 0..3 {
            writer.write(piece(n)).await.unwrap();
            assert_eq!(next(&mut reader).await.unwrap().unwrap(), piece(n));
        }
        drop(writer);
        assert!(next(&mut reader).await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_reader_that_goes_frees_the_writer_and_what_was_held() {
        let test = Test::new(1 << 20, 20_000);
        let (writer, reader) = test.pipe(20_000, 20_000);
        let writing = tokio::spawn(async move {
            for n in 0..100 {
                writer.write(piece(n)).await?;
            }
            Ok(())
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(reader);
        assert_eq!(writing.await.unwrap(), Err(Gone));
        assert_eq!((test.memory.used(), test.disk.used()), (0, 0));
    }
}
