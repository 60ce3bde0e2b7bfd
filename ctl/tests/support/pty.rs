//! A terminal for `isyctl`: we hold the other end, type, read, and inspect the line discipline.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, open},
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often the reader checks whether the terminal should go away.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};

pub(crate) struct Terminal {
    /// Our end, until it is closed.
    ours: Option<File>,
    gone: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
    output: Receiver<Vec<u8>>,
    seen: String,
    pub(crate) child: Child,
}

impl Terminal {
    /// Starts `command` on a new terminal of 100 columns by 30 rows.
    pub(crate) fn start(mut command: Command) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let theirs = open(
            name,
            OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .unwrap();
        tcsetwinsize(
            &ours,
            Winsize {
                ws_row: 30,
                ws_col: 100,
                ws_xpixel: 0,
                ws_ypixel: 0,
            },
        )
        .unwrap();
        let stdio = |fd: &OwnedFd| Stdio::from(fd.try_clone().unwrap());
        let child = command
            .stdin(stdio(&theirs))
            .stdout(stdio(&theirs))
            .stderr(stdio(&theirs))
            .spawn()
            .unwrap();
        let ours = File::from(ours);
        let mut from = ours.try_clone().unwrap();
        let ((to, output), gone) = (channel(), Arc::new(AtomicBool::new(false)));
        let stop = gone.clone();
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !stop.load(Ordering::Relaxed) {
                let mut more = [PollFd::new(&from, PollFlags::IN)];
                if !matches!(poll(&mut more, Some(&LOOK)), Ok(1..)) {
                    continue;
                }
                let Ok(count @ 1..) = from.read(&mut buffer) else {
                    return;
                };
                if to.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        // `theirs` stays open in `command`, so that reading does not end before we check.
        Self {
            ours: Some(ours),
            gone,
            reader: Some(reader),
            output,
            seen: String::new(),
            child,
        }
    }

    fn ours(&self) -> &File {
        self.ours.as_ref().unwrap()
    }

    /// Hangs up, as when a connection breaks. The child gets no signal: this is not its controlling terminal.
    pub(crate) fn go_away(&mut self) {
        // The reader's handle also keeps the terminal open.
        self.gone.store(true, Ordering::Relaxed);
        self.reader.take().unwrap().join().unwrap();
        self.ours = None;
    }

    pub(crate) fn send(&mut self, text: &str) {
        self.ours().write_all(text.as_bytes()).unwrap();
    }

    /// Waits for `text` in the output.
    pub(crate) fn expect(&mut self, text: &str) {
        assert!(self.comes(text, PATIENCE), "no `{text}` in:\n{}", self.seen);
    }

    /// Types `keys` repeatedly until `text` appears.
    pub(crate) fn send_until(&mut self, keys: &str, text: &str) {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            self.send(keys);
            if self.comes(text, Duration::from_millis(200)) {
                return;
            }
        }
        panic!("no `{text}` in:\n{}", self.seen);
    }

    /// Types `keys` repeatedly until the child has ended; [`Self::wait`] then returns its exit code.
    pub(crate) fn send_until_end(&mut self, keys: &str) {
        let start = Instant::now();
        while self.child.try_wait().unwrap().is_none() && start.elapsed() < PATIENCE {
            self.send(keys);
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn comes(&mut self, text: &str, within: Duration) -> bool {
        let start = Instant::now();
        while !self.seen.contains(text) {
            let Some(left) = within.checked_sub(start.elapsed()) else {
                return false;
            };
            if let Ok(bytes) = self.output.recv_timeout(left) {
                self.seen.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
        true
    }

    /// Skips the output so far.
    pub(crate) fn forget(&mut self) {
        while let Ok(bytes) = self.output.try_recv() {
            drop(bytes);
        }
        self.seen.clear();
    }

    /// The output examined so far.
    pub(crate) fn seen(&self) -> &str {
        &self.seen
    }

    /// Whether the terminal edits and echoes lines, as a shell expects.
    pub(crate) fn is_cooked(&self) -> bool {
        let modes = tcgetattr(self.ours()).unwrap().local_modes;
        modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// Resizes a moment after the last key: crossterm leaves input that arrives together with a resize unread until the
    /// next key.
    pub(crate) fn resize(&self, columns: u16, rows: u16) {
        std::thread::sleep(Duration::from_millis(200));
        tcsetwinsize(
            self.ours(),
            Winsize {
                ws_row: rows,
                ws_col: columns,
                ws_xpixel: 0,
                ws_ypixel: 0,
            },
        )
        .unwrap();
        // Without a controlling terminal the kernel notifies nobody.
        signal(&self.child, Signal::WINCH);
    }

    pub(crate) fn wait(&mut self) -> i32 {
        wait(&mut self.child)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Kill the child of a failed test; after `wait` it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.gone.store(true, Ordering::Relaxed);
    }
}

pub(crate) fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// The exit code of a child that must end soon.
pub(crate) fn wait(child: &mut Child) -> i32 {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap_or(-1);
        }
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("isyctl did not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
