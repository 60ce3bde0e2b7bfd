//! Context files: a coordinator's address and our certificate for it. One TOML file per context, mode 0600 in a folder of
//! mode 0700, replaced by rename; `current-context` beside them names the one in use. A file that others can read is
//! looked at and imported, never used.
//!
//! Not here: the `context` commands (`nouns::context`).

use std::{
    fmt, fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use isyone_proto::{
    ids::ShortName,
    tls::{self, CertificateInfo},
};
use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Failure};

/// A context file has a few kilobytes; anything larger is something else.
const MAX_FILE_BYTES: u64 = 256 << 10;

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// The local name of the coordinator.
    pub name: String,
    /// `host:port` of the coordinator's gRPC port.
    pub endpoint: String,
    pub ca_pem: String,
    /// Our certificate, with its chain.
    pub certificate_pem: String,
    pub key_pem: String,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context({} at {})", self.name, self.endpoint)
    }
}

impl Context {
    /// Parses a file's text. Errors never quote it: it holds a private key.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Failure> {
        let context: Self = toml::from_str(text).map_err(|e| {
            let line = e
                .span()
                .map(|span| text[..span.start.min(text.len())].lines().count().max(1));
            let at = line
                .map(|line| format!(", line {line}"))
                .unwrap_or_default();
            Failure::usage(format!(
                "{}{at}: not a context file: {}",
                path.display(),
                e.message()
            ))
            .hint("a context file comes from `isy-coordinator init` or `isyctl operator create`")
        })?;
        Ok(context)
    }

    /// Reads a file in order to connect. One whose key others can read is refused, as ssh does it.
    pub fn usable(path: &Path) -> Result<Self, Failure> {
        let (context, exposed) = Self::read(path)?;
        if exposed {
            let shown = path.display();
            return Err(Failure::usage(format!(
                "others can read {shown}, which holds a private key: it is not used"
            ))
            .hint(format!(
                "`chmod 600 {shown}`, or keep a copy of your own: `isyctl context import {shown}`; if somebody may have read it, let an admin revoke it"
            )));
        }
        Ok(context)
    }

    /// Reads a file in order to show or copy it; the flag says whether others can read it too.
    pub fn read(path: &Path) -> Result<(Self, bool), Failure> {
        let failed = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound => Failure::new(
                Exit::NotFound,
                format!("no context file {}", path.display()),
            ),
            _ => Failure::failed(format!("cannot read {}: {e}", path.display())),
        };
        let metadata = fs::metadata(path).map_err(failed)?;
        if metadata.len() > MAX_FILE_BYTES {
            return Err(Failure::usage(format!(
                "{} is too large to be a context file",
                path.display()
            )));
        }
        let text = fs::read_to_string(path).map_err(failed)?;
        Ok((
            Self::parse(&text, path)?,
            metadata.permissions().mode() & 0o077 != 0,
        ))
    }

    pub fn certificate(&self) -> Result<CertificateInfo, tls::TlsError> {
        let chain = tls::certificates("certificate", &self.certificate_pem)?;
        // `certificates` never returns an empty list.
        isyone_proto::tls::certificate_info(&chain[0])
    }

    /// Whether we trust exactly these CAs, and our certificate is of the one that signs. `named` is what the coordinator
    /// says: SHA-256 in hex, separated by commas, the one that signs first. Yes where it cannot be told.
    pub fn keeps_to(&self, named: &str) -> bool {
        let Ok(known) = tls::fingerprints("CA", &self.ca_pem) else {
            return true;
        };
        let named: Vec<&str> = named.split(',').collect();
        let same =
            known.len() == named.len() && named.iter().all(|ca| known.iter().any(|k| k == ca));
        same && tls::is_of(&self.certificate_pem, &self.ca_pem, named[0])
    }

    /// Writes a file of mode 0600 atomically. Fails if it exists already, unless `replace`.
    pub fn write(&self, path: &Path, replace: bool) -> Result<(), Failure> {
        write_private(path, self.text()?.as_bytes(), replace)
    }

    /// What a file of it holds. It is secret: the key is in it.
    pub fn text(&self) -> Result<String, Failure> {
        toml::to_string(self).map_err(|e| Failure::failed(format!("cannot write a context: {e}")))
    }
}

