//! The way to Odoo: a place, a connection, one request, its answer.
//!
//! A connection carries one request: Odoo's workers close it anyway, and so no request can be lost to one that was closing, or be
//! sent twice. What could not be sent is tried again; what was sent never is.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::{Request, response::Parts};
use http_body_util::BodyExt;
use hyper::{
    body::{Body, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, sync::oneshot, time::Instant};

use crate::{
    gate::{Entry, Permit},
    intake::Sending,
    limits::ms,
    pages::Notice,
    pipe::{self, Reader, Room, Writer},
    routes::State,
    shares::Full,
    tenant::{Role, Tenant},
    visitor::Visitor,
};

/// First and longest pause between two tries to connect.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
/// hyper's buffer for what Odoo says, bytes: what comes at once when the reader keeps up, and the largest head of an answer.
const BUFFER: usize = 64 * 1024;
/// What is collected for the spool at once, when the reader is behind.
const GATHER: usize = 256 * 1024;

/// Why a request does not reach Odoo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// With this notice.
    Notice(Notice),
    /// With the page of the route.
    Page,
}

/// A place at work and a connection.
#[derive(Debug)]
pub(crate) struct Reached {
    /// The place.
    pub(crate) permit: Permit,
    /// The connection.
    pub(crate) stream: TcpStream,
}

/// Waits for a place, and connects. While requests are held nobody has a place.
pub(crate) async fn reach(
    tenant: &Tenant,
    role: Role,
    visitor: Visitor,
) -> Result<Reached, Refused> {
    loop {
        let permit = admitted(tenant, role, visitor).await?;
        if let Some(stream) = connected(tenant, role).await? {
            return Ok(Reached { permit, stream });
        }
    }
}

/// A place at work. Held requests wait until the hold's end, and from its end as long as any other.
async fn admitted(tenant: &Tenant, role: Role, visitor: Visitor) -> Result<Permit, Refused> {
    let mut changes = tenant.watch();
    let current = Arc::clone(&changes.borrow_and_update());
    if let Some(refused) = refused(&current.route.state, current.hold_until) {
        return Err(refused);
    }
    let queued = match tenant.gate(role).enter(visitor) {
        Entry::Now(permit) => return Ok(permit),
        Entry::Refused(Full::Key) => return Err(Refused::Notice(Notice::too_many())),
        Entry::Refused(Full::All) => return Err(Refused::Notice(Notice::Busy)),
        Entry::Waits(queued) => queued,
    };
    tokio::pin!(queued);
    let began = Instant::now();
    tenant.figures.requests_queued.one();
    let mut is_held = current.hold_until.is_some();
    if is_held {
        tenant.figures.requests_held.one();
    }
    let wait = ms(current.route.limits.queue_wait_ms);
    let mut deadline = (began + wait).max(current.hold_until.unwrap_or(began));
    let ended = loop {
        tokio::select! {
            biased;
            permit = &mut queued => break Ok(permit),
            Ok(()) = changes.changed() => {
                let current = Arc::clone(&changes.borrow_and_update());
                if let Some(refused) = refused(&current.route.state, current.hold_until) {
                    break Err(refused);
                }
                let was_held = std::mem::replace(&mut is_held, current.hold_until.is_some());
                // News of other things do not make anybody wait longer.
                match current.hold_until {
                    Some(until) => deadline = deadline.max(until),
                    None if was_held => deadline = deadline.max(Instant::now() + wait),
                    None => {}
                }
            }
            () = tokio::time::sleep_until(deadline) => {
                break Err(Refused::Notice(if is_held { Notice::Waiting } else { Notice::Busy }));
            }
        }
    };
    let waited = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    tenant.figures.queue_wait_ms.add(waited);
    ended
}

/// What a state says to everybody.
pub(crate) fn refused(state: &State, hold_until: Option<Instant>) -> Option<Refused> {
    match state {
        State::Page { .. } => Some(Refused::Page),
        State::Holding { .. } if hold_until.is_none_or(|until| until <= Instant::now()) => {
            Some(Refused::Notice(Notice::Waiting))
        }
        _ => None,
    }
}

/// A connection; `None` when requests are held meanwhile: then the place is given back, and waited for again.
async fn connected(tenant: &Tenant, role: Role) -> Result<Option<TcpStream>, Refused> {
    let mut changes = tenant.watch();
    let (mut pause, longest) = RETRY;
    let mut tries = 0_u32;
    loop {
        let current = Arc::clone(&changes.borrow_and_update());
        match current.route.state {
            State::Holding { .. } => return Ok(None),
            State::Page { .. } => return Err(Refused::Page),
            State::Serving | State::UploadsRefused => {}
        }
        let connect = TcpStream::connect(current.upstream(role));
        let longest_connect = ms(tenant.host.limits().connect_ms);
        if let Ok(Ok(stream)) = tokio::time::timeout(longest_connect, connect).await {
            tenant.is_up(role);
            // A request's head and body are written one after the other; neither waits for an acknowledgement.
            let _ = stream.set_nodelay(true);
            return Ok(Some(stream));
        }
        let down_for = tenant.is_down(role, Instant::now());
        if down_for >= ms(current.route.limits.retry_hold_ms) {
            return Err(Refused::Notice(Notice::Waiting));
        }
        if tries == 0 {
            tenant.figures.requests_held.one();
        }
        tries += 1;
        tenant.figures.connects_retried.one();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            Ok(()) = changes.changed() => {}
        }
        pause = (pause * 2).min(longest);
    }
}

