//! What the stack must know of an image: its user's uid and gid, whether it is a stand-in, the `addons_path` in its own
//! odoo.conf. Read once per image and cached on disk.
//!
//! Not here: pulling (tenant::execute).

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use isyone_proto::plan::Role;
use tokio::time::Instant;

use crate::{
    base::fsutil,
    docker::{Docker, Image, Result},
    plan::{container::LABEL_STANDIN, design, facts::ImageFacts},
};

/// Most images in the cache; beyond that it is cleared (upgrades over years).
const MAX_REMEMBERED: usize = 200;

/// An image seen within this time is not looked up again: hundreds of tenants run the same two.
const FRESH: Duration = Duration::from_secs(2);

const PASSWD: &str = "/etc/passwd";
const ODOO_CONF: &str = "/etc/odoo/odoo.conf";
/// Where Debian's Odoo package keeps its version; the official image is built from that package.
const RELEASE: &str = "/usr/lib/python3/dist-packages/odoo/release.py";
/// From this major version on, a separate module of Odoo serves XML-RPC and JSON-RPC.
const RPC_SINCE: u32 = 19;

/// Reads facts of images and caches them.
pub struct ImageCache {
    docker: Arc<dyn Docker>,
    path: PathBuf,
    known: Mutex<BTreeMap<String, ImageFacts>>,
    /// Images found recently, by reference.
    seen: Mutex<HashMap<String, (Instant, Image)>>,
}

impl ImageCache {
    /// Caches in the file `path`; an unreadable file is only a cache miss.
    pub fn new(docker: Arc<dyn Docker>, path: PathBuf) -> Self {
        let known = fsutil::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Self {
            docker,
            path,
            known: Mutex::new(known),
            seen: Mutex::default(),
        }
    }

    async fn image(&self, reference: &str) -> Result<Option<Image>> {
        let seen = || self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, image)) = seen().get(reference).filter(|(at, _)| at.elapsed() < FRESH) {
            return Ok(Some(image.clone()));
        }
        let found = self.docker.image(reference).await?;
        let mut seen = seen();
        seen.retain(|_, (at, _)| at.elapsed() < FRESH);
        if let Some(image) = &found {
            seen.insert(reference.to_owned(), (Instant::now(), image.clone()));
        }
        Ok(found)
    }

    /// Facts of the local image called `reference`, used in `role`; `None` when there is no such image.
    pub async fn facts(&self, reference: &str, role: Role) -> Result<Option<ImageFacts>> {
        let Some(image) = self.image(reference).await? else {
            return Ok(None);
        };
        let key = format!("{} {role:?}", image.id);
        let known = self
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&key)
            .cloned();
        let whole = |facts: &ImageFacts| match role {
            Role::Postgres => facts.pgdata.is_some(),
            Role::Odoo => facts.odoo_major.is_some(),
        };
        if let Some(mut facts) = known.filter(whole) {
            facts.digest = image.digest; // a later pull may have given it one
            return Ok(Some(facts));
        }
        let files = self
            .docker
            .image_files(&image.id, &[PASSWD, ODOO_CONF, RELEASE])
            .await?;
        let facts = read_facts(&image, &files, role);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_REMEMBERED {
            known.clear();
        }
        known.insert(key, facts.clone());
        if let Ok(bytes) = serde_json::to_vec(&*known) {
            // Only a cache: failing to save it costs a little time at the next start.
            let _ = fsutil::write_atomic(&self.path, &bytes, 0o600, false);
        }
        Ok(Some(facts))
    }
}

fn read_facts(image: &Image, files: &HashMap<String, Vec<u8>>, role: Role) -> ImageFacts {
    let text = |path: &str| {
        files
            .get(path)
            .map(|b| String::from_utf8_lossy(b).into_owned())
            .unwrap_or_default()
    };
    // PostgreSQL's image starts as root and drops to its user by itself.
    let user = if role == Role::Postgres {
        "postgres"
    } else {
        image.user.as_str()
    };
    let (uid, gid) = user_numbers(user, &text(PASSWD));
    let variable = |name: &str| {
        let mut all = image.env.iter().filter_map(|e| e.split_once('='));
        all.find_map(|(key, value)| (key == name).then(|| value.to_owned()))
    };
    let postgres_major = variable("PG_MAJOR").unwrap_or_default();
    let pgdata = variable("PGDATA").filter(|place| !place.contains(char::is_control));
    let pgdata = pgdata.unwrap_or_else(|| design::default_pgdata(&postgres_major));
    let odoo_major = odoo_major(&text(RELEASE));
    ImageFacts {
        id: image.id.clone(),
        digest: image.digest.clone(),
        standin: image.labels.get(LABEL_STANDIN).is_some_and(|v| v == "1"),
        uid,
        gid,
        addons_path: conf_value(&text(ODOO_CONF), "addons_path"),
        server_wide_modules: conf_value(&text(ODOO_CONF), "server_wide_modules")
            .unwrap_or_else(|| server_wide_modules(odoo_major).to_owned()),
        pgdata: (role == Role::Postgres).then_some(pgdata),
        odoo_major: (role == Role::Odoo).then_some(odoo_major),
        postgres_major,
    }
}

