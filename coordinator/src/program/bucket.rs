//! `isy-coordinator bucket …`, and buckets that a command line names.
//!
//! Not here: copying (repositories::buckets).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use isyone_bucket::{Access, Bucket, Patience, Removals};
use isyone_proto::ids::ShortName;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Run, effective, runtime};
use crate::base::{
    config::{Config, read_key},
    files,
};

/// A file of nobody's, below the prefix.
const TRIAL: &str = "isyone-check";
/// Larger files are none of a repository's.
const MOST_BYTES: u64 = 64 << 20;
/// Damaged files that are named; the rest is counted.
const NAMED: usize = 100;

/// A bucket in place of a directory.
#[derive(Args)]
pub(super) struct At {
    /// A bucket in place of a directory: https://SERVER/BUCKET/PREFIX.
    #[arg(long, value_name = "URL", requires_all = ["access_key_file", "secret_key_file"])]
    from_bucket: Option<String>,
    /// The region that its requests are signed for.
    #[arg(long, value_name = "NAME", default_value = "us-east-1")]
    region: String,
    /// A file with its access key, mode 0600.
    #[arg(long, value_name = "FILE", requires = "from_bucket")]
    access_key_file: Option<PathBuf>,
    /// A file with its secret key, mode 0600.
    #[arg(long, value_name = "FILE", requires = "from_bucket")]
    secret_key_file: Option<PathBuf>,
}

/// Server, bucket and prefix of a URL.
fn parts(url: &str) -> Option<(&str, &str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let (server, path) = rest.trim_end_matches('/').split_once('/')?;
    let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
    let is_one = matches!(scheme, "http" | "https") && !server.is_empty() && !bucket.is_empty();
    let endpoint = &url[..scheme.len() + 3 + server.len()];
    is_one.then_some((endpoint, bucket, prefix))
}

impl At {
    /// The bucket, which answers.
    pub(super) fn open(&self, runtime: &Handle) -> Result<Bucket> {
        let url = self.from_bucket.as_deref().unwrap_or_default();
        let Some((endpoint, bucket, prefix)) = parts(url) else {
            bail!("--from-bucket: {url:?} is no bucket: https://SERVER/BUCKET/PREFIX");
        };
        let key = |file: &Option<PathBuf>, option| {
            read_key(file.as_deref().unwrap_or(Path::new("")), option)
        };
        let access = Access {
            endpoint: endpoint.to_owned(),
            bucket: bucket.to_owned(),
            region: self.region.clone(),
            prefix: prefix.to_owned(),
            access_key: key(&self.access_key_file, "--access-key-file")?,
            secret_key: key(&self.secret_key_file, "--secret-key-file")?,
        };
        open(&access, runtime)
    }

    /// Puts the keys where the configuration that was shipped looks for those of this bucket, unless some are there. The machine that
    /// had them is lost.
    pub(super) fn lay(&self, config: &mut Config) -> Result<()> {
        let Some(here) = self.from_bucket.as_deref().and_then(parts) else {
            return Ok(());
        };
        let data_dir = config.data_dir.clone();
        for (name, bucket) in &mut config.backup.buckets {
            if bucket.place() != here {
                continue;
            }
            for (file, given, kind) in [
                (&mut bucket.access_key_file, &self.access_key_file, "access"),
                (&mut bucket.secret_key_file, &self.secret_key_file, "secret"),
            ] {
                let given = given.as_deref().unwrap_or(Path::new(""));
                if data_dir.join(&*file).exists() {
                    continue;
                }
                let key = read_key(given, kind)?;
                *file = PathBuf::from(format!("bucket-{name}.{kind}"));
                let path = data_dir.join(&*file);
                files::replace(&path, key.as_bytes(), 0o600)
                    .with_context(|| path.display().to_string())?;
                println!("bucket's key    {}", path.display());
            }
        }
        Ok(())
    }
}

fn open(access: &Access, runtime: &Handle) -> Result<Bucket> {
    let stop = CancellationToken::new();
    let bucket = Bucket::new(access, Patience::default(), runtime.clone(), stop)?;
    bucket.check().with_context(|| access.place())?;
    Ok(bucket)
}

/// `isy-coordinator bucket …`.
#[derive(Subcommand)]
pub(super) enum Order {
    /// Whether it answers and takes our key, and what becomes of what is removed there: a file of some bytes is put, read and removed.
    ///
    /// Example: isy-coordinator bucket check far --data-dir /var/lib/isyone
    Check(Named),
    /// Read every file of tenants' repositories in it and compare it with its name, which is the hash of its content. Needs no tenant's
    /// key, changes nothing, and fetches everything: servers may charge for that. Exit code 1 when something is damaged.
    ///
    /// Example: isy-coordinator bucket verify far --tenant 0192e4a0-0000-7000-8000-000000000001
    Verify(Verify),
}

