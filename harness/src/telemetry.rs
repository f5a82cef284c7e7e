//! `--probe`: which telemetry a run takes along, and what the report makes of it.
//!
//! Invariant: a probe that was asked for by name and does not work stops the run before it starts;
//! one that was only looked for leaves the reason in the report. What is read is of this host: the
//! power of a server elsewhere is not to be had from here, and is not guessed.

use std::fmt;
use std::net::{IpAddr, UdpSocket};

use backends::probe::{
    self, Kind, OpenError, Places, Probe, Quantity, Readings, Sampler, Selection, Telemetry,
    Vendor, Watched,
};
use backends::{Clock, Nanos};
use reports::Window;
use reports::energy::{self, Energy, EnergyDevice, PowerSample, Span, Track};
use reports::schema::{SecondPoint, Summary};

use crate::target::Target;

/// How long devices are looked at before the load.
const IDLE: Nanos = Nanos(1_500_000_000);

/// Where a target on this host may run, whichever it is.
const ACCELERATORS_FIRST: [Vendor; 4] = [
    Vendor::Nvidia,
    Vendor::Ascend,
    Vendor::Cambricon,
    Vendor::Cpu,
];

/// Which probe.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Choice {
    /// Whatever belongs to the target and is on this host.
    #[default]
    Auto,
    /// None.
    None,
    /// This one.
    Named(Kind, Selection),
}

impl Choice {
    /// Reads `--probe`.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "auto" => return Ok(Self::Auto),
            "none" => return Ok(Self::None),
            _ => {}
        }
        let (name, indexes) = match text.split_once(':') {
            Some((name, indexes)) => (name, Some(indexes)),
            None => (text, None),
        };
        let kind = Kind::parse(name).ok_or_else(|| {
            let names: Vec<String> = Kind::ALL.iter().map(|kind| format!("`{kind}`")).collect();
            format!(
                "is `{text}`; accepted are `auto`, `none`, or one of {}, with or without devices \
                 as in `nvml:0,1`",
                names.join(", ")
            )
        })?;
        let Some(indexes) = indexes else {
            return Ok(Self::Named(kind, Selection::All));
        };
        let indexes: Result<Vec<u32>, _> = indexes.split(',').map(str::parse).collect();
        let indexes = indexes.map_err(|_| {
            format!("is `{text}`; accepted are numbers of devices with commas, as in `{name}:0,1`")
        })?;
        Ok(Self::Named(kind, Selection::Indexes(indexes)))
    }
}

/// A probe that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{error}\n\nhint: `weighbridge devices` shows what there is on this host and why")]
pub struct ProbeError {
    #[from]
    error: OpenError,
}

/// Telemetry of a run, while it goes on or when it is over.
pub enum Watch {
    /// None is wanted, or the target can have none.
    Off,
    /// None is to be had, and why.
    Missing(String),
    /// It is read.
    Reading(Sampler),
    /// It was read.
    Read(Box<Telemetry>),
}

impl fmt::Debug for Watch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self {
            Self::Off => "Off",
            Self::Missing(_) => "Missing",
            Self::Reading(_) => "Reading",
            Self::Read(_) => "Read",
        };
        formatter.write_str(word)
    }
}

/// Opens what was chosen and looks at the idle devices for a while. Nothing of it happens in
/// virtual time.
pub async fn begin(choice: &Choice, target: &Target, clock: &Clock) -> Result<Watch, ProbeError> {
    let watch = open(choice, target, &Places::of_this_host())?;
    Ok(match watch {
        Opened::Off => Watch::Off,
        Opened::Missing(why) => Watch::Missing(why),
        Opened::Probe(probe) => {
            let sampler = Sampler::start(probe, clock);
            clock.sleep(IDLE).await;
            Watch::Reading(sampler)
        }
    })
}

enum Opened {
    Off,
    Missing(String),
    Probe(Box<dyn Probe>),
}

