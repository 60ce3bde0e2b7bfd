//! Where things are: the workspace, the cache of fetched and built files, the state of test hosts.
//!
//! Nothing outside these folders is written, except by `setup` (packages, the Docker daemon's log).

use std::path::{Path, PathBuf};

/// The root of the workspace that this binary was compiled in.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Cargo's target directory.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The folder for everything fetched or built that is not a container image (`$ISYONE_CACHE`).
pub(crate) fn cache() -> PathBuf {
    std::env::var_os("ISYONE_CACHE").map_or_else(|| target().join("isyone"), PathBuf::from)
}

/// The program `name` in the `PATH`, as `which` finds it.
pub(crate) fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // sbin directories are often missing from a user's PATH; what `setup` installs lives there.
    let extra = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(extra)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}
