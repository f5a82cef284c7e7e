//! What would make measurements on this machine unreliable.
//!
//! Invariant: a check that cannot be made says so; it is neither good nor bad. What it does not do:
//! change a setting.

use std::path::PathBuf;

use backends::{Clock, Nanos};
use models::Level;
use serde::Serialize;

use crate::limits;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// What.
    pub name: &'static str,
    /// What was found.
    pub value: String,
    /// How good that is.
    pub state: State,
    /// What it does to measurements and what to do about it; empty where there is nothing to do.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub advice: &'static str,
}

/// How good a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it should be.
    Good,
    /// Worth knowing.
    Note,
    /// Measurements suffer.
    Bad,
    /// It could not be found out.
    Unknown,
}

/// Where the system tells about itself.
#[derive(Debug, Clone)]
pub struct Places {
    root: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self { root: "/".into() }
    }
}

/// Looks at everything; takes about a second.
pub async fn examine(clock: &Clock, places: &Places) -> Vec<Finding> {
    let (p50_s, p99_s) = timer_lateness(clock).await;
    let before = places.processor_times();
    clock.sleep(Nanos(600_000_000)).await;
    let after = places.processor_times();
    let mut found = vec![build(), instructions(), features(), timers(p50_s, p99_s)];
    found.extend(others(before, after));
    found.extend([
        places.quota(),
        places.governor(),
        places.boost(),
        places.hyperthreads(),
        places.virtual_machine(),
        places.clock_source(),
        places.large_pages(),
        places.swap(),
        files(),
        ports(),
    ]);
    found
}

/// How late the clock's own timers are on this machine, idle: p50 and p99 in seconds.
pub async fn timer_lateness(clock: &Clock) -> (f64, f64) {
    const TIMERS: usize = 100;
    let mut late = Vec::with_capacity(TIMERS);
    for _ in 0..TIMERS {
        let deadline = clock.now().plus(Nanos(2_000_000));
        clock.sleep_until(deadline).await;
        late.push(clock.now().since(deadline).0);
    }
    late.sort_unstable();
    let at = |quantile| reports::stats::nearest_rank(&late, quantile).unwrap_or_default() as f64;
    (
        at(reports::stats::Quantile::P50) / 1e9,
        at(reports::stats::Quantile::P99) / 1e9,
    )
}

fn finding(
    name: &'static str,
    value: impl Into<String>,
    state: State,
    advice: &'static str,
) -> Finding {
    let advice = if state == State::Good { "" } else { advice };
    Finding {
        name,
        value: value.into(),
        state,
        advice,
    }
}

fn unknown(name: &'static str) -> Finding {
    finding(name, "not known on this system", State::Unknown, "")
}

fn good_if(good: bool) -> State {
    if good { State::Good } else { State::Bad }
}

fn build() -> Finding {
    let release = !cfg!(debug_assertions);
    let value = if release { "release" } else { "debug" };
    let advice = "the engine and the client are slow: build with `--release`";
    finding("build", value, good_if(release), advice)
}

fn features() -> Finding {
    let features = crate::compiled_features();
    let list = if features.is_empty() {
        "none".to_owned()
    } else {
        features.join(", ")
    };
    finding("features", list, State::Good, "")
}

fn instructions() -> Finding {
    let all = Level::ALL.into_iter().filter(|level| level.is_available());
    let names: Vec<String> = all.map(|level| level.to_string()).collect();
    let best = Level::best();
    finding(
        "kernels",
        format!("{best} ({} can run)", names.join(", ")),
        State::Good,
        "",
    )
}

fn timers(p50_s: f64, p99_s: f64) -> Finding {
    let value = format!("p50 {:.0} µs, p99 {:.0} µs late", p50_s * 1e6, p99_s * 1e6);
    let advice = "requests will be sent late: leave the load generator a core of its own";
    finding("timers", value, good_if(p99_s < 0.001), advice)
}

/// Ticks of all processors: busy, stolen by the host, all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticks {
    busy: u64,
    stolen: u64,
    all: u64,
}

fn others(before: Option<Ticks>, after: Option<Ticks>) -> [Finding; 2] {
    const NAMES: [&str; 2] = ["other programs", "stolen by the host"];
    let (Some(before), Some(after)) = (before, after) else {
        return NAMES.map(unknown);
    };
    let all = after.all.saturating_sub(before.all).max(1) as f64;
    let share = |now: u64, then: u64| now.saturating_sub(then) as f64 / all;
    let shares = [
        share(after.busy, before.busy),
        share(after.stolen, before.stolen),
    ];
    let advice = [
        "they take part of what is measured: stop them, or measure elsewhere",
        "another machine on this host takes time away: figures will scatter; compare only pairs \
         measured in turn (`weighbridge gate --ab`)",
    ];
    [0, 1].map(|which| {
        let value = format!("{:.1} % of all processors", shares[which] * 100.0);
        let good = shares[which] < [0.10, 0.01][which];
        finding(NAMES[which], value, good_if(good), advice[which])
    })
}

