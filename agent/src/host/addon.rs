//! The Odoo module isyone_metrics: this program embeds its files and writes them to the agent's data directory on the
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

/// Every file of the module.
const FILES: &[(&str, &[u8])] = files![
    "README.md",
    "__init__.py",
    "__manifest__.py",
    "database.py",
    "endpoint.py",
    "exposition.py",
    "hooks.py",
    "layout.py",
    "recorder.py",
    "segment.py",
];

/// Writes the module below `addons`. Running containers pick up a change at their next start. Removes anything else
/// there: Odoo could import a file of an older version.
pub fn write(addons: &Path) -> io::Result<()> {
    let directory = addons.join(ADDON_NAME);
    fsutil::make_directories(&directory)?;
    // Odoo's user in the container must be able to read it; on the host, the data directory itself keeps everybody else
    // out.
    for path in [addons, &directory] {
        fsutil::set_mode(path, 0o755)?;
    }
    for (name, content) in FILES {
        fsutil::write_if_changed(&directory.join(name), content, 0o644, None)?;
    }
    for entry in fsutil::list(&directory)? {
        if FILES.iter().any(|(name, _)| entry.name == *name) {
            continue;
        }
        if entry.is_directory {
            fsutil::remove_tree(&entry.path)?;
        } else {
            fsutil::remove_file(&entry.path)?;
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
        let mut there: Vec<String> = fs::read_dir(source)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "__pycache__")
            .collect();
        there.sort();
        let ours: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
        assert_eq!(there, ours);
    }

    #[test]
    fn an_older_version_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let module = dir.path().join(ADDON_NAME);
        fs::create_dir_all(module.join("__pycache__")).unwrap();
        fs::write(module.join("old.py"), "x").unwrap();
        fs::write(module.join("hooks.py"), "x").unwrap();
        write(dir.path()).unwrap();
        write(dir.path()).unwrap();
        assert_eq!(fs::read_dir(&module).unwrap().count(), FILES.len());
        assert!(fs::read(module.join("hooks.py")).unwrap().len() > 1);
        assert_eq!(
            fs::metadata(&module).unwrap().permissions().mode() & 0o777,
            0o755
        );
    }
}
