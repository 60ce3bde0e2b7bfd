//! Copies images from the machine's own daemon to test hosts: saved once, loaded everywhere in parallel.

use super::Host;
use crate::cmd::{cmd, output, say, shown, took};
use anyhow::{Context as _, Result, bail};
use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

const CHUNK_BYTES: usize = 1 << 20;
/// How many chunks the fastest host may be ahead of the slowest.
const CHUNKS_AHEAD: usize = 64;

/// Copies `images` to each of `hosts` that lacks at least one of them.
pub(super) fn load(hosts: &[Host], images: &[String]) -> Result<()> {
    let start = Instant::now();
    let ids = image_ids(
        &mut cmd("docker", ["image", "inspect", "--format", "{{.Id}}"]),
        images,
    )
    .context("the machine's own daemon lacks an image: `cargo xtask images` provides them")?;
    let lacks = |host: &&Host| {
        image_ids(
            &mut host.docker(["image", "inspect", "--format", "{{.Id}}"]),
            images,
        )
        .ok()
        .as_ref()
            != Some(&ids)
    };
    let hosts: Vec<&Host> = hosts.iter().filter(lacks).collect();
    if hosts.is_empty() {
        say!("all hosts have {} already", images.join(", "));
        return Ok(());
    }
    let mut save = cmd("docker", ["save"]);
    save.args(images);
    copy(&mut save, &hosts)?;
    say!(
        "{} loaded on {} hosts ({})",
        images.join(", "),
        hosts.len(),
        took(start)
    );
    Ok(())
}

fn image_ids(inspect: &mut Command, images: &[String]) -> Result<String> {
    output(inspect.args(images))
}

/// A `docker load` and the thread that feeds it, so that a slow host does not hold up the others.
struct Loader {
    name: String,
    child: Child,
    feed: SyncSender<Arc<[u8]>>,
    feeder: JoinHandle<std::io::Result<()>>,
}

fn copy(save: &mut Command, hosts: &[&Host]) -> Result<()> {
    let mut saving = save
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run docker")?;
    let mut tar = saving.stdout.take().context("docker save has no output")?;
    let loaders = hosts
        .iter()
        .map(|host| start_loader(host))
        .collect::<Result<Vec<_>>>()?;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let bytes = tar
            .read(&mut chunk)
            .context("cannot read what docker saves")?;
        if bytes == 0 {
            break;
        }
        let part: Arc<[u8]> = chunk[..bytes].into();
        for loader in &loaders {
            // If a loader ended early, the error is reported below.
            loader.feed.send(Arc::clone(&part)).ok();
        }
    }
    if !saving.wait()?.success() {
        bail!("`{}` failed", shown(save));
    }
    loaders.into_iter().try_for_each(finish)
}

fn start_loader(host: &Host) -> Result<Loader> {
    let mut command = host.docker(["load", "--quiet"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot load images on {}", host.name()))?;
    let stdin = child.stdin.take().context("docker load has no input")?;
    let (feed, chunks) = sync_channel::<Arc<[u8]>>(CHUNKS_AHEAD);
    let feeder = std::thread::spawn(move || {
        let mut stdin: ChildStdin = stdin;
        chunks.iter().try_for_each(|chunk| stdin.write_all(&chunk))
    });
    Ok(Loader {
        name: host.name(),
        child,
        feed,
        feeder,
    })
}

fn finish(loader: Loader) -> Result<()> {
    let Loader {
        name,
        mut child,
        feed,
        feeder,
    } = loader;
    drop(feed); // the end of its input
    let fed = feeder.join().is_ok_and(|written| written.is_ok());
    if !child.wait()?.success() || !fed {
        bail!("loading images on {name} failed: see docker's words above");
    }
    Ok(())
}
