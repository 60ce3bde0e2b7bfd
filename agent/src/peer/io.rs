//! A peer's connection, which ends by itself when nothing is granted to that host any more.
//!
//! Not here: accepting it (port).

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::admit::PeerIdentity;
use crate::base::{bulk::AnyConnection, shares::Share};

type Cut = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(super) struct PeerIo {
    io: TlsStream<AnyConnection>,
    peer: Arc<PeerIdentity>,
    /// `None` once it was cut.
    cut: Option<Cut>,
    _place: Share,
}

impl PeerIo {
    /// A connection that ends when `cut` does.
    pub(super) fn new(
        io: TlsStream<AnyConnection>,
        peer: Arc<PeerIdentity>,
        cut: impl Future<Output = ()> + Send + 'static,
        place: Share,
    ) -> Self {
        Self {
            io,
            peer,
            cut: Some(Box::pin(cut)),
            _place: place,
        }
    }

    /// `Err` once the connection was cut; otherwise registers for a wake-up.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let over = self
            .cut
            .as_mut()
            .is_none_or(|cut| cut.as_mut().poll(cx).is_ready());
        if over {
            self.cut = None;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

impl Connected for PeerIo {
    type ConnectInfo = Arc<PeerIdentity>;
    fn connect_info(&self) -> Self::ConnectInfo {
        self.peer.clone()
    }
}

impl AsyncRead for PeerIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for PeerIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.cut.is_none() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.io).poll_write(cx, data)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.cut.is_none() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.io).poll_write_vectored(cx, parts)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