#[derive(Args)]
pub(super) struct Named {
    /// Its name in [backup.buckets].
    name: ShortName,
    #[command(flatten)]
    run: Run,
}

#[derive(Args)]
pub(super) struct Verify {
    #[command(flatten)]
    named: Named,
    /// Only of the tenant with this uid.
    #[arg(long, value_name = "UID")]
    tenant: Option<Uuid>,
}

impl Named {
    fn open(&self, runtime: &Handle) -> Result<Bucket> {
        let config = effective(&self.run)?;
        let Some(bucket) = config.backup.buckets.get(&self.name) else {
            let all: Vec<_> = config
                .backup
                .buckets
                .keys()
                .map(ShortName::as_str)
                .collect();
            bail!(
                "`{}` is not one of [backup.buckets]: {}",
                self.name,
                all.join(", ")
            );
        };
        open(&bucket.access(&self.name, &config.data_dir)?, runtime)
    }
}

/// Carries it out.
pub(super) fn run(order: &Order) -> Result<ExitCode> {
    let runtime = runtime()?;
    match order {
        Order::Check(named) => {
            let bucket = named.open(runtime.handle())?;
            println!("{} answers and takes the key", bucket.place());
            let tried = bucket.try_out(TRIAL);
            let removals = tried.with_context(|| bucket.place().to_owned())?;
            println!("removals  {}", said(removals));
            Ok(ExitCode::SUCCESS)
        }
        Order::Verify(asked) => verify(&asked.named.open(runtime.handle())?, asked.tenant),
    }
}

/// What becomes of what is removed, and what that means for pruning and for tenants that are deleted.
fn said(removals: Removals) -> &'static str {
    match removals {
        Removals::Final => {
            "are final: what is pruned here goes there, and so does what a deleted tenant leaves"
        }
        Removals::Hidden => {
            "hide a file, and this key can remove it for good: the coordinator only hides, a lifecycle rule must remove what is hidden (docs/operations.md#copies-in-buckets)"
        }
        Removals::Kept => {
            "hide a file, which is kept: by an object lock, or because this key may not remove versions. Until it goes there, old keys of tenants that were deleted are kept as well (docs/operations.md#copies-in-buckets)"
        }
        Removals::Refused => {
            "are refused: nothing that is pruned here or that a deleted tenant leaves goes there; it grows until you remove what is old with another key (docs/operations.md#copies-in-buckets)"
        }
    }
}

#[derive(Default)]
struct Found {
    files: u64,
    bytes: u64,
    damaged: u64,
}

/// The name that a file's content must have, and whose it is; `None`: it is none of a repository's.
fn named(key: &str) -> Option<(Uuid, &str)> {
    let (tenant, path) = key.split_once('/')?;
    let name = path.rsplit('/').next()?;
    let is_hash = name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
    is_hash.then_some((tenant.parse().ok()?, name))
}

fn verify(bucket: &Bucket, tenant: Option<Uuid>) -> Result<ExitCode> {
    let folder = tenant.map(|tenant| format!("{tenant}/"));
    let listed = bucket.list(folder.as_deref().unwrap_or_default())?;
    let mut found: BTreeMap<Uuid, Found> = BTreeMap::new();
    let mut damaged = 0;
    for object in listed {
        let Some((tenant, name)) = named(&object.key) else {
            continue;
        };
        let content = bucket.get(&object.key, MOST_BYTES)?;
        let of = found.entry(tenant).or_default();
        (of.files, of.bytes) = (of.files + 1, of.bytes + object.bytes);
        if hex::encode(Sha256::digest(&content)) != name {
            of.damaged += 1;
            damaged += 1;
            if damaged <= NAMED {
                println!("damaged  {}", object.key);
            }
        }
    }
    for (tenant, of) in &found {
        let Found {
            files,
            bytes,
            damaged,
        } = of;
        println!("{tenant}  {files} files  {bytes} bytes  {damaged} damaged");
    }
    Ok(match damaged {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_read_from_its_address() {
        let server = "https://s3.example.com:9000";
        assert_eq!(
            parts("https://s3.example.com:9000/b"),
            Some((server, "b", ""))
        );
        assert_eq!(
            parts("https://s3.example.com:9000/b/a/c/"),
            Some((server, "b", "a/c"))
        );
        for wrong in [
            "",
            "s3://b/p",
            "https://s3.example.com",
            "https:///b",
            "b/p",
        ] {
            assert_eq!(parts(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_what_has_its_hash_for_a_name_is_compared() {
        let (uid, hash) = (Uuid::from_u128(7), "ab".repeat(32));
        let key = format!("{uid}/data/ab/{hash}");
        assert_eq!(named(&key), Some((uid, &*hash)));
        for other in [
            format!("{uid}/config"),
            format!("coordinator/{hash}"),
            hash.clone(),
        ] {
            assert_eq!(named(&other), None, "{other}");
        }
    }
}
