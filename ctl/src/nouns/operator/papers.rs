//! Files for a certificate and its key, reserved before the coordinator is asked for one: the key lies in a file of mode 0600
//! before there is anything that it opens, and a folder that cannot be written to is found out in time.
//!
//! Not here: what a context file holds (`context`).

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use isyone_proto::tls;
use tempfile::NamedTempFile;

use crate::{client::Client, context::Context, exit::Failure};

/// Which files somebody gets.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// A context file for isyctl.
    Context(PathBuf),
    /// `ca.pem`, `NAME.key` and `NAME.pem` in a directory, as Prometheus reads them.
    Pems(PathBuf, String),
}

impl Place {
    /// What `--out` and `--pem` say; else `NAME.toml` here.
    pub(super) fn of(out: Option<PathBuf>, pem: Option<PathBuf>, name: &str) -> Self {
        match (out, pem) {
            (Some(file), _) => Self::Context(file),
            (None, Some(dir)) => Self::Pems(dir, name.to_owned()),
            (None, None) => Self::Context(PathBuf::from(format!("{name}.toml"))),
        }
    }

    /// The file with the certificate.
    pub(super) fn certificate(&self) -> PathBuf {
        match self {
            Self::Context(file) => file.clone(),
            Self::Pems(dir, name) => dir.join(format!("{name}.pem")),
        }
    }

    /// Each file with its content, in the order in which they are put in place: Prometheus reads them at any time.
    fn contents(&self, context: &Context) -> Result<Vec<(PathBuf, String)>, Failure> {
        Ok(match self {
            Self::Context(file) => vec![(file.clone(), context.text()?)],
            Self::Pems(dir, name) => vec![
                (dir.join(CA), context.ca_pem.clone()),
                (dir.join(format!("{name}.key")), context.key_pem.clone()),
                (self.certificate(), context.certificate_pem.clone()),
            ],
        })
    }
}

/// It may be there already: other operators' files lie beside it.
const CA: &str = "ca.pem";

/// Reserved files. What was made for them goes unless they are filled.
#[derive(Debug)]
pub(super) struct Papers {
    place: Place,
    /// One for each file, beside it.
    spares: Vec<NamedTempFile>,
    /// Files that were not there before.
    made: Vec<PathBuf>,
}

impl Papers {
    /// Makes the files with what is there so far: the key. Fails if one is there already, unless they are to be replaced;
    /// then they stay as they are until the end.
    pub(super) fn reserve(place: Place, draft: &Context, replace: bool) -> Result<Self, Failure> {
        if let Place::Pems(dir, _) = &place {
            fs::create_dir_all(dir).map_err(|e| failed(dir, &e))?;
        }
        let mut papers = Self {
            spares: Vec::new(),
            made: Vec::new(),
            place,
        };
        for (path, content) in papers.place.contents(draft)? {
            papers.spares.push(spare(&path)?);
            if !replace && !path.ends_with(CA) {
                papers.make(&path, &content)?;
            }
        }
        Ok(papers)
    }

    fn make(&mut self, path: &Path, content: &str) -> Result<(), Failure> {
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(path);
        let mut file = file.map_err(|e| failed(path, &e))?;
        self.made.push(path.to_owned());
        file.write_all(content.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(|e| failed(path, &e))
    }

    /// Puts the whole content in place, each file by a rename.
    pub(super) fn fill(mut self, context: &Context) -> Result<Place, Failure> {
        let contents = self.place.contents(context)?;
        for ((path, content), mut spare) in contents.into_iter().zip(self.spares.drain(..)) {
            spare
                .write_all(content.as_bytes())
                .and_then(|()| spare.as_file().sync_all())
                .and_then(|()| spare.persist(&path).map_err(|e| e.error))
                .map_err(|e| not_written(&path, &e))?;
        }
        self.made.clear();
        Ok(self.place.clone())
    }
}

impl Drop for Papers {
    fn drop(&mut self) {
        for path in &self.made {
            // Only a key that opens nothing is left if this fails.
            let _ = fs::remove_file(path);
        }
    }
}

/// A file beside the one that it will replace. tempfile gives it mode 0600.
fn spare(path: &Path) -> Result<NamedTempFile, Failure> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    let made = tempfile::Builder::new()
        .prefix(".isyctl-")
        .tempfile_in(parent.unwrap_or(Path::new(".")));
    made.map_err(|e| failed(path, &e))
}

