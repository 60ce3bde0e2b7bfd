//! Disks of hosts that can be filled: an ext4 in a file, in place of what was there.
//!
//! They go with the host: `cargo xtask hosts down` unmounts whatever is below its folder. Not here: what is expected.

use std::{path::Path, process::Command};

use super::{cell::Cell, process::run};

/// What fills it: nearly all at once, the rest, and what is free again later.
const FILLERS: [&str; 3] = ["filler-1", "filler-2", "filler-3"];

/// An ext4 of this size, mounted at a directory.
fn mount(image: &Path, size: &str, at: &Path) {
    let size = size.trim_end_matches("iB");
    run(Command::new("truncate").args(["-s", size]).arg(image)).ok();
    // No room of root's own, or Docker would have some left; nothing is written that need not be.
    let mut make = Command::new("mkfs.ext4");
    make.args([
        "-q",
        "-m",
        "0",
        "-E",
        "lazy_itable_init=1,lazy_journal_init=1",
    ]);
    run(make.arg(image)).ok();
    std::fs::create_dir_all(at).expect("a mount point");
    run(Command::new("mount")
        .args(["-o", "loop"])
        .arg(image)
        .arg(at))
    .ok();
}

/// A host's Docker has nothing but this disk, with these images.
pub fn below_docker(cell: &Cell, index: usize, size: &str, images: (&str, &str)) {
    let host = &cell.hosts[index];
    cell.on_hosts(&["stop", &host.name]).ok();
    let image = cell.dir.path().join(format!("disk-{}.img", host.name));
    mount(&image, size, &host.docker_data());
    cell.on_hosts(&["start", &host.name]).ok();
    cell.on_hosts(&["load", &host.name, images.0, images.1])
        .ok();
    cell.wait_host(&host.name, "ready");
}

/// Leaves not a block free.
pub fn fill(at: &Path) {
    let mut df = Command::new("df");
    let text = run(df.args(["--output=avail", "-B1"]).arg(at)).ok();
    let free = text
        .lines()
        .nth(1)
        .and_then(|line| line.trim().parse().ok());
    let free: u64 = free.expect("a number");
    let most = free.saturating_sub(8 << 20).to_string();
    run(Command::new("fallocate")
        .args(["-l", &most])
        .arg(at.join(FILLERS[0])))
    .ok();
    write_until_full(&at.join(FILLERS[1]));
}

/// Takes what was given up since.
pub fn fill_again(at: &Path) {
    write_until_full(&at.join(FILLERS[2]));
}

fn write_until_full(file: &Path) {
    let mut dd = Command::new("dd");
    dd.args(["if=/dev/zero", "bs=4096"]);
    // Fails when nothing is left, as it should.
    let ended = run(dd.arg(format!("of={}", file.display())));
    assert!(ended.stderr.contains("No space left"), "{}", ended.stderr);
}

/// Undoes it.
pub fn make_room(at: &Path) {
    for name in FILLERS {
        let _ = std::fs::remove_file(at.join(name)); // not all are made each time
    }
}
