//! What the engine last said about each running container, kept across restarts of the agent: asking again about
//! hundreds of them is most of the cost of a pass that changes nothing, on both sides.
//!
//! Nothing is trusted without proof. A container is taken from here only if a list made just now names the same
//! container as running, the kernel has the same process for it since the same moment, and its control groups have the
//! same limits: then nothing that the engine could tell has changed. The engine is asked about everything else. Not
//! here: when a list is made (survey).

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use isyone_proto::plan::UnixMs;
use serde::{Deserialize, Serialize};

use crate::{
    base::{fsutil, kernel},
    docker::ListedContainer,
    host::resources,
    plan::container::{Container, Limits},
};

/// The kernel rounds memory limits to whole pages; no machine has larger pages than this.
const PAGE_BYTES: u64 = 64 << 10;
/// Changes with each boot, after which process ids start over.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Nothing is remembered of a container in any other state.
const RUNNING: &str = "running";

/// What only the engine knows of a container, and the proof that it still holds: process id and start time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KnownContainer {
    id: String,
    pid: i32,
    /// Clock ticks since boot.
    born: u64,
    exit_code: i32,
    restarts: u32,
    started_ms: Option<UnixMs>,
    limits: Limits,
    /// `None` of an agent before, which did not ask: the engine is asked once more.
    #[serde(default)]
    unnamed: Option<Vec<String>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct KnownFile {
    boot: String,
    containers: BTreeMap<String, KnownContainer>,
}

/// What the kernel says now about a container's first process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Living {
    /// Like [`KnownContainer::born`].
    born: u64,
    /// Limits of its control groups.
    limits: Limits,
}

/// Asks the kernel about the process that was container `id`'s; `None` when it is gone.
type Kernel = Box<dyn Fn(i32, &str) -> Option<Living> + Send + Sync>;

pub struct KnownContainers {
    path: PathBuf,
    file: Mutex<KnownFile>,
    unsaved: AtomicBool,
    kernel: Kernel,
}

impl KnownContainers {
    /// Remembers in the file `path`; an unreadable file, or one from another boot, only costs asking the engine again.
    pub fn open(path: PathBuf) -> Self {
        let boot = kernel::text(BOOT_ID).unwrap_or_default();
        Self::with(path, boot, Box::new(living))
    }

    fn with(path: PathBuf, boot: String, kernel: Kernel) -> Self {
        let read = fsutil::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<KnownFile>(&bytes).ok());
        let file = read.filter(|f| f.boot == boot).unwrap_or(KnownFile {
            boot,
            containers: BTreeMap::new(),
        });
        Self {
            path,
            file: Mutex::new(file),
            unsaved: AtomicBool::new(false),
            kernel,
        }
    }

    fn lock(&self) -> MutexGuard<'_, KnownFile> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The container of this name as the engine would describe it, if there is proof.
    pub fn recall(&self, name: &str, listed: &ListedContainer) -> Option<Container> {
        let entry = self
            .lock()
            .containers
            .get(name)
            .filter(|e| e.id == listed.id)?
            .clone();
        if listed.state != RUNNING || !self.proves(&entry) {
            return None;
        }
        let unnamed = entry.unnamed?;
        Some(Container {
            name: name.to_owned(),
            id: entry.id,
            state: listed.state.clone(),
            labels: listed.labels.clone(),
            user: String::new(), // not kept: whoever starts a command asks the engine
            image_id: listed.image_id.clone(),
            exit_code: entry.exit_code,
            is_out_of_memory: false, // of a run that has ended, and this one has not
            restarts: entry.restarts,
            started_ms: entry.started_ms,
            ip: listed.ip,
            pid: entry.pid,
            limits: entry.limits,
            unnamed,
            error: String::new(),
        })
    }

    /// Records what the engine has just said about the container `name`.
    pub fn learn(&self, name: &str, container: Option<&Container>) {
        let entry = container
            .filter(|c| c.state == RUNNING && c.error.is_empty())
            .and_then(|c| {
                let born = (self.kernel)(c.pid, &c.id)?.born;
                let entry = KnownContainer {
                    id: c.id.clone(),
                    pid: c.pid,
                    born,
                    exit_code: c.exit_code,
                    restarts: c.restarts,
                    started_ms: c.started_ms,
                    limits: c.limits,
                    unnamed: Some(c.unnamed.clone()),
                };
                self.proves(&entry).then_some(entry)
            });
        let mut file = self.lock();
        let changed = match entry {
            Some(entry) if file.containers.get(name) == Some(&entry) => false,
            Some(entry) => {
                file.containers.insert(name.to_owned(), entry);
                true
            }
            None => file.containers.remove(name).is_some(),
        };
        self.unsaved.fetch_or(changed, Ordering::Relaxed);
    }

    /// The container's process is still the same, with the same limits.
    fn proves(&self, entry: &KnownContainer) -> bool {
        let now = (self.kernel)(entry.pid, &entry.id);
        now.is_some_and(|now| now.born == entry.born && same(&now.limits, &entry.limits))
    }

    /// Saves changes. Blocking.
    pub fn save(&self) -> io::Result<()> {
        if !self.unsaved.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        // Plain structs: serialising cannot fail.
        let bytes = serde_json::to_vec(&*self.lock()).unwrap_or_default();
        fsutil::write_atomic(&self.path, &bytes, 0o600, false)
    }
}

