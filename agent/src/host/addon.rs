//! The Odoo module isyone_metrics, which measures and guards an Odoo: this program embeds its files and writes them to the agent's data directory on the
//! host, from where they are mounted read-only into each Odoo.
//!
//! Not here: what it does (monitoring/addons/isyone_metrics), asking it (metrics::relay).

use std::{io, path::Path};

use crate::{base::fsutil, plan::stack::ADDON_NAME};

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../../../monitoring/addons/isyone_metrics/", $name)))),*]
    };
}

/// The one package within the module.
const GUARD: &str = "guard";

/// Every file of the module.
const FILES: &[(&str, &[u8])] = files![
    "README.md",
    "__init__.py",
    "__manifest__.py",
    "addresses.py",
    "database.py",
    "endpoint.py",
    "exposition.py",
    "guard/__init__.py",
    "guard/away.py",
    "guard/cron.py",
    "guard/mail.py",
    "guard/memory.py",
    "guard/pool.py",
    "guard/search.py",
    "guard/sessions.py",
    "guard/signup.py",
    "guard/stop.py",
    "hooks.py",
    "layout.py",
    "recorder.py",
    "segment.py",
];

/// Writes the module below `addons`. Running containers pick up a change at their next start. Removes anything else
/// there: Odoo could import a file of an older version.
pub fn write(addons: &Path) -> io::Result<()> {
    let directory = addons.join(ADDON_NAME);
    let guard = directory.join(GUARD);
    fsutil::make_directories(&guard)?;
    // Odoo's user in the container must be able to read it; on the host, the data directory itself keeps everybody else
    // out.
    for path in [addons, &directory, &guard] {
        fsutil::set_mode(path, 0o755)?;
    }
    for (name, content) in FILES {
        fsutil::write_if_changed(&directory.join(name), content, 0o644, None)?;
    }
    for place in [&directory, &guard] {
        for entry in fsutil::list(place)? {
            if entry.path == guard
                || FILES
                    .iter()
                    .any(|(name, _)| entry.path == directory.join(name))
            {
                continue;
            }
            if entry.is_directory {
                fsutil::remove_tree(&entry.path)?;
            } else {
                fsutil::remove_file(&entry.path)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn no_file_of_the_module_is_left_out() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../monitoring/addons")
            .join(ADDON_NAME);
        let names = |place: &Path, before: &str| -> Vec<String> {
            fs::read_dir(place)
                .unwrap()
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .filter(|name| name != "__pycache__" && name != GUARD)
                .map(|name| format!("{before}{name}"))
                .collect()
        };
        let mut there = names(&source, "");
        there.extend(names(&source.join(GUARD), "guard/"));
        there.sort();
        let ours: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
        assert_eq!(there, ours);
    }

    #[test]
    fn an_older_version_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let module = dir.path().join(ADDON_NAME);
        fs::create_dir_all(module.join("__pycache__")).unwrap();
        fs::create_dir_all(module.join(GUARD).join("old")).unwrap();
        fs::write(module.join("old.py"), "x").unwrap();
        fs::write(module.join(GUARD).join("old.py"), "x").unwrap();
        fs::write(module.join("hooks.py"), "x").unwrap();
        write(dir.path()).unwrap();
        write(dir.path()).unwrap();
        let count = |place: &Path| fs::read_dir(place).unwrap().count();
        // The package's directory is not among them.
        let files = count(&module) - 1 + count(&module.join(GUARD));
        assert_eq!(files, FILES.len());
        assert!(fs::read(module.join("hooks.py")).unwrap().len() > 1);
        assert_eq!(
            fs::metadata(&module).unwrap().permissions().mode() & 0o777,
            0o755
        );
    }
}
