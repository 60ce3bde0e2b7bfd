//! One stream of bytes made of the pieces that messages carry: what is read comes from a stream of messages, what is
//! written goes into a bounded queue of them, so that a slow reader at the other end holds up whoever writes here.
//!
//! Not here: which messages (link, peer), what the bytes are.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
};
use tokio_stream::Stream;
use tokio_util::sync::PollSender;

/// Largest piece; documented in the protocol.
pub const PIECE: usize = 64 << 10;
/// Pieces queued for a slow connection.
pub const PIECES: usize = 4;

/// A connection of any kind.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Owned, whatever it is.
pub type AnyConnection = Box<dyn Connection>;

/// Pieces that come.
pub type Incoming = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Bytes in messages of type `M`, which end when either queue does.
pub struct Pieces<M> {
    from: Incoming,
    /// Of the last piece, what was not read yet.
    rest: Bytes,
    to: PollSender<M>,
    message: fn(Bytes) -> M,
    /// Dropped with the connection.
    _held: Box<dyn Send>,
}

impl<M: Send + 'static> Pieces<M> {
    /// `held` is kept for as long as the connection.
    pub fn new(
        from: Incoming,
        to: mpsc::Sender<M>,
        message: fn(Bytes) -> M,
        held: impl Send + 'static,
    ) -> Self {
        Self {
            from,
            rest: Bytes::new(),
            to: PollSender::new(to),
            message,
            _held: Box::new(held),
        }
    }

    /// Waits until a piece can be sent.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let room = ready!(self.to.poll_reserve(cx));
        Poll::Ready(room.map_err(|_| io::ErrorKind::BrokenPipe.into()))
    }

    fn send(&mut self, piece: Bytes) -> io::Result<()> {
        let sent = self.to.send_item((self.message)(piece));
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl<M: Send + 'static> AsyncRead for Pieces<M> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.from.as_mut().poll_next(cx)) {
                Some(piece) => self.rest = piece?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let taken = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest[..taken]);
        self.rest.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl<M: Send + 'static> AsyncWrite for Pieces<M> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    /// TLS has its records one by one: together they are fewer messages.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all: usize = parts.iter().map(|part| part.len()).sum();
        if all == 0 {
            return Poll::Ready(Ok(0));
        }
        ready!(self.poll_room(cx))?;
        let mut piece = BytesMut::with_capacity(all.min(PIECE));
        for part in parts {
            let taken = part.len().min(PIECE - piece.len());
            piece.extend_from_slice(&part[..taken]);
        }
        let written = piece.len();
        self.send(piece.freeze())?;
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // what is queued is sent without being asked
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.to.close(); // the queue ends behind what is in it
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        time::timeout,
    };
    use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};

    use super::*;

    /// Two ends whose messages are the pieces.
    fn pair() -> [Pieces<Bytes>; 2] {
        let (a, from_a) = mpsc::channel(PIECES);
        let (b, from_b) = mpsc::channel(PIECES);
        let end = |to, from| {
            let from = ReceiverStream::new(from).map(Ok);
            Pieces::new(Box::pin(from), to, |piece| piece, ())
        };
        [end(a, from_b), end(b, from_a)]
    }

    #[tokio::test]
    async fn bytes_arrive_in_order_and_an_end_is_an_end() {
        let [mut here, mut there] = pair();
        let sent: Vec<u8> = (0..3 * PIECE + 17).map(|n| (n % 251) as u8).collect();
        let copy = sent.clone();
        let writing = tokio::spawn(async move {
            here.write_all(&copy).await.unwrap();
            here.shutdown().await.unwrap();
            here
        });
        let mut came = Vec::new();
        there.read_to_end(&mut came).await.unwrap();
        assert!(came == sent);
        drop(there);
        let mut here = writing.await.unwrap();
        assert_eq!(here.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn nothing_is_taken_beyond_the_queue_when_nobody_reads() {
        let [mut here, there] = pair();
        let piece = vec![7; PIECE];
        for _ in 0..PIECES {
            here.write_all(&piece).await.unwrap();
        }
        let one_more = timeout(Duration::from_millis(50), here.write_all(&piece));
        assert!(one_more.await.is_err(), "it should have waited");
        drop(there);
        let refused = here.write_all(&piece).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn small_records_travel_together_and_no_piece_is_too_large() {
        let (to, mut pieces) = mpsc::channel(PIECES);
        let from = Box::pin(tokio_stream::empty());
        let mut here = Pieces::new(from, to, |piece| piece, ());
        let record = vec![1; 20_000];
        let records: Vec<IoSlice<'_>> = (0..4).map(|_| IoSlice::new(&record)).collect();
        assert_eq!(here.write_vectored(&records).await.unwrap(), PIECE);
        assert_eq!(pieces.recv().await.map(|piece| piece.len()), Some(PIECE));
    }
}
