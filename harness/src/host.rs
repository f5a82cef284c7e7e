//! The machine the harness runs on, and what the harness uses of it.
//!
//! Invariant: what cannot be found out is said to be unknown, never guessed.

use reports::schema::HostInfo;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, Pid, ProcessRefreshKind, ProcessesToUpdate};
use sysinfo::{RefreshKind, System};

/// What the machine is.
pub fn host_info() -> HostInfo {
    let kinds = RefreshKind::nothing()
        .with_cpu(CpuRefreshKind::nothing())
        .with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(kinds).ok();
    let unknown = || "unknown".to_owned();
    let cpu = system
        .as_ref()
        .and_then(|system| Some(system.cpus().first()?.brand().to_owned()));
    let name = System::long_os_version().unwrap_or_else(|_| unknown());
    let kernel = System::kernel_version().unwrap_or_else(|_| unknown());
    HostInfo {
        os: format!("{name}, kernel {kernel}"),
        arch: std::env::consts::ARCH.into(),
        cpu: cpu
            .filter(|name| !name.trim().is_empty())
            .unwrap_or_else(unknown),
        logical_cpus: logical_cpus(),
        memory_bytes: system.map_or(0, |system| system.total_memory()),
    }
}

/// Processors that this process may use.
pub fn logical_cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| count.get() as u32)
}

/// What this process uses.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ProcessUse {
    /// CPU seconds so far.
    pub cpu_s: f64,
    /// Memory at present.
    pub resident_bytes: u64,
}

/// What this process uses, if the system tells.
pub fn process_use() -> Option<ProcessUse> {
    let id = Pid::from_u32(std::process::id());
    let mut system = System::new().ok()?;
    let kind = ProcessRefreshKind::nothing().with_cpu().with_memory();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[id]), false, kind);
    let process = system.process(id)?;
    Some(ProcessUse {
        cpu_s: process.accumulated_cpu_time() as f64 / 1e3,
        resident_bytes: process.memory(),
    })
}

/// CPU seconds that this process has used so far, to the nanosecond.
#[cfg(unix)]
pub fn process_cpu_s() -> Option<f64> {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Some(used.tv_sec as f64 + used.tv_nsec as f64 / 1e9)
}

/// CPU seconds that this process has used so far.
#[cfg(not(unix))]
pub fn process_cpu_s() -> Option<f64> {
    process_use().map(|used| used.cpu_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_known_and_cpu_time_grows() {
        let host = host_info();
        assert!(host.logical_cpus > 0 && host.memory_bytes > 0, "{host:?}");
        let before = process_cpu_s().expect("this process exists");
        let mut sum = 0_u64;
        while process_cpu_s().expect("this process exists") < before + 0.02 {
            sum = std::hint::black_box(sum + 1);
        }
    }
}
