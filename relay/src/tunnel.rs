//! Websockets: the handshake goes to Odoo like any request, then bytes go both ways until either end is done.
//!
//! Bounded for each address and each tenant. Pings are Odoo's and the browser's own.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::{client::conn::http1, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use crate::{
    admitted::{Admitted, AnswerBody},
    judge, pages,
    pages::Notice,
    shares::Full,
    tenant::Tenant,
    upstream::{self, AbortOnDrop, Refused},
};

/// For the handshake, and for an answer that is none. Odoo gives it at once when it has a place.
const HANDSHAKE: Duration = Duration::from_secs(60);
/// Of an answer in place of a handshake: a page that says why not.
const MAX_ANSWER: usize = 256 * 1024;

/// Opens a websocket, or passes on why not.
pub(crate) async fn open(
    tenant: &Arc<Tenant>,
    mut parts: Parts,
    admitted: Admitted,
) -> Result<Response<AnswerBody>, Refused> {
    // HTTP/1.0 has none.
    let Some(visitor_side) = parts.extensions.remove::<OnUpgrade>() else {
        return Err(Refused::Notice(Notice::Malformed));
    };
    let mut seat = tenant.websockets.hold(admitted.visitor);
    seat.grow(1).map_err(|full| match full {
        Full::Key => Refused::Notice(Notice::too_many()),
        Full::All => Refused::Notice(Notice::Busy),
    })?;
    let reached = upstream::reach(tenant, admitted.role, admitted.visitor).await?;
    let broken = Refused::Notice(Notice::Broken);
    let handshake = http1::handshake(TokioIo::new(reached.stream)).await;
    let (mut sender, connection) = handshake.map_err(|_| broken)?;
    let connection = tokio::spawn(connection.with_upgrades()).abort_on_drop();
    let asked = timeout(HANDSHAKE, sender.send_request(to_odoo(parts, &admitted))).await;
    let answer = asked
        .map_err(|_| Refused::Notice(Notice::NoAnswer))?
        .map_err(|_| broken)?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return small_answer(answer).await;
    }
    // The handshake is done: the place at work is for the next request.
    drop(reached.permit);
    let (head, odoo_side) = split(answer);
    let tenant = Arc::clone(tenant);
    let tasks = tenant.host.tasks.clone();
    tasks.spawn(async move {
        let _held = (seat, admitted.kept, connection);
        tenant.figures.websockets.one();
        let (Ok(visitor), Ok(odoo)) = tokio::join!(visitor_side, odoo_side) else {
            return;
        };
        let (mut visitor, mut odoo) = (TokioIo::new(visitor), TokioIo::new(odoo));
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut visitor, &mut odoo) => {}
            () = tenant.gone.cancelled() => {}
            () = admitted.lapse.cancelled() => {}
            () = tenant.host.killed.cancelled() => {}
        }
    });
    Ok(head)
}

fn to_odoo(parts: Parts, admitted: &Admitted) -> Request<Empty<Bytes>> {
    let mut headers = parts.headers;
    judge::to_odoo(&mut headers, admitted.origin);
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = parts.uri;
    *request.headers_mut() = headers;
    request
}

/// The head of a 101 for the visitor, and Odoo's side of what follows.
fn split(answer: Response<hyper::body::Incoming>) -> (Response<AnswerBody>, OnUpgrade) {
    let (parts, body) = answer.into_parts();
    let mut headers = parts.headers.clone();
    judge::from_odoo(&mut headers);
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let odoo_side = hyper::upgrade::on(Response::from_parts(parts, body));
    let mut head = Response::new(AnswerBody::whole(Bytes::new()));
    *head.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *head.headers_mut() = headers;
    (head, odoo_side)
}

async fn small_answer(
    answer: Response<hyper::body::Incoming>,
) -> Result<Response<AnswerBody>, Refused> {
    let (mut parts, body) = answer.into_parts();
    let said = timeout(HANDSHAKE, what_arrives(Limited::new(body, MAX_ANSWER))).await;
    let Ok(Some(said)) = said else {
        return Err(Refused::Notice(Notice::Broken));
    };
    judge::from_odoo(&mut parts.headers);
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.remove(pages::ANSWER_HEADER);
    Ok(Response::from_parts(parts, AnswerBody::whole(said)))
}

/// A body as far as it arrives; `None` if it is too large. Odoo's threaded server drops the body of whatever answers a handshake
/// (`end_headers` in odoo/service/server.py) and closes, so the end comes before the length that was said: its status is the answer.
async fn what_arrives(mut body: Limited<hyper::body::Incoming>) -> Option<Vec<u8>> {
    let mut said = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => said.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
            Err(error) if error.is::<LengthLimitError>() => return None,
            Err(_) => break,
        }
    }
    Some(said)
}