fn open(choice: &Choice, target: &Target, places: &Places) -> Result<Opened, ProbeError> {
    let own;
    let vendors: &[Vendor] = match (choice, target) {
        (Choice::None, _) | (_, Target::Sim(_)) => return Ok(Opened::Off),
        (Choice::Named(kind, selection), _) => {
            return Ok(Opened::Probe(probe::open(*kind, selection, places)?));
        }
        (Choice::Auto, Target::Cpu) => &[Vendor::Cpu],
        (Choice::Auto, Target::Cuda(_)) => &[Vendor::Nvidia],
        (Choice::Auto, Target::Plugin { .. }) => &ACCELERATORS_FIRST,
        (Choice::Auto, Target::Http(server)) if is_this_host(&server.base) => match server.vendor {
            // The power of other devices, or of the processor, is not that of this target.
            Some(vendor) => {
                own = [vendor];
                &own
            }
            None => &ACCELERATORS_FIRST,
        },
        (Choice::Auto, Target::Http(_)) => {
            let why = "the server may be on another machine; on this one `--probe` names a probe";
            return Ok(Opened::Missing(why.to_owned()));
        }
    };
    let selection = match target {
        Target::Cuda(ordinal) => Selection::Indexes(vec![*ordinal]),
        _ => Selection::All,
    };
    let mut reasons = Vec::new();
    for vendor in vendors {
        match probe::open_vendor(*vendor, &selection, places) {
            Ok(probe) => return Ok(Opened::Probe(probe)),
            Err(tried) => {
                let named = vendors.len() == 1 && *vendor != Vendor::Cpu;
                let tried = tried.into_iter();
                let told = tried.filter(|(_, error)| named || is_telling(error));
                let told = told.take(if named { usize::MAX } else { 1 });
                reasons.extend(told.map(|(kind, error)| format!("{kind}: {error}")));
            }
        }
    }
    if reasons.is_empty() {
        reasons.push(match target {
            Target::Cpu => "this host has no energy counter of its processor".to_owned(),
            _ => "no telemetry of a device was found on this host".to_owned(),
        });
    }
    Ok(Opened::Missing(reasons.join("; ")))
}

/// Something that is there and does not work is worth a word; something that is not there is not.
fn is_telling(error: &OpenError) -> bool {
    !matches!(
        error,
        OpenError::Absent { .. } | OpenError::NoDevices { .. }
    )
}

fn is_this_host(base: &str) -> bool {
    let rest = base.split_once("://").map_or(base, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority
            .rsplit_once(':')
            .map_or(authority, |(host, _)| host),
    };
    let address: Result<IpAddr, _> = host.parse();
    // Only an address of this host can be listened at.
    let is_own = |address: IpAddr| UdpSocket::bind((address, 0)).is_ok();
    host == "localhost" || address.is_ok_and(|address| !address.is_unspecified() && is_own(address))
}

impl Watch {
    /// Ends it, a little after `until` at the earliest: the last answer may have come before the
    /// window is over, and the devices go on drawing power; and a counter has to change once more,
    /// which takes an exporter longer: up to a twentieth of the window is tolerated, so that long is
    /// waited for it.
    #[must_use]
    pub async fn finish(self, clock: &Clock, until: Nanos, window: Window) -> Self {
        match self {
            Self::Reading(sampler) => {
                /// No exporter is known to repeat itself for longer.
                const LONGEST: Nanos = Nanos(30_000_000_000);
                let least = Nanos(2 * sampler.kind().period_ns());
                let steps = match sampler.kind() {
                    Kind::DcgmExporter => Nanos((window.end_ns - window.start_ns) / 20),
                    _ => Nanos::ZERO,
                };
                let after = steps.min(LONGEST).max(least);
                clock.sleep_until(until.plus(after)).await;
                Self::Read(Box::new(sampler.finish()))
            }
            other => other,
        }
    }

    /// The energy of the window. `start_ns` is the start of the run on the system's monotonic
    /// clock.
    pub fn energy(&self, start_ns: u64, window: Window, summary: &Summary) -> Option<Energy> {
        match self {
            Self::Off => None,
            Self::Missing(why) => Some(energy::none(why)),
            Self::Reading(_) => Some(energy::none("the telemetry was not ended")),
            Self::Read(read) => Some(energy::energy(&tracks(read, start_ns, window), summary)),
        }
    }