fn files() -> Finding {
    let Some(files) = limits::raise_file_limit() else {
        return unknown("open files");
    };
    let advice = "as many connections at most: raise it with `ulimit -n`";
    finding(
        "open files",
        files.to_string(),
        note_if(files < 8_192),
        advice,
    )
}

fn ports() -> Finding {
    let Some(ports) = limits::ports() else {
        return unknown("ports");
    };
    let value = format!("{ports} to one server");
    let advice = "as many connections at most: widen `net.ipv4.ip_local_port_range`";
    finding("ports", value, note_if(ports < 8_192), advice)
}

fn note_if(doubtful: bool) -> State {
    if doubtful { State::Note } else { State::Good }
}

impl Places {
    fn read(&self, path: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.root.join(path)).ok()?;
        Some(text.trim().to_owned())
    }

    fn processor_times(&self) -> Option<Ticks> {
        let text = self.read("proc/stat")?;
        let line = text.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> = line
            .split_whitespace()
            .map_while(|tick| tick.parse().ok())
            .collect();
        // user, nice, system, idle, iowait, irq, softirq, steal; guests are in user.
        let [user, nice, system, idle, iowait, irq, softirq, steal, ..] = ticks[..] else {
            return None;
        };
        let busy = user + nice + system + irq + softirq;
        Some(Ticks {
            busy,
            stolen: steal,
            all: busy + idle + iowait + steal,
        })
    }

    fn quota(&self) -> Finding {
        let name = "processor quota";
        let Some(text) = self.read("sys/fs/cgroup/cpu.max") else {
            return unknown(name);
        };
        let mut parts = text.split_whitespace().map(str::parse::<f64>);
        match (parts.next(), parts.next()) {
            (Some(Ok(quota)), Some(Ok(period))) => finding(
                name,
                format!("{:.2} processors", quota / period),
                State::Bad,
                "a container that has used it up stands still for the rest of 100 ms: give it whole \
                 processors (`cpuset`) instead",
            ),
            _ => finding(name, "none", State::Good, ""),
        }
    }

    fn governor(&self) -> Finding {
        let name = "frequency governor";
        let path = "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor";
        let Some(governor) = self.read(path) else {
            return unknown(name);
        };
        let good = governor == "performance";
        let advice = "clocks follow the load: `cpupower frequency-set -g performance`";
        finding(name, governor, good_if(good), advice)
    }

    fn boost(&self) -> Finding {
        let name = "boost";
        let on = |path: &str, on: &str| Some(self.read(path)? == on);
        let state = on("sys/devices/system/cpu/cpufreq/boost", "1")
            .or_else(|| on("sys/devices/system/cpu/intel_pstate/no_turbo", "0"));
        match state {
            Some(true) => finding(
                name,
                "on",
                State::Note,
                "the first seconds are faster than a warm hour: warm up, or switch it off",
            ),
            Some(false) => finding(name, "off", State::Good, ""),
            None => unknown(name),
        }
    }

    fn hyperthreads(&self) -> Finding {
        let name = "hyperthreads";
        match self.read("sys/devices/system/cpu/smt/active").as_deref() {
            Some("1") => finding(
                name,
                "on",
                State::Note,
                "two threads share a core: `--threads` at the number of cores may be faster",
            ),
            Some("0") => finding(name, "off", State::Good, ""),
            _ => unknown(name),
        }
    }

    fn virtual_machine(&self) -> Finding {
        let name = "virtual machine";
        let Some(text) = self.read("proc/cpuinfo") else {
            return unknown(name);
        };
        let flags = text.lines().find(|line| line.starts_with("flags"));
        let virtual_machine =
            flags.is_some_and(|line| line.split(' ').any(|flag| flag == "hypervisor"));
        let value = if virtual_machine { "yes" } else { "no" };
        let advice = "absolute times belong to this hour: compare ratios of pairs";
        finding(name, value, note_if(virtual_machine), advice)
    }

    fn clock_source(&self) -> Finding {
        let name = "clock source";
        let path = "sys/devices/system/clocksource/clocksource0/current_clocksource";
        let Some(source) = self.read(path) else {
            return unknown(name);
        };
        let fast = [
            "tsc",
            "kvm-clock",
            "arch_sys_counter",
            "hyperv_clocksource_tsc_page",
        ];
        let good = fast.contains(&source.as_str());
        let advice = "each look at the clock is a system call: use the processor's counter";
        finding(name, source, good_if(good), advice)
    }

    fn large_pages(&self) -> Finding {
        let name = "large pages";
        let Some(text) = self.read("sys/kernel/mm/transparent_hugepage/enabled") else {
            return unknown(name);
        };
        let chosen = text.split(['[', ']']).nth(1).unwrap_or("?").to_owned();
        let good = chosen != "never";
        let advice = "weights are read through small pages, which is slower: `madvise` is enough";
        finding(name, chosen, good_if(good), advice)
    }

    fn swap(&self) -> Finding {
        let name = "swap";
        let Some(text) = self.read("proc/meminfo") else {
            return unknown(name);
        };
        let kilobytes = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let (Some(total), Some(free)) = (kilobytes("SwapTotal:"), kilobytes("SwapFree:")) else {
            return unknown(name);
        };
        let used = total.saturating_sub(free);
        let value = format!("{} MiB in use", used / 1024);
        let advice = "memory was short at some time: what is swapped in while measuring is slow";
        finding(name, value, note_if(used > 65_536), advice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(files: &[(&str, &str)]) -> (tempfile::TempDir, Places) {
        let folder = tempfile::tempdir().expect("a folder");
        for (path, text) in files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().expect("it has one")).expect("writable");
            std::fs::write(path, text).expect("writable");
        }
        let root = folder.path().to_owned();
        (folder, Places { root })
    }

    type Case = (
        &'static str,
        &'static str,
        fn(&Places) -> Finding,
        State,
        &'static str,
    );

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn what_a_system_says_is_read_and_judged() {
        let cases: [Case; 12] = [
            (
                "sys/fs/cgroup/cpu.max",
                "max 100000\n",
                Places::quota,
                State::Good,
                "none",
            ),
            (
                "sys/fs/cgroup/cpu.max",
                "150000 100000\n",
                Places::quota,
                State::Bad,
                "1.50",
            ),
            (
                "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
                "powersave\n",
                Places::governor,
                State::Bad,
                "powersave",
            ),
            (
                "sys/devices/system/cpu/intel_pstate/no_turbo",
                "1\n",
                Places::boost,
                State::Good,
                "off",
            ),
            (
                "sys/devices/system/cpu/cpufreq/boost",
                "1",
                Places::boost,
                State::Note,
                "on",
            ),
            (
                "sys/devices/system/cpu/smt/active",
                "1",
                Places::hyperthreads,
                State::Note,
                "on",
            ),
            (
                "proc/cpuinfo",
                "processor : 0\nflags : fpu hypervisor avx2\n",
                Places::virtual_machine,
                State::Note,
                "yes",
            ),
            (
                "sys/devices/system/clocksource/clocksource0/current_clocksource",
                "hpet",
                Places::clock_source,
                State::Bad,
                "hpet",
            ),
            (
                "sys/kernel/mm/transparent_hugepage/enabled",
                "always [madvise] never",
                Places::large_pages,
                State::Good,
                "madvise",
            ),
            (
                "sys/kernel/mm/transparent_hugepage/enabled",
                "always madvise [never]",
                Places::large_pages,
                State::Bad,
                "never",
            ),
            (
                "proc/meminfo",
                "MemTotal: 9 kB\nSwapTotal: 1048576 kB\nSwapFree: 1024 kB\n",
                Places::swap,
                State::Note,
                "1023 MiB",
            ),
            ("proc/other", "", Places::swap, State::Unknown, "not known"),
        ];
        for (path, text, check, state, value) in cases {
            let (_folder, places) = places(&[(path, text)]);
            let found = check(&places);
            assert_eq!(found.state, state, "{path}: {found:?}");
            assert!(found.value.contains(value), "{path}: {found:?}");
            let silent = matches!(state, State::Good | State::Unknown);
            assert_eq!(found.advice.is_empty(), silent, "{found:?}");
        }
    }

    #[test]
    fn shares_of_time_are_between_two_looks() {
        let look = |text| {
            let (_folder, places) = places(&[("proc/stat", text)]);
            places.processor_times()
        };
        let before = look("cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1 1\n");
        let after = look("cpu  130 0 110 850 0 0 0 10 0 0\n");
        let [others_found, stolen] = others(before, after);
        assert_eq!(others_found.value, "40.0 % of all processors");
        assert_eq!((others_found.state, stolen.state), (State::Bad, State::Bad));
        assert_eq!(look("cpu 1 2"), None);
        assert!(
            others(None, before)
                .iter()
                .all(|found| found.state == State::Unknown)
        );
    }
}
