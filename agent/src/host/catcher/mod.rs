//! The host's catcher: takes mail from tenants that are to send by it, keeps it for people to look at, and sends nothing.
//!
//! It listens only while the plan has such a tenant, on all addresses, because each tenant reaches its host at its own gateway's. Who is
//! neither in the network of one nor lets it be known is not answered: outside, the packet filter does not stand before it. All it takes is
//! bounded: connections, time, a message, messages at a time, what is kept. Not here: what is said (session), what is read of a
//! message (message), whose turn it is (turns), the files (store).

mod message;
mod session;
pub mod store;
mod turns;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use isyone_proto::{ids::TenantName, mail::CATCHER_PORT, plan::HostPlan};
use smtp_proto::{Error, request::receiver::RequestReceiver};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    message::Message,
    session::{Envelope, NOT_KEPT, Next, Session, TOO_LARGE, TOO_SLOW},
    turns::Turns,
};
use crate::{
    base::{
        clock::now_ms,
        fsutil::{self, blocking},
        shares::Shares,
    },
    host::{
        Host,
        ledger::InForce,
        space::{Room, Space},
    },
    plan::mail::is_caught,
};

/// Connections at one time, and of one tenant: an Odoo's workers send one after the other each.
const CONNECTIONS: (usize, usize) = (64, 8);
/// Messages in memory at one time, of 12 MiB each, and one of a tenant: none keeps the others from being caught.
const MESSAGES: usize = 4;
/// From the word that a message may come to its end.
const MESSAGE_TIME: Duration = Duration::from_secs(60);
/// How long a client may wait before its next byte, and for its turn with a message.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest conversation.
const LONGEST: Duration = Duration::from_secs(600);
/// Between attempts to listen.
const LISTEN_RETRY: Duration = Duration::from_secs(5);
/// Pause after an error of the machine, not the peer (too many open files).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
const CHUNK: usize = 16 << 10;

/// Where a tenant's messages are kept.
pub fn directory(host: &Host, tenant: &TenantName) -> PathBuf {
    host.data
        .tenants()
        .join(tenant.as_str())
        .join(store::DIRECTORY)
}

/// The tenant in whose network an address is, if its mail is to be caught.
fn whose(plan: &HostPlan, from: IpAddr) -> Option<&TenantName> {
    let IpAddr::V4(from) = from.to_canonical() else {
        return None;
    };
    let is_theirs = |subnet: ipnet::Ipv4Net| subnet.contains(&from);
    let mut tenants = plan.tenants.iter();
    let tenant = tenants.find(|tenant| is_theirs(tenant.subnet))?;
    is_caught(tenant).then_some(&tenant.name)
}

fn is_wanted(plans: &watch::Receiver<InForce>) -> bool {
    let plan = plans.borrow().plan.clone();
    plan.is_some_and(|plan| plan.tenants.iter().any(is_caught))
}

/// Catches for as long as the plan wants it, until `stop`.
pub async fn run(host: Arc<Host>, plans: watch::Receiver<InForce>, stop: CancellationToken) {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, CATCHER_PORT));
    let catcher = Arc::new(Catcher {
        host,
        plans: plans.clone(),
        places: Shares::new(CONNECTIONS.0, CONNECTIONS.1),
        turns: Turns::new(MESSAGES),
    });
    let following = catcher.follow(address, plans);
    stop.run_until_cancelled(following).await;
}

struct Catcher {
    host: Arc<Host>,
    plans: watch::Receiver<InForce>,
    places: Shares<TenantName>,
    turns: Turns,
}

impl Catcher {
    async fn follow(self: &Arc<Self>, address: SocketAddr, mut plans: watch::Receiver<InForce>) {
        loop {
            if is_wanted(&plans) {
                match TcpListener::bind(address).await {
                    Ok(listener) => {
                        self.host.board.set_warning("catcher", "");
                        tracing::info!(%address, "mail is caught");
                        if !self.serve(listener, &mut plans).await {
                            return;
                        }
                    }
                    Err(e) => {
                        let warning =
                            format!("{address} cannot be listened on, so no mail is caught: {e}");
                        self.host.board.set_warning("catcher", &warning);
                        sleep(LISTEN_RETRY).await;
                    }
                }
                continue;
            }
            self.host.board.set_warning("catcher", "");
            if plans.changed().await.is_err() {
                return;
            }
        }
    }

