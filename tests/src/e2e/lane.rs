//! Where an end-to-end test runs: two at a time, because most of their time is waiting. Each lane has hosts, a network and ports of its
//! own, so that the two share nothing but the machine; a test that measures, or that something else at work would disturb, has both.
//!
//! Who may run beside others goes first, and who must be alone runs when nobody else wants to: so hardly anybody waits for the rest of
//! somebody else's test. `ISYONE_LANE` (0 or 1) is the one that who is alone works in, for two runs side by side of a test each: chaos, and
//! something short. With `ISYONE_TIMES` set, each test's time is added to that file, as `SECONDS NAME`. Not here: what runs there.

use std::{
    cell::Cell,
    io::Write as _,
    path::PathBuf,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::root;

/// How many there are. More than a machine of two cores has use for helps nobody.
const LANES: usize = 2;
/// The third octet of the first lane's network; a demo's hosts have 77.
const FIRST_NET: u8 = 78;
/// From a port of the first lane to that of the next.
const PORTS: u16 = 1_000;

/// Hosts, a network and ports that no other test uses meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lane(u8);

thread_local! {
    static HERE: Cell<Lane> = const { Cell::new(Lane(0)) };
}

impl Lane {
    /// That of the test on this thread. The first one for benches, which are alone anyhow.
    pub fn here() -> Self {
        HERE.get()
    }

    /// This lane's port in place of one of the first lane.
    pub fn port(self, first: u16) -> u16 {
        first + PORTS * u16::from(self.0)
    }

    /// The third octet of its hosts' addresses.
    pub fn net(self) -> u8 {
        FIRST_NET + self.0
    }

    /// This machine as its hosts see it: the coordinator and the edge run here.
    pub fn gateway(self) -> String {
        format!("172.30.{}.1", self.net())
    }

    /// State of its hosts: kept with the build, so that their images are loaded only once.
    pub(super) fn hosts_state(self) -> PathBuf {
        let name = ["test-hosts", "test-hosts2"][usize::from(self.0)];
        root().join("target/isyone").join(name)
    }

    /// The network namespace of a host, by its name.
    pub fn namespace(self, host: &str) -> PathBuf {
        PathBuf::from(format!("/run/netns/isy{}-{host}", self.net()))
    }
}

/// Which lanes are taken.
static TAKEN: Mutex<[bool; LANES]> = Mutex::new([false; LANES]);
static LEFT: Condvar = Condvar::new();

fn taken() -> MutexGuard<'static, [bool; LANES]> {
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A test's time in its lanes.
#[derive(Debug)]
pub struct Turn {
    lanes: Vec<usize>,
    begin: Instant,
}

/// Waits for the machine: no other end-to-end test runs meanwhile.
pub fn alone() -> Turn {
    take(|taken| (!taken.contains(&true)).then(|| (0..LANES).collect()))
}

/// Waits for a lane: another end-to-end test may run meanwhile, on other hosts.
pub fn beside() -> Turn {
    take(|taken| Some(vec![taken.iter().position(|taken| !taken)?]))
}

fn take(free: impl Fn(&[bool; LANES]) -> Option<Vec<usize>>) -> Turn {
    let mut taken = taken();
    let lanes = loop {
        if let Some(lanes) = free(&taken) {
            break lanes;
        }
        taken = LEFT.wait(taken).unwrap_or_else(PoisonError::into_inner);
    };
    lanes.iter().for_each(|lane| taken[*lane] = true);
    let wished = std::env::var("ISYONE_LANE")
        .ok()
        .and_then(|lane| lane.parse().ok());
    let lane = wished.filter(|lane| lanes.contains(lane));
    HERE.set(Lane(u8::try_from(lane.unwrap_or(lanes[0])).expect("few")));
    Turn {
        lanes,
        begin: Instant::now(),
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut taken = taken();
        self.lanes.iter().for_each(|lane| taken[*lane] = false);
        note(self.begin);
        LEFT.notify_all();
    }
}

/// Adds a line to the file of times, if somebody wants them. The thread of a test has its name.
fn note(begin: Instant) {
    let Some(file) = std::env::var_os("ISYONE_TIMES").filter(|file| !file.is_empty()) else {
        return;
    };
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("?");
    let line = format!("{:.0} {name}\n", begin.elapsed().as_secs_f64());
    let file = std::fs::File::options()
        .create(true)
        .append(true)
        .open(file);
    // Times are for people: a test does not fail for want of them.
    let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
}
