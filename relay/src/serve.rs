//! One request, from its head to its answer. A straight line; what is decided on the way is decided elsewhere.

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header, request::Parts};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{
    admitted::{Admitted, AnswerBody, Kept},
    intake::{self, Place, Rules, Sending, Stored},
    judge::{self, Malformed, Origin},
    limits::{Limits, ms},
    line::{Busy, LineState},
    pages::{self, Notice},
    pipe::{Reader, Room},
    routes::State,
    shares::Full,
    tenant::{Role, Tenant},
    tunnel,
    upstream::{self, Refused},
    visitor::{self, Visitor},
};

/// Of a body that is refused, what is still read so that its sender hears the answer: a reset would take that away from it.
const DRAIN_BYTES: usize = 64 * 1024 * 1024;
/// For how long.
const DRAIN: Duration = Duration::from_secs(10);

/// Where a request came in.
#[derive(Debug)]
pub(crate) struct Door {
    /// Whose address it came to.
    pub(crate) tenant: Arc<Tenant>,
    /// Which of the two.
    pub(crate) role: Role,
    /// Who connected.
    pub(crate) peer: IpAddr,
    /// Its line.
    pub(crate) line: Arc<LineState>,
}

/// Answers a request, whatever happens.
pub(crate) async fn serve(
    door: Arc<Door>,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
    let tenant = &door.tenant;
    tenant.figures.requests.one();
    let busy = door.line.begin();
    let (mut parts, mut body) = request.into_parts();
    let asked = parts.headers.clone();
    let done = match admit(&door, &parts, busy) {
        Ok(admitted) => {
            let lapse = admitted.lapse.clone();
            let done = async {
                match judge::is_websocket(&parts) {
                    true => tunnel::open(tenant, parts, admitted).await,
                    false => answer(tenant, &mut parts, &mut body, admitted).await,
                }
            };
            in_time(tenant, &lapse, done).await
        }
        Err(refused) => Err(refused),
    };
    let mut response = match done {
        Ok(response) => response,
        Err(refused) => {
            // A body that paused is not waited for once more.
            if refused != Refused::Notice(Notice::TooSlow) {
                drain(body, &asked);
            }
            refusal(tenant, refused, &asked)
        }
    };
    if tenant.host.is_draining.load(Ordering::Relaxed) || tenant.gone.is_cancelled() {
        let is_switching = response.status() == http::StatusCode::SWITCHING_PROTOCOLS;
        if !is_switching {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
    }
    Ok(response)
}

/// What is done for as long as the tenant may be answered for; an answer that comes later does not go on.
async fn in_time(
    tenant: &Tenant,
    lapse: &CancellationToken,
    done: impl Future<Output = Result<Response<AnswerBody>, Refused>>,
) -> Result<Response<AnswerBody>, Refused> {
    let lapsed = Err(Refused::Notice(Notice::Lapsed));
    let done = tokio::select! {
        biased;
        () = lapse.cancelled() => return lapsed,
        done = done => done,
    };
    match done {
        Ok(_) if !tenant.may_answer() => lapsed,
        done => done,
    }
}

/// Everything that is decided from the head alone.
fn admit(door: &Door, parts: &Parts, busy: Busy) -> Result<Admitted, Refused> {
    let tenant = &door.tenant;
    let current = tenant.current();
    let notice = |notice| Err(Refused::Notice(notice));
    match judge::malformed(parts) {
        None => {}
        Some(Malformed::Method) => return notice(Notice::NoSuchMethod),
        Some(_) => return notice(Notice::Malformed),
    }
    let path = judge::plain(parts.uri.path());
    if judge::is_closed(&path, &current.route.closed_paths) {
        return notice(Notice::Closed);
    }
    if let Some(refused) = upstream::refused(&current.route.state, current.hold_until) {
        return Err(refused);
    }
    let lapse = tenant.bell.next();
    if !tenant.may_answer() {
        return notice(Notice::Lapsed);
    }
    let forwarded = parts.headers.get_all("x-forwarded-for").iter();
    // What is no text is no address: it ends the chain.
    let forwarded: Vec<&str> = forwarded
        .map(|value| value.to_str().unwrap_or(""))
        .collect();
    let address = visitor::address(door.peer, forwarded.into_iter(), &current.edges);
    let visitor = Visitor::from(address);
    let mut open = tenant.open.hold(visitor);
    match open.grow(1) {
        Ok(()) => {}
        Err(Full::Key) => return notice(Notice::too_many()),
        Err(Full::All) => return notice(Notice::Busy),
    }
    let is_anonymous = judge::is_anonymous(&parts.headers);
    if let Some(costly) = judge::costly(&parts.method, &path, is_anonymous) {
        tenant.spend(costly, visitor).map_err(Refused::Notice)?;
    }
    Ok(Admitted {
        origin: Origin {
            visitor: address,
            is_from_edge: visitor::is_edge(door.peer, &current.edges),
        },
        role: current.role(door.role, judge::is_websocket(parts)),
        current,
        visitor,
        path,
        is_anonymous,
        lapse,
        kept: Kept::new(open, busy),
    })
}

/// Takes the body in, waits for a place, sends, and passes the answer on.
async fn answer(
    tenant: &Arc<Tenant>,
    parts: &mut Parts,
    body: &mut Incoming,
    admitted: Admitted,
) -> Result<Response<AnswerBody>, Refused> {
    let limits = &admitted.current.route.limits;
    let stored = match body.is_end_stream() {
        true => Stored::nothing(),
        false => {
            let rules = rules(limits, parts, &admitted);
            let stored = intake::take_in(body, rules, place(tenant, admitted.visitor)).await;
            let stored = stored.map_err(Refused::Notice)?;
            tenant.figures.body_bytes.add(stored.len());
            if stored.is_spooled() {
                tenant.figures.bodies_spooled.one();
            }
            stored
        }
    };
    let reached = upstream::reach(tenant, admitted.role, admitted.visitor).await?;
    let request = to_odoo(parts, stored, admitted.origin);
    let room = room(tenant, limits, admitted.visitor);
    let (tell, told) = oneshot::channel();
    let exchange = upstream::exchange(Arc::clone(tenant), reached, request, room, tell);
    let killed = tenant.host.killed.clone();
    tenant.host.tasks.spawn(async move {
        tokio::select! {
            () = exchange => {}
            () = killed.cancelled() => {}
        }
    });
    let answer = told.await.unwrap_or(Err(Notice::Broken));
    let (mut head, reader) = answer.map_err(Refused::Notice)?;
    if reader.is_none() && parts.method != Method::HEAD {
        // The length of a body that there is not (as with 304): hyper says what there is.
        head.headers.remove(header::CONTENT_LENGTH);
    }
    Ok(from_odoo(head, reader, admitted.kept))
}

/// What the body is held to: of several bounds the smallest, with what is said of it.
fn rules(limits: &Limits, parts: &Parts, admitted: &Admitted) -> Rules {
    let mut bounds = vec![(limits.upload_bytes, Notice::TooLarge)];
    if admitted.is_anonymous && judge::is_parsed_in_whole(&admitted.path, &parts.headers) {
        bounds.push((limits.anonymous_body_bytes, Notice::AnonymousTooLarge));
    }
    if admitted.current.route.state == State::UploadsRefused {
        let most = match judge::is_upload(&admitted.path) {
            true => 0,
            false => limits.refused_upload_bytes,
        };
        bounds.push((most, Notice::NoSpace));
    }
    let smallest = bounds.into_iter().min_by_key(|(most, _)| *most);
    let (most, larger) = smallest.expect("there is one at least");
    Rules {
        most,
        larger,
        memory: limits.body_memory_bytes,
        pause: ms(limits.body_pause_ms),
        rate: limits.body_rate_bytes,
        window: ms(limits.rate_window_ms),
    }
}

fn place(tenant: &Tenant, visitor: Visitor) -> Place {
    Place {
        memory: tenant.memory.hold(visitor),
        disk: tenant.disk.hold(visitor),
        spool: Arc::clone(&tenant.host.spool),
    }
}

fn room(tenant: &Tenant, limits: &Limits, visitor: Visitor) -> Room {
    let Place {
        memory,
        disk,
        spool,
    } = place(tenant, visitor);
    Room {
        memory,
        disk,
        most_memory: limits.answer_memory_bytes,
        most_disk: limits.answer_spool_bytes,
        spool,
    }
}

/// The request as Odoo sees it: always with a length, never in chunks.
fn to_odoo(parts: &mut Parts, stored: Stored, origin: Origin) -> Request<Sending> {
    let mut headers = std::mem::take(&mut parts.headers);
    let has_length = headers.contains_key(header::CONTENT_LENGTH);
    let is_chunked = headers.contains_key(header::TRANSFER_ENCODING);
    judge::to_odoo(&mut headers, origin);
    if !stored.is_empty() || has_length || is_chunked {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(stored.len()));
    }
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    let mut request = Request::new(Sending::from(stored));
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = parts.uri.clone();
    *request.headers_mut() = headers;
    request
}