/// An answer: its head, and where its body is read, if it has one.
pub(crate) type Answer = (Parts, Option<Reader>);

/// Sends the request, and passes the answer on. Runs on its own: a visitor that goes away does not make a worker free, so the place
/// is kept until Odoo has answered.
pub(crate) async fn exchange(
    tenant: Arc<Tenant>,
    reached: Reached,
    request: Request<Sending>,
    room: Room,
    tell: oneshot::Sender<Result<Answer, Notice>>,
) {
    let Reached { permit, stream } = reached;
    let longest = ms(tenant.current().route.limits.answer_wait_ms);
    let (mut sender, connection) = match http1::Builder::new()
        .max_buf_size(BUFFER)
        .handshake(TokioIo::new(stream))
        .await
    {
        Ok(both) => both,
        Err(_) => return drop(tell.send(Err(Notice::Broken))),
    };
    let connection = tokio::spawn(connection).abort_on_drop();
    let answer = tokio::time::timeout(longest, sender.send_request(request)).await;
    if tell.is_closed() {
        tenant.figures.visitors_gone.one();
    }
    let response = match answer {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            tracing::debug!(tenant = %tenant.name, %error, "Odoo ended before its answer");
            return drop(tell.send(Err(Notice::Broken)));
        }
        Err(_) => return drop(tell.send(Err(Notice::NoAnswer))),
    };
    tenant.figures.answers.one();
    let (parts, body) = response.into_parts();
    if body.is_end_stream() {
        drop(permit);
        return drop(tell.send(Ok((parts, None))));
    }
    let (writer, reader) = pipe::pipe(room);
    if tell.send(Ok((parts, Some(reader)))).is_ok() {
        pass_on(&tenant, body, writer, longest, permit).await;
    }
    drop(connection);
}

/// From Odoo to the pipe at full speed. The place is free as soon as the last byte is here.
async fn pass_on(
    tenant: &Tenant,
    mut body: Incoming,
    writer: Writer,
    longest: Duration,
    permit: Permit,
) {
    let mut was_spooled = false;
    let is_whole = loop {
        let (bytes, end) = tokio::select! {
            biased;
            () = writer.gone() => break false,
            next = tokio::time::timeout(longest, next(&mut body, &writer)) => match next {
                Ok(next) => next,
                Err(_) => break false,
            },
        };
        if !bytes.is_empty() {
            tenant.figures.answer_bytes.add(bytes.len() as u64);
            let Ok(wrote) = writer.write(bytes).await else {
                break false;
            };
            if wrote.had_to_wait {
                tenant.figures.answers_stalled.one();
            }
            if wrote.is_spooled && !was_spooled {
                was_spooled = true;
                tenant.figures.answers_spooled.one();
            }
        }
        if let Some(is_whole) = end {
            break is_whole;
        }
    };
    // Closes the connection, where there is more to come.
    drop(body);
    drop(permit);
    writer.end(is_whole);
}

/// What comes next; more than one frame only where the reader is behind and they are there already. With it whether that was the end,
/// and of a whole answer.
async fn next(body: &mut Incoming, writer: &Writer) -> (Bytes, Option<bool>) {
    let first = match body.frame().await {
        None => return (Bytes::new(), Some(true)),
        Some(Err(_)) => return (Bytes::new(), Some(false)),
        Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
    };
    if !writer.is_behind() {
        return (first, None);
    }
    let mut gathered = BytesMut::from(first);
    while gathered.len() < GATHER {
        match body.frame().now_or_never() {
            None => break,
            Some(None) => return (gathered.freeze(), Some(true)),
            Some(Some(Err(_))) => return (gathered.freeze(), Some(false)),
            Some(Some(Ok(frame))) => {
                gathered.extend_from_slice(&frame.into_data().unwrap_or_default());
            }
        }
    }
    (gathered.freeze(), None)
}

/// A task that ends with whoever holds this.
#[derive(Debug)]
pub(crate) struct Aborting<T>(tokio::task::JoinHandle<T>);

/// `abort_on_drop` for tasks.
pub(crate) trait AbortOnDrop<T> {
    /// Ends the task when the value is dropped.
    fn abort_on_drop(self) -> Aborting<T>;
}

impl<T> AbortOnDrop<T> for tokio::task::JoinHandle<T> {
    fn abort_on_drop(self) -> Aborting<T> {
        Aborting(self)
    }
}

impl<T> Drop for Aborting<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
