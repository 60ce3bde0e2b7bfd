//! What a request for a command runs: in which container, as whom, with which words. Pure.
//!
//! Nothing runs as root unless the request says so, and the coordinator lets only admins say so. Not here: running it
//! (streams).

use isyone_proto::{
    ids::TenantName,
    pb::v1::{ContainerRole, ExecKind, ExecStart},
    plan::Role,
};

use crate::{
    docker::{ODOO_USER, POSTGRES_USER, ROOT_USER},
    plan::container::Container,
};

/// The better of the shells that an image has.
const SHELL: [&str; 3] = [
    "sh",
    "-c",
    "if command -v bash >/dev/null; then exec bash; else exec sh; fi",
];

/// A command that somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) tenant: TenantName,
    /// Whose container it runs in.
    pub(super) role: Role,
    /// That container's name.
    pub(super) container: String,
    pub(super) words: Vec<String>,
    /// As the container's root.
    pub(super) root: bool,
}

impl Wanted {
    /// Reads a request; an error says what is wrong with it.
    pub(super) fn of(start: &ExecStart) -> Result<Self, String> {
        let name: TenantName = start.name.parse().map_err(|e| format!("tenant name {e}"))?;
        let database = name.database();
        let (role, base): (Role, &[&str]) = match start.kind() {
            ExecKind::Shell => (Role::Odoo, &[]),
            ExecKind::Command => match start.container() {
                ContainerRole::Postgres => (Role::Postgres, &[]),
                ContainerRole::Odoo | ContainerRole::Unspecified => (Role::Odoo, &[]),
            },
            // Database parameters come from odoo.conf, so no password is in the arguments.
            ExecKind::OdooShell => (Role::Odoo, &["odoo", "shell", "-d", &database, "--no-http"]),
            ExecKind::Psql => (Role::Postgres, &["psql", "-U", "odoo", "-d", &database]),
            ExecKind::Unspecified => return Err("the request does not say what to run".to_owned()),
        };
        let base = if base.is_empty() && start.arguments.is_empty() {
            &SHELL
        } else {
            base
        };
        let words = base.iter().map(|word| (*word).to_owned());
        Ok(Self {
            role,
            container: match role {
                Role::Odoo => name.odoo_container(),
                Role::Postgres => name.postgres_container(),
            },
            words: words.chain(start.arguments.iter().cloned()).collect(),
            tenant: name,
            root: start.root && start.kind() == ExecKind::Command,
        })
    }

    /// Whom it runs as: the service's own user. Odoo's image names its user, and an image that names root has one that
    /// Odoo is meant to run as; PostgreSQL's begins as root and steps down.
    pub(super) fn user<'a>(&self, container: &'a Container) -> &'a str {
        match self.role {
            _ if self.root => ROOT_USER,
            Role::Postgres => POSTGRES_USER,
            Role::Odoo if is_root(&container.user) => ODOO_USER,
            Role::Odoo => &container.user,
        }
    }
}

/// Whether `USER` of an image means root: `name`, `name:group`, or numbers; none at all is root.
fn is_root(user: &str) -> bool {
    let name = user.split(':').next().unwrap_or_default();
    name.is_empty() || name == "root" || name.parse() == Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(kind: ExecKind, arguments: &[&str]) -> ExecStart {
        ExecStart {
            name: "alfa".into(),
            kind: kind.into(),
            arguments: arguments.iter().map(|a| (*a).into()).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn commands_run_in_the_right_container() {
        let at = |start: &ExecStart| {
            let wanted = Wanted::of(start).unwrap();
            (wanted.container, wanted.words.join(" "))
        };
        let said = |container: &str, words: &str| (container.to_owned(), words.to_owned());
        assert_eq!(
            at(&start(ExecKind::Psql, &["-c", "select 1"])),
            said("postgres_alfa", "psql -U odoo -d odoo_alfa -c select 1")
        );
        let id = || start(ExecKind::Command, &["id"]);
        assert_eq!(
            at(&start(ExecKind::Shell, &["id"])),
            said("odoo_alfa", "id")
        );
        assert_eq!(at(&id()), said("odoo_alfa", "id"));
        let in_postgres = ExecStart {
            container: ContainerRole::Postgres.into(),
            ..id()
        };
        assert_eq!(at(&in_postgres), said("postgres_alfa", "id"));
        for kind in [ExecKind::Shell, ExecKind::Command] {
            assert_eq!(at(&start(kind, &[])), said("odoo_alfa", &SHELL.join(" ")));
        }
        assert!(Wanted::of(&start(ExecKind::Unspecified, &[])).is_err());
        let bad = ExecStart {
            name: "../x".into(),
            ..start(ExecKind::Psql, &[])
        };
        assert!(Wanted::of(&bad).is_err());
    }

    /// Fails where a command is left to the image's own user, which may be root.
    #[test]
    fn nothing_runs_as_root_that_was_not_asked_for_as_root() {
        let image = |user: &str| Container {
            user: user.to_owned(),
            ..Container::default()
        };
        for (user, expected) in [
            ("odoo", "odoo"),
            ("101", "101"),
            ("odoo:odoo", "odoo:odoo"),
            ("", "odoo"),
            ("root", "odoo"),
            ("0:101", "odoo"),
            ("00", "odoo"),
            ("root:odoo", "odoo"),
        ] {
            for kind in [ExecKind::Shell, ExecKind::OdooShell, ExecKind::Command] {
                let wanted = Wanted::of(&start(kind, &["x"])).unwrap();
                assert_eq!(wanted.user(&image(user)), expected, "{user:?} {kind:?}");
            }
            let psql = Wanted::of(&start(ExecKind::Psql, &[])).unwrap();
            assert_eq!(psql.user(&image(user)), "postgres");
        }
        let as_root = |kind| ExecStart {
            root: true,
            ..start(kind, &["id"])
        };
        let wanted = Wanted::of(&as_root(ExecKind::Command)).unwrap();
        assert_eq!(wanted.user(&image("odoo")), ROOT_USER);
        for kind in [ExecKind::Shell, ExecKind::OdooShell, ExecKind::Psql] {
            assert!(!Wanted::of(&as_root(kind)).unwrap().root, "{kind:?}");
        }
    }
}