/// `None`: it has ended, or cannot be seen from here.
fn living(pid: i32, id: &str) -> Option<Living> {
    let limits = resources::limits_of(&resources::groups_of(pid, id)?)?;
    let stat = kernel::text(&format!("/proc/{pid}/stat")).ok()?;
    Some(Living {
        born: born(&stat)?,
        limits,
    })
}

fn same(kernel: &Limits, engine: &Limits) -> bool {
    kernel.memory_bytes / PAGE_BYTES == engine.memory_bytes / PAGE_BYTES
        && (kernel.nano_cpus, kernel.pids) == (engine.nano_cpus, engine.pids)
}

/// When a process started, in clock ticks since boot, from its `stat`.
fn born(stat: &str) -> Option<u64> {
    // The name, in parentheses, may hold anything; `starttime` is field 22, the state after the name is field 3.
    stat.get(stat.rfind(')')? + 1..)?
        .split_ascii_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use super::*;

    const LIMITS: Limits = Limits {
        memory_bytes: 64 << 20,
        nano_cpus: 500_000_000,
        pids: 100,
    };

    struct Machine {
        dir: tempfile::TempDir,
        now: Arc<Mutex<Option<Living>>>,
    }

    impl Machine {
        fn new() -> Self {
            let now = Arc::new(Mutex::new(Some(Living {
                born: 9,
                limits: LIMITS,
            })));
            Self {
                dir: tempfile::tempdir().unwrap(),
                now,
            }
        }

        fn known(&self, boot: &str) -> KnownContainers {
            let now = self.now.clone();
            let kernel =
                move |pid, id: &str| now.lock().unwrap().filter(|_| pid == 7 && id == "id");
            KnownContainers::with(
                self.dir.path().join("containers.json"),
                boot.to_owned(),
                Box::new(kernel),
            )
        }

        fn is(&self, now: Option<Living>) {
            *self.now.lock().unwrap() = now;
        }
    }

    fn container() -> Container {
        Container {
            id: "id".into(),
            state: RUNNING.into(),
            pid: 7,
            limits: LIMITS,
            restarts: 3,
            started_ms: Some(5),
            ..Container::default()
        }
    }

    fn listed() -> ListedContainer {
        ListedContainer {
            id: "id".into(),
            state: RUNNING.into(),
            image_id: "image".into(),
            ..ListedContainer::default()
        }
    }

    #[test]
    fn a_running_container_is_known_after_a_restart_of_the_agent_but_not_of_the_machine() {
        let machine = Machine::new();
        let known = machine.known("boot 1");
        assert_eq!(known.recall("c", &listed()), None);
        known.learn("c", Some(&container()));
        known.save().unwrap();
        let back = machine.known("boot 1").recall("c", &listed()).unwrap();
        assert_eq!(
            (
                back.restarts,
                back.started_ms,
                back.pid,
                back.image_id.as_str()
            ),
            (3, Some(5), 7, "image")
        );
        assert_eq!(machine.known("boot 2").recall("c", &listed()), None);
    }

    #[test]
    fn whatever_was_changed_by_hand_is_asked_for() {
        let machine = Machine::new();
        let known = machine.known("boot");
        known.learn("c", Some(&container()));
        assert!(known.recall("c", &listed()).is_some());
        let other = ListedContainer {
            id: "another".into(),
            ..listed()
        };
        let stopped = ListedContainer {
            state: "exited".into(),
            ..listed()
        };
        assert_eq!(
            (known.recall("c", &other), known.recall("c", &stopped)),
            (None, None)
        );
        for now in [
            None,
            Some(Living {
                born: 10,
                limits: LIMITS,
            }),
            Some(Living {
                born: 9,
                limits: Limits {
                    memory_bytes: 128 << 20,
                    ..LIMITS
                },
            }),
            Some(Living {
                born: 9,
                limits: Limits {
                    nano_cpus: 1,
                    ..LIMITS
                },
            }),
        ] {
            machine.is(now);
            assert_eq!(known.recall("c", &listed()), None, "{now:?}");
        }
        machine.is(Some(Living {
            born: 9,
            limits: LIMITS,
        }));
        known.learn("c", None);
        assert_eq!(known.recall("c", &listed()), None, "it was removed");
    }

    #[test]
    fn nothing_is_kept_that_the_kernel_contradicts() {
        let machine = Machine::new();
        let known = machine.known("boot");
        let limits = Limits { pids: 1, ..LIMITS };
        known.learn(
            "c",
            Some(&Container {
                limits,
                ..container()
            }),
        );
        known.learn(
            "d",
            Some(&Container {
                pid: 8,
                ..container()
            }),
        );
        known.learn(
            "e",
            Some(&Container {
                state: "exited".into(),
                ..container()
            }),
        );
        assert!(
            ["c", "d", "e"]
                .iter()
                .all(|name| known.recall(name, &listed()).is_none())
        );
    }

    #[test]
    fn a_process_may_have_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 1 2";
        assert_eq!(born(stat), Some(4711));
        assert_eq!(born(""), None);
        let own = fs::read_to_string("/proc/self/stat").unwrap();
        assert!(born(&own).is_some_and(|ticks| ticks > 0));
    }
}