    /// Puts the power of each second into the series.
    pub fn fill_series(&self, start_ns: u64, window: Window, series: &mut [SecondPoint]) {
        if let Self::Read(read) = self {
            energy::fill_series(&tracks(read, start_ns, window), start_ns, series);
        }
    }

    /// The devices that are watched: the interface, and each one's name.
    pub fn devices(&self) -> Option<(Kind, Vec<&str>)> {
        let Self::Read(read) = self else { return None };
        let names = read.devices.iter().map(|device| device.unit.name.as_str());
        Some((read.kind, names.collect()))
    }

    /// What the watched devices and their software are called, each once: `driver 25.5.1`.
    pub fn versions(&self) -> Vec<String> {
        /// Where a device is says nothing of what it is.
        const PLACES: [&str; 2] = ["card", "pci"];
        let Self::Read(read) = self else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for (name, value) in read.devices.iter().flat_map(|device| &device.unit.facts) {
            let version = format!("{name} {value}");
            if !PLACES.contains(name) && !found.contains(&version) {
                found.push(version);
            }
        }
        found
    }

    /// What a reader should know of it.
    pub fn warnings(&self, energy: Option<&Energy>) -> Vec<String> {
        let (Self::Read(read), Some(energy)) = (self, energy) else {
            return Vec::new();
        };
        let mut warnings = Vec::new();
        if let Some(why) = energy.null_reasons.get("joules") {
            warnings.push(format!("no energy: {why}"));
        }
        if read.failed_samples > 0 {
            let last = read.last_failure.as_deref().unwrap_or_default();
            warnings.push(format!(
                "telemetry failed {} times; last: {last}",
                read.failed_samples
            ));
        }
        let sum = energy.joules.zip(energy.joules_by_power);
        if let Some((counter, power)) = sum.filter(|(counter, _)| *counter > 0.0)
            && (power / counter - 1.0).abs() > 0.1
        {
            warnings.push(format!(
                "the energy counters say {counter:.1} J and sampled power {power:.1} J: one of \
                 them is wrong, or slow"
            ));
        }
        if read.devices.len() > 1 && energy.joules.is_some() {
            let kind = read.kind;
            warnings.push(format!(
                "energy is that of all {} devices of `{kind}` together, whether or not the target \
                 uses them; `--probe {kind}:0` would take the first alone",
                read.devices.len()
            ));
        }
        warnings
    }
}

fn tracks(read: &Telemetry, start_ns: u64, window: Window) -> energy::Telemetry {
    let span = Span {
        start_ns: start_ns + window.start_ns,
        end_ns: start_ns + window.end_ns,
    };
    let scope = read.devices.iter().map(|device| device.unit.scope).max();
    energy::Telemetry {
        probe: read.kind.name().to_owned(),
        scope: scope.map_or("", probe::Scope::name).to_owned(),
        period_ns: read.period_ns,
        tracks: read
            .devices
            .iter()
            .map(|device| track(device, span))
            .collect(),
        idle: Some(Span {
            start_ns: start_ns.saturating_sub(2 * IDLE.0),
            end_ns: start_ns,
        }),
        window: span,
    }
}

fn track(watched: &Watched, span: Span) -> Track {
    let unit = &watched.unit;
    let [power_source, counter_source] = watched.sources.clone();
    let samples = watched.samples.iter().map(|sample| PowerSample {
        at_ns: sample.at_ns,
        power_w: sample.power_w,
        energy_j: sample.energy_j,
    });
    let reasons = &watched.reasons;
    Track {
        device: device(watched, span),
        is_counted_elsewhere: unit.power_at.is_some(),
        samples: samples.collect(),
        counter_range_j: watched.counter_range_j,
        reason: reasons.iter().flatten().next().cloned(),
        counter_source,
        power_source,
    }
}

