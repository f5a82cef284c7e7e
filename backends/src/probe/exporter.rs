//! Telemetry from a Prometheus exporter on this host: DCGM's, `npu-exporter`, `mlu-exporter`.
//!
//! Invariant: an exporter repeats what it last collected, often for seconds; how often its counter
//! really changes is for the integration to judge. Its sentinels for "blank" are far out of range
//! and become unavailable. What it does not do: TLS, redirects, histograms.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use super::{
    Kind, OpenError, Places, Probe, Quantity, Readings, SampleError, Scope, Selection, Unit,
    UnitSample, Vendor, Wanted, share_power,
};
use crate::clock::monotonic_now_ns;
use crate::prometheus::Metric;

const LIMIT: Duration = Duration::from_secs(2);
const MOST_BYTES: u64 = 16 << 20;
const MIB: f64 = 1_048_576.0;

/// One exporter.
pub(super) struct ExporterProbe {
    kind: Kind,
    url: String,
    units: Vec<Unit>,
}

/// How an exporter names things.
struct Names {
    vendor: Vendor,
    /// Labels of index, name, identity; the first that is there counts.
    index: &'static [&'static str],
    name: &'static [&'static str],
    id: &'static [&'static str],
    /// Metric, what it is, and what one of its units is in ours.
    metrics: &'static [(&'static str, Quantity, f64)],
}

fn names(kind: Kind) -> Names {
    match kind {
        Kind::NpuExporter => Names {
            vendor: Vendor::Ascend,
            index: &["id", "npuID"],
            name: &["model_name", "modelName"],
            id: &["pcie_bus_info", "pcie", "vdie_id", "uuid"],
            metrics: &[
                ("npu_chip_info_power", Quantity::Power, 1.0),
                ("npu_chip_info_utilization", Quantity::Utilisation, 1.0),
                ("npu_chip_info_temperature", Quantity::Temperature, 1.0),
                ("npu_chip_info_hbm_used_memory", Quantity::MemoryUsed, MIB),
                ("npu_chip_info_hbm_total_memory", Quantity::MemoryTotal, MIB),
            ],
        },
        Kind::MluExporter => Names {
            vendor: Vendor::Cambricon,
            index: &["mlu", "slot"],
            name: &["model"],
            id: &["uuid", "sn"],
            metrics: &[
                ("power_usage", Quantity::Power, 1.0),
                ("power_current_limit", Quantity::PowerLimit, 1.0),
                ("utilization", Quantity::Utilisation, 1.0),
                ("chip_temperature", Quantity::Temperature, 1.0),
            ],
        },
        _ => Names {
            vendor: Vendor::Nvidia,
            index: &["gpu"],
            name: &["modelName"],
            id: &["UUID"],
            metrics: &[
                ("DCGM_FI_DEV_POWER_USAGE", Quantity::Power, 1.0),
                (
                    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
                    Quantity::Energy,
                    1e-3,
                ),
                ("DCGM_FI_DEV_GPU_UTIL", Quantity::Utilisation, 1.0),
                ("DCGM_FI_DEV_GPU_TEMP", Quantity::Temperature, 1.0),
                ("DCGM_FI_DEV_SM_CLOCK", Quantity::Clock, 1.0),
                ("DCGM_FI_DEV_FB_USED", Quantity::MemoryUsed, MIB),
            ],
        },
    }
}

impl ExporterProbe {
    pub(super) fn open(
        kind: Kind,
        selection: &Selection,
        places: &Places,
    ) -> Result<Self, OpenError> {
        let url = places.exporter(kind)?;
        let page = get(&url).map_err(|error| match error {
            GetError::NobodyThere => OpenError::Absent {
                looked: vec![url.clone()],
            },
            GetError::Other(reason) => OpenError::Broken {
                place: url.clone(),
                reason,
            },
        })?;
        let found: Vec<Found> = devices(kind, &page).into_values().collect();
        let found = selection.choose(found, |one| one.index, &url)?;
        let shared: Vec<Option<String>> = found.iter().map(|one| one.shared.clone()).collect();
        let vendor = names(kind).vendor;
        let unit = |one: Found| Unit {
            vendor,
            index: one.index,
            name: one.name,
            id: one.id,
            scope: Scope::Chip,
            power_at: None,
            facts: Vec::new(),
        };
        let mut units: Vec<Unit> = found.into_iter().map(unit).collect();
        share_power(&mut units, &shared);
        Ok(Self { kind, url, units })
    }
}

impl Probe for ExporterProbe {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn units(&self) -> &[Unit] {
        &self.units
    }

    fn sample(&mut self, _: Wanted) -> Result<Vec<UnitSample>, SampleError> {
        let before = monotonic_now_ns();
        let page = get(&self.url).map_err(|error| SampleError(error.words(&self.url)))?;
        let at_ns = u64::midpoint(before, monotonic_now_ns());
        let mut found = devices(self.kind, &page);
        let sample = |unit: &Unit| {
            let readings = found.remove(&unit.index).map(|one| one.readings);
            let mut readings = readings.unwrap_or_default();
            if let Some(other) = unit.power_at {
                let why = format!("shared with device {other}, and counted there");
                readings.unavailable(Quantity::Power, why);
            } else if readings.value(Quantity::Power).is_none() {
                let why = format!("{} has no power of it", self.url);
                readings.unavailable(Quantity::Power, why);
            }
            UnitSample { at_ns, readings }
        };
        Ok(self.units.iter().map(sample).collect())
    }
}

