//! Why going on with a tenant would do harm or cannot work, as data for an operator.
//!
//! Not here: errors while carrying actions out (tenant).

use isyone_proto::{
    ids::{HostName, TenantName},
    plan::Role,
};
use uuid::Uuid;

use crate::plan::{
    container::LABEL_UID,
    lease::{Lapse, Wait},
};

/// A person must act. The agent keeps retrying all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Blocked {
    /// The order to purge comes from a coordinator whose database was set back.
    #[error(
        "the order to purge has generation {ordered}, but this tenant was wanted under generation {wanted} since: was an old database of the coordinator restored? Its volumes are kept"
    )]
    OldOrder {
        /// Generation of the plan that orders the purge.
        ordered: u64,
        /// Highest generation that wanted the tenant.
        wanted: u64,
    },
    /// The volume of that name has another tenant's label, or none.
    #[error(
        "volume {volume} belongs to another tenant (label {LABEL_UID}={owner}, this tenant is {tenant}); purge that one first, or move its volume away"
    )]
    ForeignVolume {
        /// Name of the volume.
        volume: String,
        owner: String,
        /// Uid of this tenant.
        tenant: Uuid,
    },
    /// The container of that name does not have our label.
    #[error(
        "container {0} is somebody else's (it has no label {LABEL_UID}) and is left alone; rename or remove it"
    )]
    ForeignContainer(String),
    /// The tenant has data, but its volume is gone.
    #[error(
        "volume {0} is gone, and with it this tenant's data; nothing new is put in its place. Restore it from a backup, or delete the tenant"
    )]
    VolumeGone(String),
    /// The tenant has data, but the directory that its volume is a record of is gone.
    #[error(
        "directory {0} is not there, and it holds this tenant's data; nothing new is put in its place. Mount its disk, put the directory \
         back, or delete the tenant"
    )]
    DirectoryGone(String),
    /// The tenant has data, but nothing is in PostgreSQL's directory: its image would begin a new cluster there.
    #[error(
        "directory {0} is empty, and it held this tenant's data; nothing new is put in its place. Mount its disk, put the data back, or \
         delete the tenant"
    )]
    DirectoryEmpty(String),
    /// Files of one role lie in two places.
    #[error(
        "both {ours} and Docker's own {dockers} hold files of this tenant, and which are its data is not known; nothing starts on either. \
         Look into both, and empty the one that is wrong"
    )]
    TwoPlaces {
        /// Directory in the tenant's home.
        ours: String,
        /// Directory that Docker keeps for the volume.
        dockers: String,
    },
    /// Another tenant's data is where this one's would be.
    #[error(
        "directory {directory} belongs to another tenant (its `owner` is {owner}, this tenant is {tenant}) and is left alone; move it away"
    )]
    ForeignHome {
        directory: String,
        owner: String,
        /// Uid of this tenant.
        tenant: Uuid,
    },
    /// PostgreSQL cannot open data of another major version.
    #[error(
        "this tenant's data is PostgreSQL {data}'s, and the image is PostgreSQL {image}: it cannot open it. Go back to an image of \
         version {data}; to change the version, restore a dump into a new tenant"
    )]
    OtherMajor {
        /// Version of the data.
        data: String,
        /// Version of the image.
        image: String,
    },
    /// A PostgreSQL that keeps its data elsewhere would begin with none.
    #[error(
        "this tenant's PostgreSQL keeps its data in {data}, and the image in {image}: it would begin with an empty database. Take an image \
         whose PGDATA is {data}"
    )]
    OtherPgdata {
        /// `PGDATA` of the data.
        data: String,
        /// `PGDATA` of the image.
        image: String,
    },
    /// The very image that the tenant has is gone, here and at its registry.
    #[error(
        "image {had}, which this tenant has as {reference}, is not on this host any more and cannot be had ({why}); {}. Put it back \
         (`docker load`), or accept what {reference} means now: `isyctl tenant upgrade {tenant} {} {reference}`",
        meaning(.reference, .means.as_deref()), option(*.role)
    )]
    ImageGone {
        tenant: TenantName,
        role: Role,
        /// The reference in the plan.
        reference: String,
        /// Id of the image that it has.
        had: String,
        /// Id of the image of that name that is here now.
        means: Option<String>,
        /// What the registry or the engine says.
        why: String,
    },
    /// Another major version of Odoo does not open a database as it is: its modules have to be migrated.
    #[error(
        "this tenant's database is Odoo {data}'s, and the image is Odoo {image}: its modules would have to be migrated, which an upgrade \
         within an edition does not do. Name an image of Odoo {data}"
    )]
    OtherOdoo {
        /// Version of the image that it has had.
        data: u32,
        /// Version of the image.
        image: u32,
    },
    /// An Odoo that is another user cannot write the files that are there.
    #[error(
        "this tenant's files belong to user {data}, and the image's Odoo is user {image}: it could not write them. Build the image with \
         user {data}, as the one that it has"
    )]
    OtherUser {
        /// Uid in the image that it has had.
        data: u32,
        /// Uid in the image.
        image: u32,
    },
    /// A job has not finished copying the data, so starting would show a part of it as the whole.
    #[error(
        "the copy of this tenant's data is not complete, and nothing starts on half of it; let its job finish, or purge this copy"
    )]
    HalfCopy,
    /// The data is to come from another host, and nothing has come.
    #[error(
        "this tenant's data is to come from host {0} and has not been fetched; nothing new is put in its place"
    )]
    NotCopied(HostName),
    /// The volumes are here, but not the record that says whether they are complete.
    #[error(
        "whether the copy of this tenant's data is complete is not known (its state.json is lost, or of another version), so it is neither \
         started nor written; purge this copy, as a move does that is given up, and make it anew"
    )]
    DoubtfulCopy,
    /// An order that only a coordinator gives which does not know where the tenant has lived since.
    #[error(
        "this tenant has lived here, and this host was never told that it lives elsewhere; its data is kept and would otherwise {instead}. Was an \
         old database of the coordinator restored? This is then the newest data: copy it before anything else"
    )]
    LivesHere {
        /// What the order would do with the data.
        instead: String,
    },
    /// The data is to come from a backup.
    #[error(
        "this tenant's data is to come from a backup (restore {0}) and has not come; nothing new is put in its place"
    )]
    FromBackup(Uuid),
    /// Its data is not in its home, so it cannot be set aside for a restore.
    #[error(
        "this tenant's data does not lie in its own directory on this host, so it cannot be set aside; restore it under another name"
    )]
    NotAtHome,
    /// What an earlier restore has set aside is still there.
    #[error(
        "what this tenant was before restore {0} is still kept in its directory on this host (`before-{0}`): it is not restored in its \
         place again while that is there"
    )]
    KeepsAnother(Uuid),
    /// What the tenant is to return to is not there.
    #[error(
        "what this tenant was before restore {0} is not in its directory on this host (`before-{0}`) any more: there is nothing to \
         return to, and nothing is changed"
    )]
    AsideGone(Uuid),
    /// What was asked for at creation is not in the tenant's images.
    #[error("{0}. Create the tenant again with what its image has: nothing of this one has run")]
    Unfit(String),
    /// Something else of the host has the addresses of the tenant's network.
    #[error(
        "interface {interface} of this host has addresses of this tenant's network {network}, and is no network of Docker's: packets for the \
         tenant would go there. Remove it (`ip link delete {interface}`), or delete the tenant and create it again: it gets another \
         network"
    )]
    NetworkTaken {
        network: ipnet::Ipv4Net,
        interface: String,
    },
    /// What works must not be stopped for a restart or a change.
    #[error(
        "{0}; nothing that works is stopped for a restart or a change until there is room, because it might not start again"
    )]
    HostFull(String),
    /// What another host may run by now is not started before somebody has said that it does not.
    #[error(
        "this machine has started anew, and this tenant has a standby, which may have taken over meanwhile: it starts as soon as the \
         coordinator says that it lives here still"
    )]
    Unasked,
    /// Another host may run it by now, or soon.
    #[error("{}", lapsed(.0))]
    Lapsed(Lapse),
    /// Another host may run it still.
    #[error("{}", waits(.0))]
    Waits(Wait),
    /// This host takes no new tenants now, for the given reason.
    #[error("{0}")]
    HostClosed(String),
}

