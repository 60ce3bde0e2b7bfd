//! What the kernel announces to whoever listens: here, that somebody changes the packet filter. A wake-up call only: announcements
//! may be lost, so whoever hears one looks for itself, and on a timer too.
//!
//! Besides, what it is asked: which interfaces and addresses there are, and to remove an interface. Not here: what follows (host::firewall, host::links).

use std::{io, net::Ipv4Addr, os::fd::OwnedFd};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind,
        netlink::{NETFILTER, SocketAddrNetlink},
        recv, send, socket_with,
    },
};
use tokio::net::UnixDatagram;

/// Group of announcements about nftables (`NFNLGRP_NFTABLES`, the seventh).
const NFTABLES: u32 = 1 << 6;
/// Announcements come in packets of a memory page or two.
const BUFFER: usize = 64 << 10;
/// A message's own head, and an attribute's.
const HEAD: usize = 16;
const ATTRIBUTE_HEAD: usize = 4;
/// Requests about interfaces, and what is answered.
const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
/// Flags: a request, to which a yes or no is answered, or a list.
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const LIST: u16 = 0x300;
/// A yes or no (`NLMSG_ERROR`, which says 0 where all is well), and the end of a list.
const ANSWER: u16 = 2;
const DONE: u16 = 3;
/// What messages about an interface begin with (`ifinfomsg`), where its index is in that, and its attributes.
const LINK: usize = 16;
const LINK_INDEX: usize = 4;
const LINK_NAME: u16 = 3;
const LINK_MTU: u16 = 4;
const LINK_MASTER: u16 = 10;
/// Likewise of an address (`ifaddrmsg`), whose family and length of network are its first bytes.
const ADDRESS: usize = 8;
const ADDRESS_INDEX: usize = 4;
const ADDRESS_LOCAL: u16 = 2;
const IPV4: u8 = 2;
/// Bits of an attribute's kind that say how it is laid out.
const LAYOUT: u16 = 0xC000;

/// One announcement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub kind: u16,
    /// What follows its head.
    pub body: Vec<u8>,
}

/// A socket on which the kernel announces.
pub struct Listener {
    /// The type lends its way of waiting: a netlink socket has datagrams, too, and all that is called of it is recv(2).
    socket: UnixDatagram,
    buffer: Vec<u8>,
}

impl Listener {
    /// For changes of the packet filter, of this network namespace. Only root may.
    pub fn nftables() -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
        let socket = socket_with(family, kind, flags, Some(NETFILTER))?;
        bind(&socket, &SocketAddrNetlink::new(0, NFTABLES))?;
        Ok(Self {
            socket: UnixDatagram::from_std(socket.into())?,
            buffer: vec![0; BUFFER],
        })
    }

    /// What is announced next; `None`: some of it was lost.
    pub async fn next(&mut self) -> io::Result<Option<Vec<Message>>> {
        match self.socket.recv(&mut self.buffer).await {
            Ok(length) => Ok(self.buffer.get(..length).map(messages)),
            Err(e) if Errno::from_io_error(&e) == Some(Errno::NOBUFS) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// An interface of this network namespace. (What `/sys` shows may be another's.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// Its largest packet.
    pub mtu: u32,
    /// The bridge that it is in, by its index.
    pub master: Option<u32>,
}

impl Link {
    fn of(message: &Message) -> Option<Self> {
        Some(Self {
            index: long(&message.body, LINK_INDEX)?,
            name: message.text(LINK, LINK_NAME)?.to_owned(),
            mtu: message.own_number(LINK, LINK_MTU)?,
            master: message.own_number(LINK, LINK_MASTER),
        })
    }
}

/// All interfaces (`RTM_GETLINK`).
pub fn links() -> io::Result<Vec<Link>> {
    let all = list(GET_LINK, NEW_LINK)?;
    Ok(all.iter().filter_map(Link::of).collect())
}

/// An IPv4 address of an interface, which may be down: then no route tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The interface's.
    pub index: u32,
    pub address: Ipv4Addr,
    /// Length of its network.
    pub bits: u8,
}

impl Address {
    fn of(message: &Message) -> Option<Self> {
        let (family, bits) = (message.body.first()?, message.body.get(1)?);
        let octets: [u8; 4] = message.attribute(ADDRESS, ADDRESS_LOCAL)?.try_into().ok()?;
        (*family == IPV4).then_some(Self {
            index: long(&message.body, ADDRESS_INDEX)?,
            address: octets.into(),
            bits: *bits,
        })
    }
}

/// All IPv4 addresses (`RTM_GETADDR`).
pub fn addresses() -> io::Result<Vec<Address>> {
    let all = list(GET_ADDRESS, NEW_ADDRESS)?;
    Ok(all.iter().filter_map(Address::of).collect())
}

/// All messages of a list.
fn list(wanted: u16, answers: u16) -> io::Result<Vec<Message>> {
    let mut found = Vec::new();
    let socket = ask(wanted, LIST, 0)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let (_, length) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        for message in buffer.get(..length).map(messages).unwrap_or_default() {
            match message.kind {
                DONE => return Ok(found),
                ANSWER => {
                    return Err(outcome(&message)
                        .err()
                        .unwrap_or(io::ErrorKind::InvalidData.into()));
                }
                kind if kind == answers => found.push(message),
                _ => {}
            }
        }
    }
}

