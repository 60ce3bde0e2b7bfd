//! What one of our processes costs: CPU time and memory, from the kernel's own accounting.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use procfs::process::Process;

/// A process to measure.
#[derive(Debug)]
pub(crate) struct Watched {
    process: Process,
}

/// The process's CPU time at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    cpu: Duration,
    at: Instant,
}

impl Watched {
    pub(crate) fn new(pid: u32) -> Result<Self> {
        let process =
            Process::new(i32::try_from(pid)?).with_context(|| format!("process {pid}"))?;
        Ok(Self { process })
    }

    /// User and system time so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let stat = self.process.stat()?;
        let ticks = (stat.utime + stat.stime) as f64;
        Ok(Duration::from_secs_f64(
            ticks / procfs::ticks_per_second() as f64,
        ))
    }

    /// A mark to measure from.
    pub(crate) fn mark(&self) -> Result<Mark> {
        Ok(Mark {
            cpu: self.cpu()?,
            at: Instant::now(),
        })
    }

    /// Share of one core since a mark.
    pub(crate) fn load_since(&self, mark: Mark) -> Result<f64> {
        let cpu = self.cpu()?.saturating_sub(mark.cpu);
        Ok(cpu.as_secs_f64() / mark.at.elapsed().as_secs_f64())
    }

    /// Bytes written so far, to files and sockets.
    pub(crate) fn written(&self) -> Result<u64> {
        Ok(self.process.io()?.wchar)
    }

    /// Has [`Self::peak`] begin anew.
    pub(crate) fn forget_peak(&self) -> Result<()> {
        let file = format!("/proc/{}/clear_refs", self.process.pid());
        std::fs::write(&file, "5").with_context(|| file) // see proc(5)
    }

    /// The most resident memory that it ever had, bytes.
    pub(crate) fn peak(&self) -> Result<u64> {
        let status = self.process.status()?;
        Ok(status.vmhwm.unwrap_or(0) * 1024)
    }

    /// Resident memory, bytes.
    pub(crate) fn resident(&self) -> Result<u64> {
        let status = self.process.status()?;
        Ok(status.vmrss.unwrap_or(0) * 1024)
    }
}

/// CPU time of this thread so far: for work that never waits, on a machine that others use too.
pub(crate) fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    // The nanoseconds of a timespec are always below a second.
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_has_memory() {
        let me = Watched::new(std::process::id()).unwrap();
        assert!(me.resident().unwrap() > 1 << 20);
        assert!(me.load_since(me.mark().unwrap()).unwrap() >= 0.0);
        assert!(me.peak().unwrap() > 1 << 20);
        me.forget_peak().unwrap();
        assert!(me.peak().unwrap() > 1 << 20, "what it has now counts");
    }
}