    /// Until nobody's mail is to be caught; `false`: the agent ends.
    async fn serve(
        self: &Arc<Self>,
        listener: TcpListener,
        plans: &mut watch::Receiver<InForce>,
    ) -> bool {
        let connections = TaskTracker::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, from)) => self.enter(stream, from, &connections),
                    Err(e) => {
                        tracing::debug!("no connection accepted for mail: {e}");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                changed = plans.changed() => match changed {
                    Ok(()) if is_wanted(plans) => {}
                    changed => return changed.is_ok(),
                },
            }
        }
    }

    /// Whoever has no place is left without an answer.
    fn enter(self: &Arc<Self>, stream: TcpStream, from: SocketAddr, connections: &TaskTracker) {
        let plan = self.plans.borrow().plan.clone();
        let Some(tenant) = plan.as_ref().and_then(|plan| whose(plan, from.ip())) else {
            return;
        };
        let Ok(place) = self.places.take(tenant.clone()) else {
            return tracing::debug!(%tenant, "too many connections for mail");
        };
        let (catcher, tenant) = (self.clone(), tenant.clone());
        connections.spawn(async move {
            let _place = place;
            let directory = directory(&catcher.host, &tenant);
            let talk = Talk {
                stream,
                tenant: &tenant,
                turns: &catcher.turns,
                directory: &directory,
                room: Room::of,
                message_time: MESSAGE_TIME,
            };
            match timeout(LONGEST, talk.converse()).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => tracing::debug!(%tenant, "mail: {e}"),
                Err(_) => tracing::debug!(%tenant, "mail: a conversation took too long"),
            }
        });
    }
}

/// One connection.
struct Talk<'a> {
    stream: TcpStream,
    tenant: &'a TenantName,
    turns: &'a Turns,
    directory: &'a Path,
    /// What the disk of a place has.
    room: fn(&Path) -> Option<Room>,
    message_time: Duration,
}