/// The answer as the visitor sees it.
fn from_odoo(
    mut parts: http::response::Parts,
    reader: Option<Reader>,
    kept: Kept,
) -> Response<AnswerBody> {
    judge::from_odoo(&mut parts.headers);
    parts.headers.remove(pages::ANSWER_HEADER);
    let mut response = Response::new(AnswerBody::of_odoo(reader, kept));
    *response.status_mut() = parts.status;
    *response.headers_mut() = parts.headers;
    response
}

/// An answer of the relay's own.
fn refusal(tenant: &Tenant, refused: Refused, asked: &HeaderMap) -> Response<AnswerBody> {
    let current = tenant.current();
    let response = match (refused, &current.route.state) {
        (Refused::Notice(notice), _) => {
            tenant.figures.notice(notice);
            let mut response = notice.answer(asked);
            if notice == Notice::TooSlow {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            response
        }
        (
            Refused::Page,
            State::Page {
                status,
                html,
                retry_after,
            },
        ) => pages::given(State::page_status(*status), html, *retry_after),
        // The page is gone since; whoever asks again is served.
        (Refused::Page, _) => Notice::Waiting.answer(asked),
    };
    response.map(AnswerBody::whole)
}

/// Reads what is left of a body that was refused, beside the answer.
fn drain(body: Incoming, asked: &HeaderMap) {
    // Who waits to be asked for the body is not asked.
    if body.is_end_stream() || asked.contains_key(header::EXPECT) {
        return;
    }
    tokio::spawn(tokio::time::timeout(DRAIN, async move {
        let (mut body, mut drained) = (body, 0);
        while let Some(Ok(frame)) = body.frame().await {
            drained += frame.data_ref().map_or(0, Bytes::len);
            if drained > DRAIN_BYTES {
                break;
            }
        }
    }));
}
