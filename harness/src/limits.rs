//! What the system allows a client with many connections: open files and ports.
//!
//! Invariant: a run that cannot have the connections it plans is refused before it starts, with the
//! limit's name; where only the rate is known, it is told how long answers may last. Nothing is
//! capped in silence. What cannot be found out is not checked.

use anyhow::{Result, ensure};

/// Files that are open beside connections, generously.
const OTHER_FILES: u64 = 64;

/// Raises the limit on open files as far as it goes without privileges; what it is then.
#[cfg(unix)]
pub fn raise_file_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
}

/// There is no such limit here.
#[cfg(not(unix))]
pub fn raise_file_limit() -> Option<u64> {
    None
}

/// Ports that connections to one server can come from.
pub fn ports() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    port_count(&text)
}

fn port_count(text: &str) -> Option<u64> {
    let mut ends = text.split_whitespace().map(str::parse::<u64>);
    let (low, high) = (ends.next()?.ok()?, ends.next()?.ok()?);
    (high >= low).then(|| high - low + 1)
}

/// What a limit on open files leaves for connections.
fn for_connections(files: u64) -> u64 {
    files.saturating_sub(OTHER_FILES)
}

/// What a rate may run into: how long answers may last before connections run out, if a server is
/// likely to take longer.
pub fn warning_of_rate(requests_per_s: f64) -> Option<String> {
    warning(requests_per_s, raise_file_limit(), ports())
}

fn warning(requests_per_s: f64, files: Option<u64>, ports: Option<u64>) -> Option<String> {
    /// Few answers last longer.
    const LONG_S: f64 = 30.0;
    let limits = [
        (
            files.map(for_connections),
            "open files; raise it with `ulimit -n`",
        ),
        (ports, "ports; widen `net.ipv4.ip_local_port_range`"),
    ];
    let known = limits
        .into_iter()
        .filter_map(|(room, name)| Some((room?, name)));
    let (room, name) = known.min_by_key(|(room, _)| *room)?;
    let longest_s = room as f64 / requests_per_s.max(1e-9);
    (longest_s < LONG_S).then(|| {
        format!(
            "{requests_per_s:.0} requests per second have {room} connections at most: where answers \
             last longer than {longest_s:.1} s, requests fail for want of one (the limit is that on {name})"
        )
    })
}

/// Can `connections` be open at the same time?
pub fn check_connections(connections: u64, flag: &str) -> Result<()> {
    check(connections, flag, raise_file_limit(), ports())
}

fn check(connections: u64, flag: &str, files: Option<u64>, ports: Option<u64>) -> Result<()> {
    let room = files.map_or(u64::MAX, for_connections);
    ensure!(
        connections <= room,
        "{flag} needs {connections} connections at once; the limit on open files allows {room}\n\nhint: \
         raise it with `ulimit -n {}`",
        connections + OTHER_FILES
    );
    let ports = ports.unwrap_or(u64::MAX);
    ensure!(
        connections <= ports,
        "{flag} needs {connections} connections at once; this machine has {ports} ports for connections to \
         one server\n\nhint: widen `net.ipv4.ip_local_port_range`"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_names_the_limit() {
        assert!(check(100, "`--users`", Some(1024), Some(28_232)).is_ok());
        assert!(check(100, "`--users`", None, None).is_ok());
        for (files, ports, part) in [
            (Some(1024), None, "ulimit -n 2064"),
            (Some(100_000), Some(1_000), "1000 ports"),
        ] {
            let error = check(2000, "`--users`", files, ports)
                .expect_err(part)
                .to_string();
            assert!(error.contains(part) && error.contains("2000"), "{error}");
        }
        assert_eq!(warning(100.0, Some(1_000_000), Some(28_232)), None);
        assert_eq!(warning(1e6, None, None), None);
        let told = warning(2000.0, Some(100_000), Some(28_232)).expect("14 s is little");
        assert!(told.contains("14.1 s") && told.contains("ports"), "{told}");
        assert_eq!(port_count("32768\t60999\n"), Some(28_232));
        assert_eq!(port_count("junk"), None);
    }
}