impl Talk<'_> {
    async fn say(&mut self, text: &str) -> std::io::Result<()> {
        let written = timeout(PATIENCE, self.stream.write_all(text.as_bytes())).await;
        written.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
    }

    /// Bytes that were read; none at the end.
    async fn hear(&mut self, chunk: &mut [u8]) -> std::io::Result<usize> {
        let read = timeout(PATIENCE, self.stream.read(chunk)).await;
        read.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
    }

    async fn converse(mut self) -> std::io::Result<()> {
        let (mut receiver, mut session) = (RequestReceiver::default(), Session::default());
        let mut chunk = vec![0; CHUNK];
        self.say(session::GREETING).await?;
        loop {
            let count = self.hear(&mut chunk).await?;
            if count == 0 {
                return Ok(());
            }
            let heard = chunk[..count].to_vec();
            let mut bytes = heard.iter();
            while !bytes.as_slice().is_empty() {
                let next = match receiver.ingest(&mut bytes) {
                    Err(Error::NeedsMoreData { .. }) => break,
                    request => session.answer(request),
                };
                match next {
                    Next::Say(text) => self.say(text).await?,
                    Next::End(text) => return self.say(text).await,
                    Next::Take(text) => {
                        let envelope = session.envelope();
                        let rest = self.take(text, envelope, bytes.as_slice()).await?;
                        if !rest.is_empty() {
                            // Nobody may send more before the answer: nothing of this kind was offered.
                            return Ok(());
                        }
                        break;
                    }
                }
            }
        }
    }

    /// Reads a message and keeps it. Returns what came after it.
    async fn take(
        &mut self,
        go_on: &str,
        envelope: Envelope,
        heard: &[u8],
    ) -> std::io::Result<Vec<u8>> {
        let turns = self.turns;
        let turn = match self.has_room() {
            true => timeout(PATIENCE, turns.take(self.tenant)).await.ok(),
            false => None,
        };
        let Some(Some(_turn)) = turn else {
            self.say(NOT_KEPT).await?;
            return Ok(heard.to_vec());
        };
        self.say(go_on).await?;
        let (time, mut message) = (self.message_time, Message::default());
        let Ok(read) = timeout(time, self.read_message(&mut message, heard)).await else {
            self.say(TOO_SLOW).await?;
            return Err(std::io::ErrorKind::TimedOut.into());
        };
        let rest = read?;
        let answer = self.keep(envelope, message).await;
        self.say(answer).await?;
        Ok(rest)
    }

    /// Whether the disk has room for what nobody waits for: tenants' databases may be on it.
    fn has_room(&self) -> bool {
        let place = self.directory.parent().unwrap_or(self.directory);
        (self.room)(place).is_none_or(|room| Space::of(room) == Space::Ample)
    }

    /// Until the message's end. Returns what came after it.
    async fn read_message(
        &mut self,
        message: &mut Message,
        heard: &[u8],
    ) -> std::io::Result<Vec<u8>> {
        let mut chunk = heard.to_vec();
        loop {
            let mut bytes = chunk.iter();
            if message.ingest(&mut bytes)? {
                return Ok(bytes.as_slice().to_vec());
            }
            chunk.resize(CHUNK, 0);
            let count = self.hear(&mut chunk).await?;
            if count == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            chunk.truncate(count);
        }
    }

    async fn keep(&self, envelope: Envelope, message: Message) -> &'static str {
        let Some(text) = message.text() else {
            return TOO_LARGE;
        };
        let directory = self.directory.to_owned();
        let kept = blocking(move || {
            // The tenant's directory is not made for it: one that is gone stays gone.
            if !directory.parent().is_some_and(fsutil::is_directory) {
                return Err(std::io::ErrorKind::NotFound.into());
            }
            store::keep(&directory, now_ms(), &envelope, &text)
        });
        match kept.await {
            Ok(_) => session::KEPT,
            Err(e) => {
                tracing::warn!("a message that was caught cannot be kept: {e}");
                NOT_KEPT
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use isyone_proto::mail::{Mail, Via};
    use tokio::net::TcpStream;

    use super::*;
    use crate::testing::{host_plan, tenant_plan};

    #[test]
    fn only_the_networks_of_those_who_are_caught_are_known() {
        let mut plan = host_plan(1, vec![tenant_plan("alfa"), tenant_plan("beta")]);
        plan.tenants[0].subnet = "10.200.0.16/28".parse().unwrap();
        plan.tenants[1].subnet = "10.200.0.32/28".parse().unwrap();
        plan.tenants[0].mail = Some(Mail::by(Via::Catcher));
        let of = |address: &str| whose(&plan, address.parse().unwrap()).map(TenantName::as_str);
        assert_eq!(of("10.200.0.18"), Some("alfa"));
        assert_eq!(of("::ffff:10.200.0.18"), Some("alfa"));
        for other in [
            "10.200.0.34",
            "10.200.0.2",
            "127.0.0.1",
            "203.0.113.9",
            "::1",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    /// What the other side is answered, line by line, and the messages that were kept.
    async fn told(said: Vec<Vec<u8>>) -> (String, Vec<String>) {
        told_where(said, |_| None).await
    }

    /// Likewise, on a disk of this room.
    async fn told_where(
        said: Vec<Vec<u8>>,
        room: fn(&Path) -> Option<Room>,
    ) -> (String, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join(store::DIRECTORY);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let place = directory.clone();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let talk = Talk {
                stream,
                tenant: &"alfa".parse().unwrap(),
                turns: &Turns::new(1),
                directory: &place,
                room,
                message_time: Duration::from_secs(2),
            };
            talk.converse().await
        });
        let mut client = TcpStream::connect(address).await.unwrap();
        let mut heard = String::new();
        let mut chunk = vec![0; 4096];
        for part in said {
            // Each request after the answer to the one before, as a client does.
            let count = client.read(&mut chunk).await.unwrap();
            heard += &String::from_utf8_lossy(&chunk[..count]);
            // It may have hung up.
            let _ = client.write_all(&part).await;
        }
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest).await;
        heard += &String::from_utf8_lossy(&rest);
        drop(client);
        let _ = server.await.unwrap();
        let kept = store::list(&directory).unwrap();
        (heard, kept.into_iter().map(|mail| mail.subject).collect())
    }

    fn lines(lines: &[&str]) -> Vec<Vec<u8>> {
        lines
            .iter()
            .map(|line| format!("{line}\r\n").into_bytes())
            .collect()
    }

    const ENVELOPE: [&str; 4] = ["EHLO odoo", "MAIL FROM:<a@b.c>", "RCPT TO:<d@e.f>", "DATA"];

    #[tokio::test]
    async fn messages_are_kept_one_after_the_other() {
        let mut said = lines(&ENVELOPE);
        said.extend(lines(&["Subject: one\r\n\r\n..dot\r\n."]));
        said.extend(lines(&ENVELOPE[1..]));
        said.extend(lines(&["Subject: two\r\n\r\nx\r\n.", "QUIT"]));
        let (heard, kept) = told(said).await;
        assert_eq!(kept, ["two", "one"], "{heard}");
        assert!(heard.contains("kept, and not sent") && heard.ends_with("221 2.0.0 bye\r\n"));
    }

    #[tokio::test]
    async fn a_message_that_is_too_large_is_refused_and_the_conversation_goes_on() {
        let mut said = lines(&ENVELOPE);
        let line = format!("{}\r\n", "x".repeat(998));
        let mut large = line.repeat(13 << 10).into_bytes();
        large.extend_from_slice(b".\r\n");
        said.push(large);
        said.extend(lines(&["QUIT"]));
        let (heard, kept) = told(said).await;
        assert!(
            heard.contains("552") && heard.ends_with("bye\r\n"),
            "{heard}"
        );
        assert!(kept.is_empty());
    }

    /// Fails if who sends a byte now and then has its turn for as long as it likes.
    #[tokio::test]
    async fn a_message_that_does_not_end_is_given_up() {
        let mut said = lines(&ENVELOPE);
        said.push(b"Subject: endless\r\n\r\nx".to_vec());
        let (heard, kept) = told(said).await;
        assert!(heard.ends_with(TOO_SLOW), "{heard}");
        assert!(kept.is_empty());
    }

    #[tokio::test]
    async fn a_disk_with_little_room_keeps_none() {
        let low = |_: &Path| {
            Some(Room {
                free: 900 << 20,
                total: 100 << 30,
            })
        };
        let mut said = lines(&ENVELOPE);
        said.extend(lines(&["QUIT"]));
        let (heard, kept) = told_where(said, low).await;
        assert!(
            heard.contains(NOT_KEPT) && heard.ends_with("bye\r\n"),
            "{heard}"
        );
        assert!(kept.is_empty());
    }

    /// Fails if a second message can be smuggled in the first one's text, or before its answer.
    #[tokio::test]
    async fn what_comes_before_it_is_asked_for_is_no_request() {
        let smuggled =
            "MAIL FROM:<x@y.z>\r\nRCPT TO:<d@e.f>\r\nDATA\r\nSubject: smuggled\r\n\r\nx\r\n.";
        for end in ["\n.\n", "\n.\r\n", "\r\n.\r\n", "\r.\r"] {
            let mut said = lines(&ENVELOPE);
            said.extend(lines(&[
                &format!("Subject: one\r\n\r\nx{end}{smuggled}"),
                "QUIT",
            ]));
            let (_, kept) = told(said).await;
            assert!(
                kept.len() <= 1 && !kept.iter().any(|s| s == "smuggled"),
                "{end:?}: {kept:?}"
            );
        }
    }
}
