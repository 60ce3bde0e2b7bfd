//! How a successor gets the listening sockets: through a unix socket, from process to process.
//!
//! Both then accept from the same queue of the kernel, so nobody who knocks meanwhile is refused or forgotten. (Two sockets
//! with SO_REUSEPORT have a queue each, and what is in the old one is lost when it closes. LISTEN_FDS wants one common
//! parent, and `unsafe` to take the numbers for sockets.) The predecessor goes on until the successor says that it accepts.

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    net::TcpListener,
    os::{
        fd::AsFd,
        unix::{fs::PermissionsExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// Sockets in one message; the kernel takes 253.
const IN_ONE: usize = 128;
/// Sockets in all, a bound for the successor.
const MAX_SOCKETS: usize = 16_384;
/// For each message: the other end is a process of this host.
const WAIT: Duration = Duration::from_secs(10);

/// How often a predecessor is asked that goes away meanwhile, and the pause before that: it may be about to end.
const ASKED: usize = 5;
const ASK_AGAIN: Duration = Duration::from_millis(100);

const SOCKETS: u8 = b'F';
const NO_MORE: u8 = b'E';
const TAKEN: u8 = b'T';
const STOPPED: u8 = b'S';

/// A successor that has the sockets and has not taken over yet.
#[derive(Debug)]
pub(crate) struct Handing(UnixStream);

/// The predecessor's sockets, before this process has taken over.
#[derive(Debug)]
pub(crate) struct Taking {
    stream: UnixStream,
    /// What it listens on.
    pub(crate) sockets: Vec<TcpListener>,
}

/// Gives the sockets. Blocks.
pub(crate) fn give(stream: UnixStream, sockets: &[TcpListener]) -> io::Result<Handing> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(WAIT))?;
    stream.set_write_timeout(Some(WAIT))?;
    for some in sockets.chunks(IN_ONE) {
        let fds: Vec<_> = some.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(IN_ONE))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::Error::other("the sockets do not fit into a message"));
        }
        let data = [SOCKETS];
        rustix::net::sendmsg(
            &stream,
            &[IoSlice::new(&data)],
            &mut control,
            SendFlags::empty(),
        )?;
    }
    (&stream).write_all(&[NO_MORE])?;
    Ok(Handing(stream))
}

impl Handing {
    /// Waits until the successor accepts; an error when it does not, and then nothing has changed. Blocks.
    pub(crate) fn taken(&mut self) -> io::Result<()> {
        expect(&mut self.0, TAKEN)
    }

    /// Tells it that this process accepts nobody any more. Blocks.
    pub(crate) fn stopped(mut self) -> io::Result<()> {
        self.0.write_all(&[STOPPED])
    }
}

/// Asks a predecessor for its sockets; `None` when there is none, as one that ends while it is asked. Blocks.
pub(crate) fn ask(path: &Path) -> io::Result<Option<Taking>> {
    let ended = |error: &io::Error| {
        let kinds = [
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::BrokenPipe,
            io::ErrorKind::UnexpectedEof,
        ];
        kinds.contains(&error.kind())
    };
    for _ in 1..ASKED {
        match ask_once(path) {
            Err(error) if ended(&error) => std::thread::sleep(ASK_AGAIN),
            done => return done,
        }
    }
    ask_once(path)
}

fn ask_once(path: &Path) -> io::Result<Option<Taking>> {
    let stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        Err(error) => {
            let nobody = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
            return match nobody.contains(&error.kind()) {
                true => Ok(None),
                false => Err(error),
            };
        }
    };
    stream.set_read_timeout(Some(WAIT))?;
    stream.set_write_timeout(Some(WAIT))?;
    let mut sockets = Vec::new();
    loop {
        let mut byte = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(IN_ONE))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut data = [IoSliceMut::new(&mut byte)];
        let got = rustix::net::recvmsg(&stream, &mut data, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                sockets.extend(fds.map(TcpListener::from));
            }
        }
        match (got.bytes, byte[0]) {
            (1, SOCKETS) if sockets.len() <= MAX_SOCKETS => {}
            (1, NO_MORE) => return Ok(Some(Taking { stream, sockets })),
            (0, _) => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => {
                return Err(io::Error::other(
                    "the predecessor did not hand over its sockets",
                ));
            }
        }
    }
}

impl Taking {
    /// Says that this process accepts, and waits until the predecessor does not. Blocks.
    pub(crate) fn take_over(mut self) -> io::Result<()> {
        self.stream.write_all(&[TAKEN])?;
        expect(&mut self.stream, STOPPED)
    }
}

fn expect(stream: &mut UnixStream, wanted: u8) -> io::Result<()> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    match byte[0] == wanted {
        true => Ok(()),
        false => Err(io::Error::other("unexpected word in a hand-over")),
    }
}

/// A unix socket that listens under a name of its own, until it is put in its place.
#[derive(Debug)]
pub(crate) struct Prepared {
    listener: tokio::net::UnixListener,
    new: PathBuf,
    path: PathBuf,
}

impl Prepared {
    /// A unix socket of mode 0600. What can fail fails here, before a predecessor has stopped.
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let new = path.with_file_name(name);
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = tokio::net::UnixListener::bind(&new)?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self {
            listener,
            new,
            path: path.to_owned(),
        })
    }

    /// In place of what is there: renamed, so that there is always one.
    pub(crate) fn put(self) -> io::Result<tokio::net::UnixListener> {
        std::fs::rename(&self.new, &self.path)?;
        Ok(self.listener)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It was connected to, and is gone before it has accepted: there is none.
    #[test]
    fn who_ends_while_it_is_asked_is_no_predecessor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let ends = std::thread::spawn(move || {
            std::thread::sleep(ASK_AGAIN / 2);
            drop(listener);
        });
        assert!(ask(&path).unwrap().is_none());
        ends.join().unwrap();
    }

    #[test]
    fn many_sockets_go_over_and_still_accept() {
        let (giver, taker) = UnixStream::pair().unwrap();
        let sockets: Vec<_> = (0..300)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let addresses: Vec<_> = sockets.iter().map(|s| s.local_addr().unwrap()).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop((giver, taker));
        let giving = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut handing = give(stream, &sockets).unwrap();
            handing.taken().unwrap();
            drop(sockets);
            handing.stopped().unwrap();
        });
        let mut taking = ask(&path).unwrap().expect("there is a predecessor");
        let taken = std::mem::take(&mut taking.sockets);
        taking.take_over().unwrap();
        giving.join().unwrap();
        assert_eq!(
            taken
                .iter()
                .map(|s| s.local_addr().unwrap())
                .collect::<Vec<_>>(),
            addresses
        );
        let knocking = std::net::TcpStream::connect(addresses[299]).unwrap();
        taken[299].accept().unwrap();
        drop(knocking);
    }

    #[test]
    fn without_a_predecessor_there_is_nothing_nor_with_one_that_dies() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        assert!(ask(&path).unwrap().is_none());
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let dying = std::thread::spawn(move || drop(listener.accept()));
        assert!(ask(&path).unwrap().is_none());
        dying.join().unwrap();
        assert!(
            ask(&path).unwrap().is_none(),
            "a socket that nobody listens on"
        );
    }
}
