//! A request that is let in, and the body of its answer.
//!
//! Not here: who is let in, and how the answer comes about (`serve`, `tunnel`).

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio_util::sync::CancellationToken;

use crate::{
    judge::Origin,
    ledger::Held,
    line::Busy,
    pipe::Reader,
    tenant::{Current, Role},
    visitor::Visitor,
};

/// What is known of a request that is let in.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) current: Arc<Current>,
    pub(crate) origin: Origin,
    pub(crate) visitor: Visitor,
    pub(crate) role: Role,
    /// Its plain path.
    pub(crate) path: String,
    pub(crate) is_anonymous: bool,
    /// Rings when its tenant must not be answered for any more.
    pub(crate) lapse: CancellationToken,
    pub(crate) kept: Kept,
}

/// What a request holds until its answer's last byte is taken.
#[derive(Debug)]
pub(crate) struct Kept {
    _open: Held,
    _busy: Busy,
}

impl Kept {
    /// Of the open requests one, and its line, which is busy.
    pub(crate) fn new(open: Held, busy: Busy) -> Self {
        Self {
            _open: open,
            _busy: busy,
        }
    }
}

/// An answer's body: the relay's own, or Odoo's as it comes.
#[derive(Debug)]
pub(crate) struct AnswerBody {
    from: Source,
    _kept: Option<Kept>,
}

#[derive(Debug)]
enum Source {
    Whole(Option<Bytes>),
    Odoo(Reader),
}

impl AnswerBody {
    /// Odoo's, as it comes; without a reader there is none. What the request holds is held until the last byte is taken.
    pub(crate) fn of_odoo(reader: Option<Reader>, kept: Kept) -> Self {
        Self {
            from: reader.map_or(Source::Whole(None), Source::Odoo),
            _kept: Some(kept),
        }
    }

    /// A body that is here.
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> Self {
        let bytes: Bytes = bytes.into();
        Self {
            from: Source::Whole(Some(bytes).filter(|bytes| !bytes.is_empty())),
            _kept: None,
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut self.from {
            Source::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Source::Odoo(reader) => reader
                .poll_next(context)
                .map(|next| next.map(|piece| piece.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.from, Source::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.from {
            Source::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64)
            }
            Source::Odoo(_) => SizeHint::default(),
        }
    }
}
