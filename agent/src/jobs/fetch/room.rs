//! Whether a copy fits here, decided before a byte of it comes. Pure.
//!
//! Not here: measuring.

/// How much larger than its size on paper a tenant may be: disk space is counted, not enforced, so an honest one can be
/// well above it; beyond this, somebody fills disks.
const FACTOR: u64 = 4;
/// What a copy leaves free: the host's other tenants go on writing while it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserve {
    /// Share of the file system.
    pub percent: u64,
    /// Bounds of that, bytes: little of a small disk is too little, and the same share of a large one lies idle.
    pub bytes: (u64, u64),
}

impl Default for Reserve {
    fn default() -> Self {
        Self {
            percent: 5,
            bytes: (1 << 30, 20 << 30),
        }
    }
}

impl Reserve {
    /// For tests, which must not depend on how full their machine is.
    pub const NONE: Self = Self {
        percent: 0,
        bytes: (0, 0),
    };

    /// This much of every disk, however large it is.
    pub fn mib(mib: u64) -> Self {
        let bytes = mib.saturating_mul(1 << 20);
        Self {
            percent: 0,
            bytes: (bytes, bytes),
        }
    }

    /// Of a file system of so many bytes.
    pub fn of(self, total: u64) -> u64 {
        (total / 100 * self.percent).clamp(self.bytes.0, self.bytes.1)
    }
}

/// What is known before a copy begins.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Bytes of the copy.
    pub copy: u64,
    /// Of these, what is here already.
    pub here: u64,
    /// The tenant's disk size.
    pub size: u64,
    /// Free bytes of the file system, and its size.
    pub free: u64,
    pub total: u64,
    pub reserve: Reserve,
}

fn mb(bytes: u64) -> u64 {
    bytes.div_ceil(1_000_000)
}

impl Room {
    /// Why the copy does not fit, in numbers.
    pub fn check(&self) -> Result<(), String> {
        let most = self.size.saturating_mul(FACTOR);
        if self.copy > most {
            return Err(format!(
                "the copy has {} MB, and a tenant of {} MB may have {} MB at most; give it a larger size",
                mb(self.copy),
                mb(self.size),
                mb(most)
            ));
        }
        let reserve = self.reserve.of(self.total);
        let needed = self.copy.saturating_sub(self.here);
        if needed > self.free.saturating_sub(reserve) {
            return Err(format!(
                "the copy needs {} MB more, and of {} MB free on this host's disk {} MB stay free; make room, or choose another host",
                mb(needed),
                mb(self.free),
                mb(reserve)
            ));
        }
        Ok(())
    }

    /// Why a copy must end that comes as its source sends it, so that nobody knew before how much that is.
    pub fn check_meanwhile(&self) -> Result<(), String> {
        let whole = Self {
            here: self.copy,
            ..*self
        };
        whole.check()?;
        let reserve = self.reserve.of(self.total);
        if self.free < reserve {
            return Err(format!(
                "of this host's disk {} MB are free while the copy comes, and {} MB stay free; make room, or choose another host",
                mb(self.free),
                mb(reserve)
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_does_not_fit_is_refused_with_numbers() {
        let gb = 1_000_000_000;
        let room = Room {
            copy: 10 * gb,
            here: 0,
            size: 5 * gb,
            free: 30 * gb,
            total: 100 * gb,
            reserve: Reserve::default(),
        };
        assert_eq!(room.check(), Ok(()));
        let huge = Room {
            copy: 20 * gb + 1,
            ..room
        };
        assert!(huge.check().unwrap_err().contains("20001 MB"));
        let full = Room {
            free: 14 * gb,
            ..room
        };
        let why = full.check().unwrap_err();
        assert!(
            why.contains("10000 MB more") && why.contains("5000 MB stay"),
            "{why}"
        );
        let resumed = Room {
            here: 2 * gb,
            ..full
        };
        assert_eq!(resumed.check(), Ok(()));
        assert_eq!(Reserve::default().of(0), 1 << 30);
        assert_eq!(Reserve::default().of(u64::MAX), 20 << 30);
        assert_eq!(Reserve::mib(512).of(100 * gb), 512 << 20);
        assert_eq!(Reserve::mib(u64::MAX).of(gb), u64::MAX);
        let overflow = Room {
            copy: u64::MAX,
            size: u64::MAX,
            ..room
        };
        assert!(overflow.check().is_err());
    }

    #[test]
    fn a_copy_whose_size_nobody_knew_ends_when_it_is_too_much() {
        let gb = 1_000_000_000;
        let room = Room {
            copy: 4 * gb,
            here: 0,
            size: gb,
            free: 6 * gb,
            total: 100 * gb,
            reserve: Reserve::default(),
        };
        assert_eq!(room.check_meanwhile(), Ok(()));
        let more = Room {
            copy: 4 * gb + 1,
            ..room
        };
        assert!(more.check_meanwhile().is_err());
        let full = Room {
            free: 4 * gb,
            ..room
        };
        let why = full.check_meanwhile().unwrap_err();
        assert!(why.contains("4000 MB are free"), "{why}");
    }
}