/// A device on an exporter's page.
#[derive(Debug, Default)]
struct Found {
    index: u32,
    name: String,
    id: Option<String>,
    /// Devices with the same are on one card and repeat its power.
    shared: Option<String>,
    readings: Readings,
}

fn devices(kind: Kind, page: &str) -> BTreeMap<u32, Found> {
    let names = names(kind);
    let mut found: BTreeMap<u32, Found> = BTreeMap::new();
    for line in page.lines() {
        let Some(metric) = Metric::parse(line) else {
            continue;
        };
        let known = names
            .metrics
            .iter()
            .find(|(name, ..)| is_named(kind, &metric.name, name));
        let Some(&(_, what, unit)) = known else {
            continue;
        };
        let label = |wanted: &[&str]| {
            let mut labels = wanted.iter().filter_map(|name| metric.labels.get(*name));
            labels.find(|value| !value.is_empty()).cloned()
        };
        // A virtual function of a card is no device of its own.
        let is_part = metric.labels.get("vf").is_some_and(|vf| !vf.is_empty());
        let index = label(names.index).and_then(|index| index.parse().ok());
        let Some(index) = index.filter(|_| !is_part) else {
            continue;
        };
        let one = found.entry(index).or_insert_with(|| Found {
            index,
            name: names.vendor.name().to_owned(),
            ..Found::default()
        });
        // Not every metric of a device has every label.
        if let Some(name) = label(names.name) {
            one.name = name;
        }
        one.id = one.id.take().or_else(|| label(names.id));
        let address = label(&["pcie_bus_info", "pcie"]);
        one.shared = shared(kind, one, address).or_else(|| one.shared.take());
        let source = metric.name.clone();
        one.readings.read(what, metric.value * unit, source);
    }
    found
}

/// The chips of a 300I Duo are behind one PCI address, and each repeats the card's power; an A3's
/// dies are neighbours by number.
fn shared(kind: Kind, one: &Found, address: Option<String>) -> Option<String> {
    if kind != Kind::NpuExporter {
        return None;
    }
    if one.name.contains("310P") {
        return address;
    }
    let is_a3 = one.name == "Ascend910" || one.name.contains("910_93");
    is_a3.then(|| format!("package {}", one.index / 2))
}

/// `mlu-exporter` puts a prefix of the administrator's choice before its names.
fn is_named(kind: Kind, metric: &str, name: &str) -> bool {
    let prefix = metric.strip_suffix(name);
    prefix.is_some_and(|prefix| {
        prefix.is_empty() || kind == Kind::MluExporter && matches!(prefix, "mlu_" | "cambricon_")
    })
}

#[derive(Debug)]
enum GetError {
    /// No server listens.
    NobodyThere,
    Other(String),
}

impl GetError {
    fn words(&self, url: &str) -> String {
        match self {
            Self::NobodyThere => format!("{url}: nobody listens"),
            Self::Other(reason) => format!("{url}: {reason}"),
        }
    }
}