/// Why a file cannot be reserved.
fn failed(path: &Path, error: &io::Error) -> Failure {
    let shown = path.display();
    match error.kind() {
        io::ErrorKind::AlreadyExists => Failure::failed(format!("{shown} exists already"))
            .hint("choose another with --out, or remove it first"),
        _ => not_written(path, error).hint(
            "nothing was asked for; choose a folder that can be written to, with --out or --pem",
        ),
    }
}

fn not_written(path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("cannot write {}: {error}", path.display()))
}

/// A new key and a request for a certificate, PEM.
pub(super) fn new_key(name: &str) -> Result<(String, String), Failure> {
    tls::new_key_and_csr(name)
        .map_err(|e| Failure::failed(format!("cannot make a key: {}", tls::error_chain(&e))))
}

/// A context that has no certificate yet.
pub(super) fn draft(client: &Client, name: &str, key_pem: String) -> Context {
    Context {
        name: name.to_owned(),
        endpoint: client.context().endpoint.clone(),
        ca_pem: client.context().ca_pem.clone(),
        certificate_pem: String::new(),
        key_pem,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn context(certificate: &str) -> Context {
        Context {
            name: "ana".into(),
            endpoint: "c:7443".into(),
            ca_pem: "ca".into(),
            certificate_pem: certificate.into(),
            key_pem: "key".into(),
        }
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<String> = entries
            .map(|entry| name(entry).to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_key_is_there_first_and_what_is_not_filled_goes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ana.toml");
        let place = || Place::Context(file.clone());
        let papers = Papers::reserve(place(), &context(""), false).unwrap();
        let (draft, _) = Context::read(&file).unwrap();
        assert_eq!(
            (draft.key_pem.as_str(), draft.certificate_pem.as_str()),
            ("key", "")
        );
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(papers);
        assert_eq!(names(dir.path()), Vec::<String>::new());
        let papers = Papers::reserve(place(), &context(""), false).unwrap();
        papers.fill(&context("certificate")).unwrap();
        assert_eq!(names(dir.path()), ["ana.toml"]);
        assert_eq!(
            Context::read(&file).unwrap(),
            (context("certificate"), false)
        );
        // Never over another file, but where that is wanted; and that one stays until the end.
        let refused = Papers::reserve(place(), &context(""), false).unwrap_err();
        assert!(refused.message.contains("exists already"), "{refused}");
        drop(Papers::reserve(place(), &context(""), true).unwrap());
        assert_eq!(Context::read(&file).unwrap().0, context("certificate"));
    }

    #[test]
    fn files_for_prometheus_are_there_all_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let pems = dir.path().join("isyone");
        let place = || Place::Pems(pems.clone(), "prom".into());
        fs::create_dir(&pems).unwrap();
        fs::write(pems.join("prom.pem"), "another").unwrap();
        Papers::reserve(place(), &context(""), false).unwrap_err();
        assert_eq!(names(&pems), ["prom.pem"]);
        fs::remove_file(pems.join("prom.pem")).unwrap();
        let papers = Papers::reserve(place(), &context(""), false).unwrap();
        papers.fill(&context("certificate")).unwrap();
        assert_eq!(names(&pems), ["ca.pem", "prom.key", "prom.pem"]);
    }

    #[test]
    fn a_folder_that_is_not_there_is_found_out_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::Context(dir.path().join("none/ana.toml"));
        let refused = Papers::reserve(place, &context(""), false).unwrap_err();
        assert!(refused.message.contains("cannot write"), "{refused}");
        assert!(refused.hint.unwrap().contains("nothing was asked for"));
    }
}