fn write_private(path: &Path, bytes: &[u8], replace: bool) -> Result<(), Failure> {
    let failed = |e: io::Error| {
        let failure = Failure::failed(format!("cannot write {}: {e}", path.display()));
        if e.kind() == io::ErrorKind::AlreadyExists {
            failure.hint("choose another name, or remove it first")
        } else {
            failure
        }
    };
    let directory = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    // tempfile creates files with mode 0600.
    let mut file = tempfile::Builder::new()
        .prefix(".isyctl-")
        .tempfile_in(directory)
        .map_err(failed)?;
    file.write_all(bytes)
        .and_then(|()| file.as_file().sync_all())
        .map_err(failed)?;
    let persisted = if replace {
        file.persist(path)
    } else {
        file.persist_noclobber(path)
    };
    persisted.map_err(|e| failed(e.error))?;
    Ok(())
}

/// The context file to use: a file that was asked for, or what the folder has of that name, or its current one.
pub fn find(asked: Option<&str>) -> Result<PathBuf, Failure> {
    // A file that is named needs no folder: there may be none, as in a container without HOME.
    match asked {
        Some(asked) if is_file(asked) => Ok(PathBuf::from(asked)),
        asked => Store::open()?.resolve(asked),
    }
}

fn is_file(asked: &str) -> bool {
    asked.contains('/') || asked.ends_with(".toml")
}