/// How the device did in the window, beside its power.
fn device(watched: &Watched, span: Span) -> EnergyDevice {
    let inside = watched.details.iter().filter(|(at, _)| span.contains(*at));
    let details: Vec<&Readings> = inside.map(|(_, readings)| readings).collect();
    let all = |what: Quantity| -> Vec<f64> {
        let values = details.iter().filter_map(|readings| readings.get(what));
        values.collect()
    };
    let mean = |what| {
        let values = all(what);
        let sum: f64 = values.iter().sum();
        (!values.is_empty()).then(|| sum / values.len() as f64)
    };
    let most = |what| all(what).into_iter().reduce(f64::max);
    EnergyDevice {
        name: format!("{} {}", watched.unit.index, watched.unit.name),
        joules: None,
        reason: None,
        utilisation_percent: mean(Quantity::Utilisation),
        temperature_max_c: most(Quantity::Temperature),
        memory_used_max_bytes: most(Quantity::MemoryUsed),
        clock_mean_mhz: mean(Quantity::Clock),
        throttled_share: mean(Quantity::Throttled),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read_and_mistakes_say_what_is_accepted() {
        let of = |kind, indexes: &[u32]| Choice::Named(kind, Selection::Indexes(indexes.into()));
        for (text, choice) in [
            ("auto", Choice::Auto),
            ("none", Choice::None),
            ("dcmi", Choice::Named(Kind::Dcmi, Selection::All)),
            ("nvml:0", of(Kind::Nvml, &[0])),
            ("rapl:1,0", of(Kind::Rapl, &[1, 0])),
        ] {
            assert_eq!(Choice::parse(text), Ok(choice), "{text}");
        }
        for (text, part) in [
            ("meter", "accepted are `auto`, `none`, or one of `nvml`"),
            ("nvml:", "as in `nvml:0,1`"),
            ("nvml:0,x", "as in `nvml:0,1`"),
        ] {
            let error = Choice::parse(text).expect_err(text);
            assert!(error.contains(part) && error.contains(text), "{error}");
        }
    }

    #[test]
    fn only_a_server_on_this_host_is_looked_for() {
        for (base, here) in [
            ("http://127.0.0.1:8000/v1", true),
            ("http://localhost:8000/v1", true),
            ("http://[::1]:8000/v1", true),
            ("http://192.0.2.7:8000/v1", false),
            ("http://0.0.0.0:8000/v1", false),
            ("http://localhost.example.com/v1", false),
        ] {
            assert_eq!(is_this_host(base), here, "{base}");
        }
    }

    #[test]
    fn a_probe_by_name_must_work_and_a_looked_for_one_need_not() {
        let root = [("WEIGHBRIDGE_SYSROOT".to_owned(), "/no/such/root".into())];
        let places = Places::of(root.into());
        let named = Choice::Named(Kind::Rapl, Selection::All);
        let error = open(&named, &Target::Cpu, &places)
            .err()
            .expect("no counter");
        let text = error.to_string();
        assert!(text.contains("/no/such/root/sys/class/powercap"), "{text}");
        assert!(text.contains("hint: `weighbridge devices`"), "{text}");
        let opened = open(&Choice::Auto, &Target::Cpu, &places).expect("it may be missing");
        assert!(matches!(opened, Opened::Missing(why) if why.contains("no energy counter")));
        // Of a vendor's target no other device is looked for, and all that was tried is told.
        let vendor = Target::parse("cambricon=http://127.0.0.1:1/v1").expect("a target");
        let opened = open(&Choice::Auto, &vendor, &places).expect("it may be missing");
        let Opened::Missing(why) = opened else {
            panic!("nothing is there");
        };
        assert!(why.contains("cndev: ") && why.contains("cnmon: "), "{why}");
        assert!(!why.contains("nvml"), "{why}");
        let sim = Target::Sim("h100".into());
        assert!(matches!(
            open(&Choice::Auto, &sim, &places),
            Ok(Opened::Off)
        ));
    }
}
