//! A connection from an edge, with a clock on it: a head must be there in time, and whoever reads must take something.
//!
//! hyper's own time-out for heads counts an idle connection as one whose head is late; here idle is idle.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, timeout},
};

use crate::{ledger::locked, pace::Pace};

/// How much more of a head that is refused is read, bytes, and how long. Traefik lets no larger ones through (1 MiB and 4 KiB).
const LINGER_BYTES: u64 = 2 << 20;
const LINGER: Duration = Duration::from_secs(2);

/// Whether a request is being worked on; shared with who works on it.
#[derive(Debug, Default)]
pub(crate) struct LineState {
    is_busy: AtomicBool,
    requests: AtomicU64,
    was_cut: AtomicBool,
    /// A connection that ended in the middle of a head.
    unread: Mutex<Option<OwnedFd>>,
}

/// A request is being worked on until this is dropped.
#[derive(Debug)]
pub(crate) struct Busy(Arc<LineState>);

impl LineState {
    /// A head is there.
    pub(crate) fn begin(self: &Arc<Self>) -> Busy {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.is_busy.store(true, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// After the end: lets the answer to a head that was not read in whole arrive. A socket that is closed with bytes unread resets
    /// the connection, and whoever still sends sees that in place of the answer.
    pub(crate) async fn linger(&self) {
        let unread = locked(&self.unread).take();
        let stream = unread.map(|fd| TcpStream::from_std(fd.into()));
        if let Some(Ok(mut stream)) = stream {
            let _ = stream.shutdown().await;
            let (mut rest, mut sink) = (stream.take(LINGER_BYTES), tokio::io::sink());
            let _ = timeout(LINGER, tokio::io::copy(&mut rest, &mut sink)).await;
        }
    }

    /// Whether the reader took too little.
    pub(crate) fn was_cut(&self) -> bool {
        self.was_cut.load(Ordering::Relaxed)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.is_busy.store(false, Ordering::Relaxed);
    }
}

/// What a line is held to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LineRules {
    /// From a head's first byte to its last.
    pub(crate) head_wait: Duration,
    /// Longest time in which a reader takes nothing.
    pub(crate) reader_pause: Duration,
    /// Slowest reader, bytes per second.
    pub(crate) reader_rate: u64,
    /// Over how much of its time.
    pub(crate) window: Duration,
}

/// The connection.
#[derive(Debug)]
pub(crate) struct Line {
    stream: TcpStream,
    state: Arc<LineState>,
    rules: LineRules,
    /// When the head that is arriving began, and how many requests there had been.
    head: Option<(Instant, u64)>,
    head_timer: Pin<Box<Sleep>>,
    /// Since when the reader has taken nothing.
    blocked: Option<Instant>,
    write_timer: Pin<Box<Sleep>>,
    pace: Pace,
}

impl Line {
    /// A connection whose requests are told by `state`.
    pub(crate) fn new(stream: TcpStream, state: Arc<LineState>, rules: LineRules) -> Self {
        Self {
            stream,
            state,
            rules,
            head: None,
            head_timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            blocked: None,
            write_timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            pace: Pace::new(rules.reader_rate, rules.window),
        }
    }

    /// Whether the head that is arriving is late. Registers for the moment when it will be.
    fn is_late(&mut self, context: &mut Context<'_>, got_bytes: bool) -> bool {
        let requests = self.state.requests.load(Ordering::Relaxed);
        let is_busy = self.state.is_busy.load(Ordering::Relaxed);
        if is_busy || self.head.is_some_and(|(_, of)| of != requests) {
            self.head = None;
        }
        if !is_busy && got_bytes && self.head.is_none() {
            let now = Instant::now();
            self.head = Some((now, requests));
            self.head_timer.as_mut().reset(now + self.rules.head_wait);
        }
        self.head.is_some() && !got_bytes && self.head_timer.as_mut().poll(context).is_ready()
    }

    /// A late one gets no answer.
    fn is_within_a_head(&self) -> bool {
        let requests = self.state.requests.load(Ordering::Relaxed);
        let is_busy = self.state.is_busy.load(Ordering::Relaxed);
        let is_late = self.head_timer.is_elapsed();
        !is_busy && !is_late && self.head.is_some_and(|(_, of)| of == requests)
    }

    fn wrote(
        &mut self,
        context: &mut Context<'_>,
        done: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let is_too_slow = match &done {
            Poll::Ready(Ok(count)) => {
                let waited = self
                    .blocked
                    .take()
                    .map_or(Duration::ZERO, |since| since.elapsed());
                !self.pace.note(waited, *count as u64)
            }
            Poll::Ready(Err(_)) => false,
            Poll::Pending => {
                if self.blocked.is_none() {
                    let now = Instant::now();
                    self.blocked = Some(now);
                    self.write_timer
                        .as_mut()
                        .reset(now + self.rules.reader_pause);
                }
                self.write_timer.as_mut().poll(context).is_ready()
            }
        };
        if !is_too_slow {
            return done;
        }
        self.state.was_cut.store(true, Ordering::Relaxed);
        let error = io::Error::new(io::ErrorKind::TimedOut, "the reader took too little");
        Poll::Ready(Err(error))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.is_within_a_head() {
            *locked(&self.state.unread) = self.stream.as_fd().try_clone_to_owned().ok();
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let done = Pin::new(&mut this.stream).poll_read(context, buffer);
        let got_bytes = buffer.filled().len() > before;
        if this.is_late(context, got_bytes) && done.is_pending() {
            let error = io::Error::new(io::ErrorKind::TimedOut, "the head did not arrive in time");
            return Poll::Ready(Err(error));
        }
        done
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(context, done)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.wrote(context, done)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
