//! Ends the demo: removes what its folder records, and nothing else.

use super::hosts_in;
use super::process::recorded;
use super::settings::{self, Settings};
use crate::cmd::{cmd, output, say, succeeds, took};
use crate::engine::docker;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::Path;
use std::time::Instant;

/// The agent's firewall tables.
const TABLES: [[&str; 2]; 2] = [["inet", "isyone"], ["inet", "isyone_limits"]];

/// Stops and removes everything of the demo in `folder`.
pub(super) fn down(folder: &Path) -> Result<()> {
    if !folder.exists() {
        say!(
            "there is no demo in {}: nothing to remove",
            folder.display()
        );
        return Ok(());
    }
    if !folder.join(settings::FILE).exists() {
        bail!(
            "{} holds no demo (no {} in it): it stays as it is",
            folder.display(),
            settings::FILE
        );
    }
    let start = Instant::now();
    let lock = super::lock(folder)?;
    let (agents, others): (Vec<_>, Vec<_>) = recorded(folder)
        .into_iter()
        .partition(|process| process.name.starts_with("agent-"));
    // Agents first: they would recreate what is removed next.
    for process in agents.iter().chain(&others) {
        if process.stop()? {
            say!("{} stopped", process.name);
        }
    }
    stop_relays(folder);
    // Even with unreadable settings, stop everything.
    let is_single = Settings::load(folder)
        .ok()
        .flatten()
        .is_none_or(|settings| settings.is_single());
    if folder.join("hosts").is_dir() {
        hosts_in(folder)?.down(false)?;
    }
    if is_single {
        remove_tenants(folder)?;
    }
    fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    drop(lock);
    say!(
        "the demo is gone ({}); packages, images and `target` stay",
        took(start)
    );
    Ok(())
}

/// Relays outlive their agents.
fn stop_relays(folder: &Path) {
    let program = folder.join("bin/isy-agent");
    let Ok(agents) = fs::read_dir(folder.join("agents")) else {
        return;
    };
    for agent in agents.flatten() {
        let mut stop = cmd(
            &program.to_string_lossy(),
            ["relay", "--stop", "--data-dir"],
        );
        succeeds(stop.arg(agent.path()));
    }
}

/// Removes the containers, volumes, networks and data of tenants in this demo's agents' ledgers; those of other agents
/// are left alone.
fn remove_tenants(folder: &Path) -> Result<()> {
    let books = books(&folder.join("agents"));
    if books.is_empty() {
        return Ok(());
    }
    // (what, how to list `id uid name`, how to remove)
    let kinds: [(&str, &[&str], &[&str]); 3] = [
        (
            "containers",
            &[
                "ps",
                "--all",
                "--format",
                r#"{{.ID}} {{.Label "one.isy.uid"}} {{.Names}}"#,
            ],
            &["rm", "--force", "--volumes"],
        ),
        (
            "volumes",
            &[
                "volume",
                "ls",
                "--format",
                r#"{{.Name}} {{.Label "one.isy.uid"}} {{.Name}}"#,
            ],
            &["volume", "rm"],
        ),
        (
            "networks",
            &[
                "network",
                "ls",
                "--format",
                r#"{{.ID}} {{.Label "one.isy.uid"}} {{.Name}}"#,
            ],
            &["network", "rm"],
        ),
    ];
    for (what, list, remove) in kinds {
        let all = output(cmd("docker", list).args(["--filter", "label=one.isy.tenant"]))
            .with_context(|| format!("cannot list the tenants' {what}; is Docker running?"))?;
        let ours: Vec<(&str, &str)> = all
            .lines()
            .filter_map(|line| of_books(line, &books))
            .collect();
        if ours.is_empty() {
            continue;
        }
        output(cmd("docker", remove).args(ours.iter().map(|(id, _)| id)))
            .with_context(|| format!("cannot remove the tenants' {what}"))?;
        let names: Vec<&str> = ours.iter().map(|(_, name)| *name).collect();
        say!("{what} removed: {}", names.join(" "));
    }
    remove_homes(&books)?;
    if no_tenants_left() {
        for table in TABLES {
            if succeeds(&mut cmd("nft", ["list", "table"].iter().chain(&table))) {
                output(&mut cmd("nft", ["delete", "table"].iter().chain(&table)))?;
                say!("firewall table {} removed", table.join(" "));
            }
        }
    }
    Ok(())
}