fn lapsed(lapse: &Lapse) -> String {
    let (host, seconds) = (&lapse.renewer, lapse.for_ms / 1_000);
    match lapse.was_granted {
        true => format!(
            "its lease is over: neither the coordinator nor host {host} was reached for {seconds} s; it goes on when one of them is"
        ),
        false => format!(
            "it has no lease on this host yet: it starts as soon as the coordinator or host {host} lets it"
        ),
    }
}

fn waits(wait: &Wait) -> String {
    let seconds = wait.left_ms.div_ceil(1_000);
    let from = match &wait.from {
        Some(host) => format!("host {host}"),
        None => "the host on which it lived".to_owned(),
    };
    format!("waits {seconds} s until {from} must have stopped it")
}

fn meaning(reference: &str, means: Option<&str>) -> String {
    match means {
        Some(id) => format!("{reference} is {id} here now, which nobody has asked for"),
        None => format!("there is no other {reference} here either"),
    }
}

/// The option that names a role's image.
fn option(role: Role) -> &'static str {
    match role {
        Role::Odoo => "--odoo-image",
        Role::Postgres => "--postgres-image",
    }
}

impl Blocked {
    /// Whether a person must act first: neither time nor a job ends it.
    pub fn is_for_good(&self) -> bool {
        match self {
            Self::HostClosed(_)
            | Self::HostFull(_)
            | Self::HalfCopy
            | Self::NotCopied(_)
            | Self::FromBackup(_)
            | Self::Unasked
            | Self::Lapsed(_)
            | Self::Waits(_)
            | Self::NetworkTaken { .. } => false,
            Self::OldOrder { .. }
            | Self::ForeignVolume { .. }
            | Self::ForeignContainer(_)
            | Self::VolumeGone(_)
            | Self::DirectoryGone(_)
            | Self::DirectoryEmpty(_)
            | Self::TwoPlaces { .. }
            | Self::ForeignHome { .. }
            | Self::OtherMajor { .. }
            | Self::OtherPgdata { .. }
            | Self::ImageGone { .. }
            | Self::OtherOdoo { .. }
            | Self::OtherUser { .. }
            | Self::DoubtfulCopy
            | Self::NotAtHome
            | Self::KeepsAnother(_)
            | Self::AsideGone(_)
            | Self::LivesHere { .. }
            | Self::Unfit(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_says_what_is_wrong_and_what_to_do() {
        let said = [
            (
                Blocked::OldOrder {
                    ordered: 3,
                    wanted: 7,
                },
                "was an old database of the coordinator restored? Its volumes are kept",
            ),
            (
                Blocked::ForeignVolume {
                    volume: "pgdata_alfa".into(),
                    owner: "none".into(),
                    tenant: Uuid::nil(),
                },
                "volume pgdata_alfa belongs to another tenant",
            ),
            (
                Blocked::ForeignContainer("postgres_alfa".into()),
                "container postgres_alfa is somebody else's",
            ),
            (
                Blocked::VolumeGone("pgdata_alfa".into()),
                "volume pgdata_alfa is gone, and with it this tenant's data",
            ),
            (
                Blocked::DirectoryGone("/srv/tenants/alfa/pgdata".into()),
                "directory /srv/tenants/alfa/pgdata is not there, and it holds this tenant's data",
            ),
            (
                Blocked::DirectoryEmpty("/srv/tenants/alfa/pgdata".into()),
                "directory /srv/tenants/alfa/pgdata is empty, and it held this tenant's data",
            ),
            (
                Blocked::TwoPlaces {
                    ours: "/srv/tenants/alfa/odoo".into(),
                    dockers: "/docker/odoo_data_alfa".into(),
                },
                "both /srv/tenants/alfa/odoo and Docker's own /docker/odoo_data_alfa hold files",
            ),
            (
                Blocked::ForeignHome {
                    directory: "/srv/tenants/alfa".into(),
                    owner: "none".into(),
                    tenant: Uuid::nil(),
                },
                "directory /srv/tenants/alfa belongs to another tenant (its `owner` is none,",
            ),
            (
                Blocked::Unfit("there is no module `x`".into()),
                "there is no module `x`. Create the tenant again",
            ),
            (Blocked::HostClosed("disk full".into()), "disk full"),
            (Blocked::HalfCopy, "nothing starts on half of it"),
            (Blocked::DoubtfulCopy, "purge this copy, as a move does"),
            (
                Blocked::NotCopied("h1".parse().unwrap()),
                "is to come from host h1",
            ),
            (Blocked::FromBackup(Uuid::nil()), "is to come from a backup"),
        ];
        for (blocked, text) in said {
            assert!(blocked.to_string().contains(text), "{blocked}");
        }
    }

    #[test]
    fn what_is_wrong_with_the_host_is_told_with_what_ends_it() {
        let said = [
            (
                Blocked::NetworkTaken {
                    network: "10.90.0.16/28".parse().unwrap(),
                    interface: "bridge7".into(),
                },
                "Remove it (`ip link delete bridge7`)",
            ),
            (
                Blocked::HostFull("the disk is full".into()),
                "the disk is full; nothing that works is stopped",
            ),
        ];
        for (blocked, text) in said {
            assert!(blocked.to_string().contains(text), "{blocked}");
            assert!(!blocked.is_for_good());
        }
    }

    #[test]
    fn an_image_that_does_not_do_is_told_with_what_would() {
        let said = [
            (
                Blocked::ImageGone {
                    tenant: "alfa".parse().unwrap(),
                    role: Role::Odoo,
                    reference: "odoo:18.0".into(),
                    had: "sha256:1".into(),
                    means: Some("sha256:2".into()),
                    why: "manifest unknown".into(),
                },
                "odoo:18.0 is sha256:2 here now, which nobody has asked for. Put it back (`docker load`), or accept what odoo:18.0 means now: \
                 `isyctl tenant upgrade alfa --odoo-image odoo:18.0`",
            ),
            (
                Blocked::OtherPgdata {
                    data: "/a".into(),
                    image: "/b".into(),
                },
                "keeps its data in /a, and the image in /b",
            ),
            (
                Blocked::OtherOdoo {
                    data: 18,
                    image: 19,
                },
                "this tenant's database is Odoo 18's, and the image is Odoo 19: its modules would",
            ),
            (
                Blocked::OtherUser {
                    data: 100,
                    image: 101,
                },
                "files belong to user 100, and the image's Odoo is user 101: it could not write them. Build the image with user 100",
            ),
        ];
        for (blocked, text) in said {
            assert!(blocked.to_string().contains(text), "{blocked}");
            assert!(blocked.is_for_good());
        }
    }

    #[test]
    fn what_time_or_a_job_ends_is_not_for_good() {
        for passing in [
            Blocked::HostClosed("disk full".into()),
            Blocked::HalfCopy,
            Blocked::NotCopied("h1".parse().unwrap()),
        ] {
            assert!(!passing.is_for_good(), "{passing}");
        }
        assert!(Blocked::DoubtfulCopy.is_for_good());
    }

    #[test]
    fn a_reason_says_what_to_do_on_one_line() {
        let major = Blocked::OtherMajor {
            data: "15".into(),
            image: "16".into(),
        };
        let text = major.to_string();
        assert!(
            text.starts_with(
                "this tenant's data is PostgreSQL 15's, and the image is PostgreSQL 16:"
            )
        );
        assert!(text.ends_with("restore a dump into a new tenant"));
        assert!(!text.contains("  ") && !text.contains('\n'));
    }
}