/// Removes an interface (`RTM_DELLINK`).
pub fn remove_link(index: u32) -> io::Result<()> {
    let socket = ask(DELETE_LINK, ACKNOWLEDGE, index)?;
    let mut buffer = [0_u8; 1024];
    let (_, length) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
    let answers = buffer.get(..length).map(messages).unwrap_or_default();
    let answer = answers.iter().find(|message| message.kind == ANSWER);
    answer.map_or(Err(io::ErrorKind::InvalidData.into()), outcome)
}

/// Sends a request about interfaces; the kernel answers at once.
fn ask(kind: u16, flags: u16, index: u32) -> io::Result<OwnedFd> {
    let flag = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flag, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    let mut request = vec![0; HEAD + LINK];
    let length = u32::try_from(request.len()).unwrap_or(0);
    request[..4].copy_from_slice(&length.to_ne_bytes());
    request[4..6].copy_from_slice(&kind.to_ne_bytes());
    request[6..8].copy_from_slice(&(REQUEST | flags).to_ne_bytes());
    request[HEAD + LINK_INDEX..][..4].copy_from_slice(&index.to_ne_bytes());
    send(&socket, &request, SendFlags::empty())?;
    Ok(socket)
}

/// What an answer says: 0, or `-errno`.
fn outcome(answer: &Message) -> io::Result<()> {
    match long(&answer.body, 0) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(
            code.cast_signed().wrapping_neg(),
        )),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_ne_bytes(two.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(four.try_into().ok()?))
}

/// Lengths are rounded up to four bytes.
fn aligned(length: usize) -> usize {
    length.saturating_add(3) & !3
}

/// The messages of a packet; what is cut off is left out.
fn messages(packet: &[u8]) -> Vec<Message> {
    let (mut found, mut rest) = (Vec::new(), packet);
    while let (Some(length), Some(kind)) = (long(rest, 0), short(rest, 4)) {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(body) = rest.get(HEAD..length) else {
            break;
        };
        found.push(Message {
            kind,
            body: body.to_vec(),
        });
        rest = rest.get(aligned(length)..).unwrap_or_default();
    }
    found
}

impl Message {
    /// The value of an attribute behind `skip` bytes of the message's own.
    pub fn attribute(&self, skip: usize, wanted: u16) -> Option<&[u8]> {
        let mut rest = self.body.get(skip..)?;
        loop {
            let (length, kind) = (usize::from(short(rest, 0)?), short(rest, 2)? & !LAYOUT);
            let value = rest.get(ATTRIBUTE_HEAD..length)?;
            if kind == wanted {
                return Some(value);
            }
            rest = rest.get(aligned(length)..)?;
        }
    }

    /// Likewise, a text that ends with a zero.
    pub fn text(&self, skip: usize, wanted: u16) -> Option<&str> {
        let value = self.attribute(skip, wanted)?;
        let text = std::str::from_utf8(value).ok()?;
        Some(text.trim_end_matches('\0'))
    }

    /// Likewise, a number in the machine's own order.
    fn own_number(&self, skip: usize, wanted: u16) -> Option<u32> {
        long(self.attribute(skip, wanted)?, 0)
    }

    /// Likewise, a number, most significant byte first.
    pub fn number(&self, skip: usize, wanted: u16) -> Option<u32> {
        let value = self.attribute(skip, wanted)?;
        Some(u32::from_be_bytes(value.try_into().ok()?))
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// An attribute as the kernel lays it out.
    pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(ATTRIBUTE_HEAD + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{testing::attribute, *};

    fn packed(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEAD + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.resize(HEAD, 0);
        bytes.extend_from_slice(body);
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    #[test]
    fn messages_and_what_is_in_them_are_found() {
        let body = [
            vec![1, 0, 0, 0],
            attribute(2, &7_u32.to_be_bytes()),
            attribute(LAYOUT | 3, b"isyone\0"),
        ];
        let packet = [packed(10, &body.concat()), packed(11, b"")].concat();
        let found = messages(&packet);
        assert_eq!(found.iter().map(|m| m.kind).collect::<Vec<_>>(), [10, 11]);
        assert_eq!(found[0].number(4, 2), Some(7));
        assert_eq!(found[0].text(4, 3), Some("isyone"));
        assert_eq!(found[0].text(4, 4), None);
        assert_eq!(found[1].text(4, 3), None);
    }

    #[test]
    fn interfaces_are_listed_and_only_those_that_exist_are_removed() {
        let all = links().unwrap();
        let own = all.iter().find(|link| link.name == "lo").unwrap();
        assert!(own.index > 0 && own.mtu >= 1_500 && own.master.is_none());
        assert!(remove_link(u32::MAX >> 1).is_err());
        let own = Address {
            index: own.index,
            address: Ipv4Addr::LOCALHOST,
            bits: 8,
        };
        assert!(addresses().unwrap().contains(&own));
    }

    proptest! {
        #[test]
        fn whatever_comes_ends(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for message in messages(&bytes) {
                let _ = (message.text(4, 1), message.number(0, 2));
                let _ = (Link::of(&message), Address::of(&message));
            }
        }
    }
}