/// Removes the directories of tenants' data that are in the books: each has a link that names its tenant's uid.
fn remove_homes(books: &str) -> Result<()> {
    let root = output(&mut docker(["info", "--format", "{{.DockerRootDir}}"]))?;
    let homes = Path::new(root.trim()).join("isyone/tenants");
    for entry in fs::read_dir(homes).into_iter().flatten().flatten() {
        let home = entry.path();
        let owner = fs::read_link(home.join("owner")).unwrap_or_default();
        let uid = owner.to_string_lossy();
        if uid.len() == 36 && books.contains(&*uid) {
            fs::remove_dir_all(&home)
                .with_context(|| format!("cannot remove {}", home.display()))?;
            say!("data removed: {}", home.display());
        }
    }
    Ok(())
}

/// Containers and volumes on this machine that belong to something else and conflict with the demo: those with the
/// names of its tenant, and those of any other isyone agent, because two agents on one Docker stop each other's
/// tenants.
pub(super) fn foreign(folder: &Path, tenant: &str) -> Result<Vec<String>> {
    let books = books(&folder.join("agents"));
    let labelled = ["ps", "--filter", "label=one.isy.tenant", "--format"];
    let all =
        output(cmd("docker", labelled).arg(r#"{{.Names}} {{.Label "one.isy.uid"}} {{.Names}}"#))?;
    let others = all.lines().filter(|line| of_books(line, &books).is_none());
    let mut found: Vec<String> = others
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect();
    let lists: [&[&str]; 2] = [
        &[
            "ps",
            "--all",
            "--format",
            r#"{{.Names}} {{.Label "one.isy.uid"}} {{.Names}}"#,
        ],
        &[
            "volume",
            "ls",
            "--format",
            r#"{{.Name}} {{.Label "one.isy.uid"}} {{.Name}}"#,
        ],
    ];
    let names =
        ["odoo_", "postgres_", "odoo_data_", "pgdata_"].map(|kind| format!("{kind}{tenant}"));
    for list in lists {
        let all = output(&mut cmd("docker", list))?;
        let others = all.lines().filter(|line| of_books(line, &books).is_none());
        found.extend(
            others
                .filter_map(|line| line.split(' ').next())
                .filter(|name| names.iter().any(|n| n == name))
                .map(str::to_owned),
        );
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// The agents' ledgers as one text, which is only searched for uids.
fn books(agents: &Path) -> String {
    let entries = |dir: &Path| {
        fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect()
    };
    let mut text = String::new();
    let hosts: Vec<_> = entries(agents);
    for host in hosts {
        let tenants: Vec<_> = entries(&host.join("tenants"));
        let files = tenants
            .iter()
            .map(|tenant| tenant.join("state.json"))
            .chain([host.join("plan.json")]);
        files.for_each(|file| text.push_str(&fs::read_to_string(file).unwrap_or_default()));
    }
    text
}

/// `(id, name)` of a line `id uid name` if the uid is in our ledgers.
fn of_books<'a>(line: &'a str, books: &str) -> Option<(&'a str, &'a str)> {
    let mut words = line.splitn(3, ' ');
    let (id, uid, name) = (words.next()?, words.next()?, words.next()?);
    // A uid has 36 characters; a shorter string could match anywhere.
    (uid.len() == 36 && books.contains(uid)).then_some((id, name))
}

/// False if another agent's tenants are on this machine: then the firewall table is theirs.
fn no_tenants_left() -> bool {
    output(&mut docker([
        "ps",
        "--all",
        "--quiet",
        "--filter",
        "label=one.isy.tenant",
    ]))
    .is_ok_and(|ids| ids.is_empty())
}

#[cfg(test)]
mod tests {
    use super::of_books;

    #[test]
    fn only_what_is_in_the_books_is_ours() {
        let uid = "0190f7a0-0000-7000-8000-000000000001";
        let books = format!("{{\"uid\":\"{uid}\"}}");
        assert_eq!(
            of_books(&format!("c1 {uid} odoo_alfa"), &books),
            Some(("c1", "odoo_alfa"))
        );
        assert_eq!(of_books(&format!("c1 {uid} odoo_alfa"), "{}"), None);
        assert_eq!(of_books("c1  odoo_alfa", &books), None);
        assert_eq!(of_books("c1 uid odoo_alfa", &books), None);
    }
}
