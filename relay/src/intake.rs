//! Takes a request's body in whole, before a worker sees anything of it: in memory first, then in the spool.

use std::{
    fs::File,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::{task::JoinHandle, time::Instant};

use crate::{
    ledger::Held,
    pace::Pace,
    pages::Notice,
    shares::Full,
    spool::{self, Spool},
};

/// What is written to and read from a file at once: few calls, and little memory for each request.
const PIECE: usize = 256 * 1024;

/// What a body is held to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// Largest body, bytes.
    pub(crate) most: u64,
    /// What is said of a larger one.
    pub(crate) larger: Notice,
    /// Of it in memory, bytes.
    pub(crate) memory: u64,
    /// Longest pause between two bytes.
    pub(crate) pause: Duration,
    /// Slowest sender, bytes per second.
    pub(crate) rate: u64,
    /// Over how much of its time.
    pub(crate) window: Duration,
}

/// Where a body may lie.
#[derive(Debug)]
pub(crate) struct Place {
    /// Memory for it.
    pub(crate) memory: Held,
    /// Disk space for it.
    pub(crate) disk: Held,
    /// The directory.
    pub(crate) spool: Arc<Spool>,
}

/// A body as a whole.
#[derive(Debug)]
pub(crate) struct Stored {
    content: Content,
    length: u64,
}

#[derive(Debug)]
enum Content {
    Memory(
        Bytes,
        #[expect(dead_code, reason = "held until the body is sent")] Held,
    ),
    File(
        Arc<File>,
        #[expect(dead_code, reason = "held until the body is sent")] Held,
    ),
    Nothing,
}

impl Stored {
    /// No body.
    pub(crate) fn nothing() -> Self {
        Self {
            content: Content::Nothing,
            length: 0,
        }
    }

    /// Its length, bytes.
    pub(crate) fn len(&self) -> u64 {
        self.length
    }

    /// Whether it has no bytes.
    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Whether it lies in the spool.
    pub(crate) fn is_spooled(&self) -> bool {
        matches!(self.content, Content::File(..))
    }
}

/// Takes the body in, or says what the visitor is told.
pub(crate) async fn take_in(
    body: &mut Incoming,
    rules: Rules,
    place: Place,
) -> Result<Stored, Notice> {
    // A length that is said beforehand is too large beforehand.
    if body.size_hint().lower() > rules.most {
        return Err(rules.larger);
    }
    let mut taken = Taken {
        buffer: BytesMut::new(),
        file: None,
        length: 0,
        place,
    };
    let mut pace = Pace::new(rules.rate, rules.window);
    loop {
        let asked = Instant::now();
        let frame = tokio::time::timeout(rules.pause, body.frame()).await;
        let frame = match frame.map_err(|_| Notice::TooSlow)? {
            None => return taken.whole().await,
            // The visitor is gone, or what comes is no body.
            Some(Err(_)) => return Err(Notice::Malformed),
            Some(Ok(frame)) => frame,
        };
        let Ok(bytes) = frame.into_data() else {
            continue; // trailers: nobody reads them
        };
        if !pace.note(asked.elapsed(), bytes.len() as u64) {
            return Err(Notice::TooSlow);
        }
        taken.length += bytes.len() as u64;
        if taken.length > rules.most {
            return Err(rules.larger);
        }
        taken.add(&bytes, rules.memory).await?;
    }
}

struct Taken {
    /// What is not in the file (yet).
    buffer: BytesMut,
    file: Option<Arc<File>>,
    length: u64,
    place: Place,
}

impl Taken {
    /// Bytes are copied: frames of one byte would each keep a reading buffer alive.
    async fn add(&mut self, bytes: &[u8], memory: u64) -> Result<(), Notice> {
        self.buffer.extend_from_slice(bytes);
        let is_held = self.place.memory.grow(bytes.len() as u64).is_ok();
        let is_small = match self.file {
            None => self.length <= memory,
            Some(_) => self.buffer.len() < PIECE,
        };
        match is_held && is_small {
            true => Ok(()),
            false => self.write().await,
        }
    }

    async fn write(&mut self) -> Result<(), Notice> {
        let bytes = self.buffer.split().freeze();
        let length = bytes.len() as u64;
        self.place.disk.grow(length).map_err(|full| match full {
            Full::Key => Notice::too_many(),
            Full::All => Notice::Busy,
        })?;
        let file = match &self.file {
            Some(file) => Arc::clone(file),
            None => {
                let file = spool::create(&self.place.spool).await.map_err(no_space)?;
                Arc::clone(self.file.insert(file))
            }
        };
        let offset = self.length - length;
        spool::write_at(&file, bytes, offset)
            .await
            .map_err(no_space)?;
        let held = self.place.memory.amount();
        self.place.memory.shrink(held);
        Ok(())
    }

    async fn whole(mut self) -> Result<Stored, Notice> {
        if self.file.is_some() && !self.buffer.is_empty() {
            self.write().await?;
        }
        let content = match self.file {
            Some(file) => Content::File(file, self.place.disk),
            None => Content::Memory(self.buffer.freeze(), self.place.memory),
        };
        Ok(Stored {
            content,
            length: self.length,
        })
    }
}

fn no_space(error: io::Error) -> Notice {
    tracing::warn!(%error, "a request's body could not be written to the spool");
    Notice::NoSpace
}

/// A stored body on its way to Odoo.
#[derive(Debug)]
pub(crate) struct Sending {
    stored: Stored,
    sent: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl From<Stored> for Sending {
    fn from(stored: Stored) -> Self {
        Self {
            stored,
            sent: 0,
            reading: None,
        }
    }
}

impl Sending {
    fn left(&self) -> u64 {
        self.stored.length - self.sent
    }
}

impl Body for Sending {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let left = self.left();
        if left == 0 {
            return Poll::Ready(None);
        }
        let bytes = match &self.stored.content {
            Content::Nothing => return Poll::Ready(None),
            Content::Memory(bytes, _) => bytes.clone(),
            Content::File(file, _) => {
                let (file, offset) = (Arc::clone(file), self.sent);
                let length = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
                let reading = self.reading.get_or_insert_with(|| {
                    tokio::task::spawn_blocking(move || spool::read_at(&file, offset, length))
                });
                let done = ready!(Pin::new(reading).poll(context));
                self.reading = None;
                match done.unwrap_or_else(|error| Err(io::Error::other(error))) {
                    Ok(bytes) => bytes,
                    Err(error) => return Poll::Ready(Some(Err(error))),
                }
            }
        };
        self.sent += bytes.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.left() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left())
    }
}