/// Resolves `user`, `user:group`, or numbers; root when the image names no user that is in its passwd.
fn user_numbers(user: &str, passwd: &str) -> (u32, u32) {
    let (name, group) = user.split_once(':').unwrap_or((user, ""));
    let entry = passwd
        .lines()
        .map(|l| l.split(':').collect::<Vec<_>>())
        .find(|f| f.len() > 3 && (f[0] == name || f[2] == name));
    let number = |at: usize| entry.as_ref().and_then(|f| f[at].parse().ok());
    let uid = name.parse().ok().or_else(|| number(2)).unwrap_or(0);
    let gid = group.parse().ok().or_else(|| number(3)).unwrap_or(0);
    (uid, gid)
}

/// Parses `version_info = (18, 0, 0, FINAL, 0, '')`; 0 when it is not there.
fn odoo_major(release: &str) -> u32 {
    let line = release
        .lines()
        .find_map(|l| l.strip_prefix("version_info = ("));
    line.and_then(|l| l.split(',').next()?.trim().parse().ok())
        .unwrap_or(0)
}

fn server_wide_modules(major: u32) -> &'static str {
    if major >= RPC_SINCE {
        "base,rpc,web"
    } else {
        "base,web"
    }
}

fn conf_value(conf: &str, key: &str) -> Option<String> {
    conf.lines().find_map(|line| {
        let (found, value) = line.split_once('=')?;
        (found.trim() == key && !value.trim().is_empty()).then(|| value.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD_TEXT: &str = "root:x:0:0::/root:/bin/sh\nodoo:x:100:101::/var/lib/odoo:/bin/sh\npostgres:x:999:998::/:/bin/sh\n";

    #[test]
    fn numbers_come_from_the_image() {
        assert_eq!(user_numbers("odoo", PASSWD_TEXT), (100, 101));
        assert_eq!(user_numbers("100", PASSWD_TEXT), (100, 101));
        assert_eq!(user_numbers("5:6", PASSWD_TEXT), (5, 6));
        assert_eq!(user_numbers("", PASSWD_TEXT), (0, 0));
        assert_eq!(user_numbers("nobody", ""), (0, 0));
    }

    #[test]
    fn what_odoo_loads_by_itself_follows_its_version() {
        let release = |major: u32| {
            format!(
                "RELEASE_LEVELS = []\n# version_info format\nversion_info = ({major}, 0, 0, FINAL, 0, '')\n"
            )
        };
        assert_eq!(server_wide_modules(odoo_major(&release(18))), "base,web");
        assert_eq!(
            server_wide_modules(odoo_major(&release(19))),
            "base,rpc,web"
        );
        assert_eq!(odoo_major(""), 0);
    }

    #[test]
    fn facts_of_an_official_looking_image() {
        let image = Image {
            user: "odoo".into(),
            env: vec!["PG_MAJOR=15".into()],
            ..Default::default()
        };
        let files = HashMap::from([
            (PASSWD.to_owned(), PASSWD_TEXT.into()),
            (
                ODOO_CONF.to_owned(),
                b"[options]\naddons_path = /mnt/extra-addons\n".to_vec(),
            ),
        ]);
        let facts = read_facts(&image, &files, Role::Odoo);
        assert_eq!(
            (facts.uid, facts.addons_path.as_deref(), facts.standin),
            (100, Some("/mnt/extra-addons"), false)
        );
        let facts = read_facts(&image, &files, Role::Postgres);
        assert_eq!(
            (facts.uid, facts.gid, facts.postgres_major.as_str()),
            (999, 998, "15")
        );
        assert_eq!(facts.pgdata.as_deref(), Some("/var/lib/postgresql/data"));
        for (env, place) in [
            ("PG_MAJOR=18", "/var/lib/postgresql/18/docker"),
            ("PGDATA=/data/pg", "/data/pg"),
        ] {
            let image = Image {
                env: vec![env.into()],
                ..Default::default()
            };
            let facts = read_facts(&image, &files, Role::Postgres);
            assert_eq!(facts.pgdata.as_deref(), Some(place));
        }
    }
}