/// The folder of context files.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// `$ISYCTL_CONFIG_DIR`, else `$XDG_CONFIG_HOME/isyone`, else `~/.config/isyone`.
    pub fn open() -> Result<Self, Failure> {
        let variable = |name: &str| {
            std::env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        let root = variable("ISYCTL_CONFIG_DIR")
            .or_else(|| variable("XDG_CONFIG_HOME").map(|dir| dir.join("isyone")))
            .or_else(|| variable("HOME").map(|dir| dir.join(".config/isyone")));
        root.map(|root| Self { root }).ok_or_else(|| {
            Failure::usage("no folder for contexts: neither ISYCTL_CONFIG_DIR nor HOME is set")
                .hint("set one, or give --context FILE")
        })
    }

    fn folder(&self) -> PathBuf {
        self.root.join("contexts")
    }

    /// The path of the context `name`, whether it exists or not.
    pub fn path(&self, name: &ShortName) -> PathBuf {
        self.folder().join(format!("{name}.toml"))
    }

    /// All names, sorted. A missing folder means no contexts.
    pub fn names(&self) -> Result<Vec<ShortName>, Failure> {
        let entries = match fs::read_dir(self.folder()) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => {
                return Err(Failure::failed(format!(
                    "cannot read {}: {e}",
                    self.folder().display()
                )));
            }
        };
        let mut names: Vec<ShortName> = entries
            .filter_map(Result::ok)
            .filter_map(|entry| {
                entry
                    .file_name()
                    .to_str()?
                    .strip_suffix(".toml")?
                    .parse()
                    .ok()
            })
            .collect();
        names.sort();
        Ok(names)
    }

    /// Stores a context under its name.
    pub fn save(
        &self,
        name: &ShortName,
        context: &Context,
        replace: bool,
    ) -> Result<PathBuf, Failure> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(self.folder())
            // One that was there may be open.
            .and_then(|()| fs::set_permissions(self.folder(), fs::Permissions::from_mode(0o700)))
            .map_err(|e| {
                Failure::failed(format!("cannot make {}: {e}", self.folder().display()))
            })?;
        let path = self.path(name);
        context.write(&path, replace)?;
        Ok(path)
    }

    /// Removes a context together with its key.
    pub fn remove(&self, name: &ShortName) -> Result<(), Failure> {
        fs::remove_file(self.path(name))
            .map_err(|e| Failure::failed(format!("cannot remove the context `{name}`: {e}")))?;
        if self.current()?.as_ref() == Some(name) {
            fs::remove_file(self.current_path())
                .map_err(|e| Failure::failed(format!("cannot forget the current context: {e}")))?;
        }
        Ok(())
    }

    fn current_path(&self) -> PathBuf {
        self.root.join("current-context")
    }

    /// The name chosen with `context use`, if any.
    pub fn current(&self) -> Result<Option<ShortName>, Failure> {
        match fs::read_to_string(self.current_path()) {
            Ok(text) => Ok(text.trim().parse().ok()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Failure::failed(format!(
                "cannot read {}: {e}",
                self.current_path().display()
            ))),
        }
    }

    pub fn choose(&self, name: &ShortName) -> Result<(), Failure> {
        write_private(&self.current_path(), format!("{name}\n").as_bytes(), true)
    }

    /// The file of an existing context, by name.
    pub fn existing(&self, name: &str) -> Result<PathBuf, Failure> {
        let known = || {
            Failure::new(Exit::NotFound, format!("no context `{name}`"))
                .hint("`isyctl context list` shows those there are")
        };
        let path = self.path(&name.parse().map_err(|_| known())?);
        if path.is_file() {
            Ok(path)
        } else {
            Err(known())
        }
    }

    /// The file to use: `asked` (a name or a file), else the current context, else the only one there is.
    pub fn resolve(&self, asked: Option<&str>) -> Result<PathBuf, Failure> {
        if let Some(asked) = asked {
            return if is_file(asked) {
                Ok(PathBuf::from(asked))
            } else {
                self.existing(asked)
            };
        }
        if let Some(current) = self.current()? {
            return self.existing(current.as_str());
        }
        match self.names()?.as_slice() {
            [only] => Ok(self.path(only)),
            [] => Err(Failure::usage("no context: isyctl does not know a coordinator yet")
                .hint("`isyctl context import FILE`, with a file from `isy-coordinator init` or `isyctl operator create`")),
            _ => Err(Failure::usage("several contexts and none is current").hint("`isyctl context use NAME`, or --context NAME")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(name: &str) -> Context {
        Context {
            name: name.into(),
            endpoint: "127.0.0.1:7443".into(),
            ca_pem: "ca".into(),
            certificate_pem: "certificate".into(),
            key_pem: "very secret".into(),
        }
    }

    #[test]
    fn a_context_is_kept_privately_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store {
            root: folder.path().join("isyone"),
        };
        assert!(
            store
                .resolve(None)
                .unwrap_err()
                .message
                .contains("no context")
        );
        let [a, b]: [ShortName; 2] = ["a".parse().unwrap(), "b".parse().unwrap()];
        let path = store.save(&a, &context("a"), false).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(Context::read(&path).unwrap(), (context("a"), false));
        assert_eq!(store.resolve(None).unwrap(), path, "the only one");
        assert!(
            store.save(&a, &context("a"), false).is_err(),
            "never over another"
        );
        store.save(&b, &context("b"), false).unwrap();
        assert!(store.resolve(None).unwrap_err().message.contains("several"));
        store.choose(&b).unwrap();
        assert_eq!(store.resolve(None).unwrap(), store.path(&b));
        assert_eq!(store.resolve(Some("a")).unwrap(), path);
        assert_eq!(
            store.resolve(Some("../a")).unwrap(),
            PathBuf::from("../a"),
            "a file"
        );
        assert_eq!(store.resolve(Some("c")).unwrap_err().exit, Exit::NotFound);
        store.remove(&b).unwrap();
        assert_eq!(store.current().unwrap(), None);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(Context::read(&path).unwrap().1, "others can read it");
        let refused = Context::usable(&path).unwrap_err();
        assert_eq!(refused.exit, Exit::Usage);
        let hint = refused.hint.unwrap();
        assert!(
            hint.contains(&format!("chmod 600 {}", path.display())),
            "{hint}"
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(Context::usable(&path).unwrap(), context("a"));
        let folder = path.parent().unwrap();
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        store.save(&a, &context("a"), true).unwrap();
        let mode = fs::metadata(folder).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn a_broken_file_is_not_quoted() {
        let error = Context::parse(
            "name = \"a\"\nkey_pem = \"very secret\" x",
            Path::new("f.toml"),
        )
        .unwrap_err();
        assert!(error.message.contains("f.toml, line 2"), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
        assert!(!format!("{:?}", context("a")).contains("secret"));
    }
}
