//! A tenant's size and its disk against it, to the wire and back.
//!
//! Not here: which values a plan may have (the coordinator's configuration).

use crate::{
    disk::{Disk, DiskMeans, DiskPlace, DiskState},
    pb::v1,
    spec::{Bounds, Size},
};

impl From<Size> for v1::Size {
    fn from(size: Size) -> Self {
        Self {
            memory_bytes: size.memory_bytes,
            cpu_millis: size.cpu_millis,
            disk_bytes: size.disk_bytes,
            workers: size.workers,
            bounds: (!size.bounds.are_unsaid()).then(|| size.bounds.into()),
        }
    }
}

impl From<v1::Size> for Size {
    fn from(size: v1::Size) -> Self {
        Self {
            memory_bytes: size.memory_bytes,
            cpu_millis: size.cpu_millis,
            disk_bytes: size.disk_bytes,
            workers: size.workers,
            bounds: size.bounds.map(Into::into).unwrap_or_default(),
        }
    }
}

impl From<Bounds> for v1::Bounds {
    fn from(bounds: Bounds) -> Self {
        Self {
            pids: bounds.pids,
            nofile: bounds.nofile,
            device_read_bps: bounds.device_read_bps,
            device_write_bps: bounds.device_write_bps,
            device_read_iops: bounds.device_read_iops,
            device_write_iops: bounds.device_write_iops,
        }
    }
}

impl From<v1::Bounds> for Bounds {
    fn from(bounds: v1::Bounds) -> Self {
        Self {
            pids: bounds.pids,
            nofile: bounds.nofile,
            device_read_bps: bounds.device_read_bps,
            device_write_bps: bounds.device_write_bps,
            device_read_iops: bounds.device_read_iops,
            device_write_iops: bounds.device_write_iops,
        }
    }
}

/// `None` for a state that this program does not know: nothing is refused on the strength of it.
pub(super) fn disk(disk: v1::Disk) -> Option<Disk> {
    let state = match disk.state() {
        v1::DiskState::Free => DiskState::Free,
        v1::DiskState::Warned => DiskState::Warned,
        v1::DiskState::UploadsRefused => DiskState::UploadsRefused,
        v1::DiskState::Stopped if disk.postgres_stopped => DiskState::DatabaseStopped,
        v1::DiskState::Stopped => DiskState::Stopped,
        v1::DiskState::Unspecified => return None,
    };
    let means = match disk.means() {
        v1::DiskMeans::Quota => DiskMeans::Quota,
        v1::DiskMeans::Counted | v1::DiskMeans::Unspecified => DiskMeans::Counted,
    };
    let too_deep = match disk.too_deep() {
        v1::DiskPlace::Postgres => Some(DiskPlace::Postgres),
        v1::DiskPlace::Odoo => Some(DiskPlace::Odoo),
        v1::DiskPlace::Beside => Some(DiskPlace::Beside),
        v1::DiskPlace::Unspecified => None,
    };
    Some(Disk {
        used_bytes: disk.used_bytes,
        limit_bytes: disk.limit_bytes,
        used_inodes: disk.used_inodes,
        limit_inodes: disk.limit_inodes,
        too_deep,
        state,
        by_bytes: state,
        by_inodes: state,
        means,
    })
}

impl From<Disk> for v1::Disk {
    fn from(disk: Disk) -> Self {
        let state = match disk.state {
            DiskState::Free => v1::DiskState::Free,
            DiskState::Warned => v1::DiskState::Warned,
            DiskState::UploadsRefused => v1::DiskState::UploadsRefused,
            // A state of its own would be unknown to a coordinator or an isyctl of before.
            DiskState::Stopped | DiskState::DatabaseStopped => v1::DiskState::Stopped,
        };
        let means = match disk.means {
            DiskMeans::Counted => v1::DiskMeans::Counted,
            DiskMeans::Quota => v1::DiskMeans::Quota,
        };
        let too_deep = match disk.too_deep {
            Some(DiskPlace::Postgres) => v1::DiskPlace::Postgres,
            Some(DiskPlace::Odoo) => v1::DiskPlace::Odoo,
            Some(DiskPlace::Beside) => v1::DiskPlace::Beside,
            None => v1::DiskPlace::Unspecified,
        };
        Self {
            used_bytes: disk.used_bytes,
            limit_bytes: disk.limit_bytes,
            state: state.into(),
            means: means.into(),
            used_inodes: disk.used_inodes,
            limit_inodes: disk.limit_inodes,
            too_deep: too_deep.into(),
            postgres_stopped: disk.state.stops_postgres(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails where one is left behind, or arrives as another.
    #[test]
    fn each_limit_of_a_plan_goes_over_the_wire_as_itself() {
        let bounds = Bounds {
            pids: 1,
            nofile: 2,
            device_read_bps: 3,
            device_write_bps: 4,
            device_read_iops: 5,
            device_write_iops: 6,
        };
        let wire = v1::Bounds {
            pids: 1,
            nofile: 2,
            device_read_bps: 3,
            device_write_bps: 4,
            device_read_iops: 5,
            device_write_iops: 6,
        };
        let size = Size {
            memory_bytes: 7,
            cpu_millis: 8,
            disk_bytes: 9,
            workers: 10,
            bounds,
        };
        assert_eq!(v1::Size::from(size).bounds, Some(wire));
        assert_eq!(Size::from(v1::Size::from(size)), size);
    }

    #[test]
    fn a_disk_comes_back_as_it_went_and_an_unknown_state_is_none() {
        for state in [
            DiskState::Free,
            DiskState::Warned,
            DiskState::UploadsRefused,
            DiskState::Stopped,
            DiskState::DatabaseStopped,
        ] {
            for (means, too_deep) in [
                (DiskMeans::Counted, None),
                (DiskMeans::Quota, Some(DiskPlace::Postgres)),
                (DiskMeans::Quota, Some(DiskPlace::Odoo)),
                (DiskMeans::Quota, Some(DiskPlace::Beside)),
            ] {
                let sent = Disk {
                    used_bytes: 7,
                    limit_bytes: 9,
                    used_inodes: 5,
                    limit_inodes: 6,
                    too_deep,
                    state,
                    by_bytes: state,
                    by_inodes: state,
                    means,
                };
                assert_eq!(disk(sent.into()), Some(sent));
            }
        }
        let beyond = Disk {
            state: DiskState::DatabaseStopped,
            ..Disk::default()
        };
        let sent = v1::Disk::from(beyond);
        assert_eq!(sent.state(), v1::DiskState::Stopped, "for programs before");
        let odd = v1::Disk {
            state: 99,
            ..v1::Disk::default()
        };
        assert_eq!(disk(odd), None);
    }
}