/// The body of a page; HTTP/1.0, so that it comes in one piece.
fn get(url: &str) -> Result<String, GetError> {
    let other = |error: std::io::Error| GetError::Other(error.to_string());
    let strange = || GetError::Other("accepted is http://HOST:PORT/PATH".to_owned());
    let rest = url.strip_prefix("http://").ok_or_else(strange)?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut addresses = host.to_socket_addrs().map_err(|_| strange())?;
    let address = addresses.next().ok_or_else(strange)?;
    let mut stream = TcpStream::connect_timeout(&address, LIMIT).map_err(|error| {
        if error.kind() == std::io::ErrorKind::ConnectionRefused {
            GetError::NobodyThere
        } else {
            other(error)
        }
    })?;
    stream.set_read_timeout(Some(LIMIT)).map_err(other)?;
    stream.set_write_timeout(Some(LIMIT)).map_err(other)?;
    let request = format!("GET /{path} HTTP/1.0\r\nHost: {host}\r\nAccept: text/plain\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(other)?;
    let mut answer = Vec::new();
    stream
        .take(MOST_BYTES)
        .read_to_end(&mut answer)
        .map_err(other)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| GetError::Other("the answer is not HTTP".to_owned()))?;
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    if status != "200" {
        return Err(GetError::Other(format!("HTTP status {status}")));
    }
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NPU: &str = "\
# HELP npu_chip_info_power the npu power
# TYPE npu_chip_info_power gauge
npu_chip_info_power{id=\"0\",model_name=\"910B3\",pcie_bus_info=\"0000:C1:00.0\",vdie_id=\"A\"} 188.2 1700000000000
npu_chip_info_power{id=\"1\",model_name=\"910B3\",pcie_bus_info=\"0000:01:00.0\",vdie_id=\"B\"} 90.4
npu_chip_info_utilization{id=\"0\",model_name=\"910B3\",pcie_bus_info=\"0000:C1:00.0\"} 36
npu_chip_info_hbm_used_memory{id=\"0\",model_name=\"910B3\",pcie_bus_info=\"0000:C1:00.0\"} 41697
";
    const DUO: &str = "\
npu_chip_info_power{id=\"0\",model_name=\"310P3-Ascend-V1\",pcie_bus_info=\"0000:0B:00.0\"} 44.7
npu_chip_info_power{id=\"1\",model_name=\"310P3-Ascend-V1\",pcie_bus_info=\"0000:0B:00.0\"} 44.7
";
    const DCGM: &str = "\
DCGM_FI_DEV_POWER_USAGE{gpu=\"0\", UUID=\"GPU-c0\",modelName=\"NVIDIA H20\",pod=\"a\\\"b\"} 67.692000
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu=\"0\",UUID=\"GPU-c0\"} 1534772497
DCGM_FI_DEV_GPU_TEMP{gpu=\"0\",UUID=\"GPU-c0\"} 9223372036854775794
";
    const MLU: &str = "\
mlu_power_usage{mlu=\"3\",model=\"MLU590-M9\",uuid=\"u\",vf=\"\"} 120
mlu_power_usage{mlu=\"3\",model=\"MLU590-M9\",uuid=\"u\",vf=\"1\"} 7
mlu_memory_power_usage{mlu=\"3\"} 9
";

    fn power(kind: Kind, page: &str) -> Vec<(u32, Option<f64>, Option<String>)> {
        devices(kind, page)
            .into_values()
            .map(|one| (one.index, one.readings.get(Quantity::Power), one.shared))
            .collect()
    }

    #[test]
    fn every_exporter_s_page_is_read() {
        let found = power(Kind::NpuExporter, NPU);
        assert_eq!(found, [(0, Some(188.2), None), (1, Some(90.4), None)]);
        let card = Some("0000:0B:00.0".to_owned());
        assert_eq!(
            power(Kind::NpuExporter, DUO),
            [(0, Some(44.7), card.clone()), (1, Some(44.7), card)]
        );
        assert_eq!(power(Kind::MluExporter, MLU), [(3, Some(120.0), None)]);
        let found = devices(Kind::DcgmExporter, DCGM);
        let readings = &found[&0].readings;
        assert_eq!(readings.get(Quantity::Energy), Some(1_534_772.497));
        assert_eq!(readings.get(Quantity::Temperature), None, "a blank");
        for garbage in [
            "",
            "x{",
            "x{a=\"",
            "npu_chip_info_power{id=\"0\"} much",
            "\u{fffd} 1",
        ] {
            assert!(power(Kind::NpuExporter, garbage).is_empty(), "{garbage}");
        }
    }

    fn serve(answer: &'static [u8]) -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let mut request = [0; 512];
                drop(stream.read(&mut request));
                drop(stream.write_all(answer));
            }
        });
        format!("http://{address}/metrics")
    }

    #[test]
    fn a_card_s_power_is_counted_once() {
        let answer = "HTTP/1.0 200 OK\r\n\r\n".to_owned() + DUO;
        let url = serve(answer.leak().as_bytes());
        let variables = [("WEIGHBRIDGE_NPU_EXPORTER".to_owned(), url.into())];
        let places = Places::of(variables.into());
        let open = |selection| ExporterProbe::open(Kind::NpuExporter, &selection, &places);
        let mut probe = open(Selection::All).expect("it answers");
        let samples = probe.sample(Wanted::Power).expect("it answers");
        let power: Vec<_> = samples
            .iter()
            .map(|sample| sample.readings.get(Quantity::Power))
            .collect();
        assert_eq!(power, [Some(44.7), None]);
        assert_eq!(probe.units()[1].power_at, Some(0));
        assert_eq!(probe.units()[0].scope, Scope::Card);
    }

    #[test]
    fn what_does_not_answer_as_an_exporter_is_told_apart() {
        let open = |url: String| {
            let variables = [("WEIGHBRIDGE_DCGM_EXPORTER".to_owned(), url.into())];
            let places = Places::of(variables.into());
            let opened = ExporterProbe::open(Kind::DcgmExporter, &Selection::All, &places);
            opened.err().expect("no exporter").to_string()
        };
        let closed = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            listener.local_addr().expect("bound")
        };
        assert!(open(format!("http://{closed}/metrics")).contains("not found"));
        assert!(open(serve(b"HTTP/1.0 404 Not Found\r\n\r\n")).contains("HTTP status 404"));
        assert!(open(serve(b"SSH-2.0-x\r\n")).contains("not HTTP"));
        assert!(open(serve(b"HTTP/1.0 200 OK\r\n\r\nup 1\n")).contains("no device"));
        assert!(open("ftp://x".to_owned()).contains("accepted is http://"));
    }
}
