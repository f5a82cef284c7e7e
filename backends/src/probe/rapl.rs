//! Energy counters of the processor, from sysfs (`/sys/class/powercap`).
//!
//! Each package is a device, the memory beside it another, where the processor counts it. Domains
//! that are parts of a package (cores, graphics) are left out: they are in its counter already. So
//! is `psys`, which would count everything once more. Invariant: a counter that cannot be read is
//! unavailable with the reason; most virtual machines have none, and most hosts let only root read.
//! What it does not do: power, which the counter's rise over time gives.

use std::path::{Path, PathBuf};

use super::{
    Kind, OpenError, Places, Probe, Quantity, Readings, SampleError, Scope, Selection, Unit,
    UnitSample, Vendor, Wanted,
};
use crate::clock::monotonic_now_ns;

const FOLDER: &str = "sys/class/powercap";

/// The counters of this host's processors.
pub(super) struct RaplProbe {
    units: Vec<Unit>,
    domains: Vec<Domain>,
}

struct Domain {
    folder: PathBuf,
    /// Joules at which the counter begins again.
    range_j: Option<f64>,
}

impl RaplProbe {
    pub(super) fn open(selection: &Selection, places: &Places) -> Result<Self, OpenError> {
        let folder = places.file(FOLDER);
        let found = domains(&folder);
        if found.is_empty() {
            return Err(OpenError::Absent {
                looked: vec![format!("{}/intel-rapl:*", folder.display())],
            });
        }
        let place = folder.display().to_string();
        let indexed: Vec<_> = (0_u32..).zip(found).collect();
        let chosen = selection.choose(indexed, |(index, _)| *index, &place)?;
        if let Some(reason) = chosen.iter().find_map(|(_, found)| unreadable(&found.0)) {
            return Err(OpenError::Broken { place, reason });
        }
        let (mut units, mut domains) = (Vec::new(), Vec::new());
        for (index, (folder, name)) in chosen {
            units.push(Unit {
                vendor: Vendor::Cpu,
                index,
                id: folder
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned()),
                name,
                scope: Scope::Chip,
                power_at: None,
                facts: Vec::new(),
            });
            domains.push(Domain {
                range_j: number(&folder.join("max_energy_range_uj"))
                    .ok()
                    .map(|uj| uj / 1e6),
                folder,
            });
        }
        Ok(Self { units, domains })
    }
}

impl Probe for RaplProbe {
    fn kind(&self) -> Kind {
        Kind::Rapl
    }

    fn units(&self) -> &[Unit] {
        &self.units
    }

    fn sample(&mut self, _: Wanted) -> Result<Vec<UnitSample>, SampleError> {
        Ok(self.domains.iter().map(Domain::sample).collect())
    }
}

impl Domain {
    fn sample(&self) -> UnitSample {
        let path = self.folder.join("energy_uj");
        let before = monotonic_now_ns();
        let energy = number(&path).map(|uj| uj / 1e6);
        let at_ns = u64::midpoint(before, monotonic_now_ns());
        let mut readings = Readings::default();
        let source = path.display().to_string();
        readings.take(Quantity::Energy, source, energy);
        if let Some(range_j) = self.range_j {
            let source = self
                .folder
                .join("max_energy_range_uj")
                .display()
                .to_string();
            readings.read(Quantity::EnergyRange, range_j, source);
        }
        UnitSample { at_ns, readings }
    }
}

/// Folders and names of the counters that do not overlap.
fn domains(folder: &Path) -> Vec<(PathBuf, String)> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut found: Vec<(PathBuf, String)> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let file = path.file_name()?.to_str()?;
            let address = file.strip_prefix("intel-rapl:")?;
            let name = std::fs::read_to_string(path.join("name")).ok()?;
            let name = name.trim();
            let is_package = !address.contains(':') && name.starts_with("package");
            let is_memory = address.contains(':') && name == "dram";
            let title = match address.split_once(':') {
                Some((package, _)) => format!("package-{package} {name}"),
                None => name.to_owned(),
            };
            (is_package || is_memory).then_some((path, title))
        })
        .collect();
    found.sort_by(|one, other| one.1.cmp(&other.1));
    found
}

fn unreadable(folder: &Path) -> Option<String> {
    let path = folder.join("energy_uj");
    let error = std::fs::read_to_string(&path).err()?;
    let hint = if error.kind() == std::io::ErrorKind::PermissionDenied {
        "; only root may read it unless an administrator allows it, for example with `chmod a+r`"
    } else {
        ""
    };
    Some(format!("`{}`: {error}{hint}", path.display()))
}

fn number(path: &Path) -> Result<f64, String> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("`{}`: {error}", path.display()))?;
    let value: Result<u64, _> = text.trim().parse();
    value
        .map(|value| value as f64)
        .map_err(|_| format!("`{}` is `{}`", path.display(), text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(domains: &[(&str, &str, &str)]) -> (tempfile::TempDir, Places) {
        let root = tempfile::tempdir().expect("a folder");
        for (folder, name, energy) in domains {
            let folder = root.path().join(FOLDER).join(folder);
            std::fs::create_dir_all(&folder).expect("writable");
            for (file, text) in [
                ("name", *name),
                ("energy_uj", energy),
                ("max_energy_range_uj", "262143328850"),
            ] {
                std::fs::write(folder.join(file), format!("{text}\n")).expect("writable");
            }
        }
        let root_path = root.path().as_os_str().to_owned();
        let places = Places::of([("WEIGHBRIDGE_SYSROOT".to_owned(), root_path)].into());
        (root, places)
    }

    #[test]
    fn packages_and_memory_are_counted_once() {
        let (root, places) = host(&[
            ("intel-rapl:0", "package-0", "123456789"),
            ("intel-rapl:0:0", "core", "1"),
            ("intel-rapl:0:1", "dram", "2000000"),
            ("intel-rapl:1", "package-1", "5000000"),
            ("intel-rapl:2", "psys", "9"),
            ("intel-rapl-mmio:0", "package-0", "123456789"),
        ]);
        let mut probe = RaplProbe::open(&Selection::All, &places).expect("it is there");
        let names: Vec<_> = probe
            .units()
            .iter()
            .map(|unit| unit.name.as_str())
            .collect();
        assert_eq!(names, ["package-0", "package-0 dram", "package-1"]);
        let samples = probe.sample(Wanted::Power).expect("readable");
        let energy: Vec<_> = samples
            .iter()
            .map(|sample| sample.readings.get(Quantity::Energy))
            .collect();
        assert_eq!(energy, [Some(123.456_789), Some(2.0), Some(5.0)]);
        let range = samples[0].readings.get(Quantity::EnergyRange);
        assert_eq!(range, Some(262_143.328_85));
        let path = root.path().join(FOLDER).join("intel-rapl:1/energy_uj");
        std::fs::write(path, "garbage").expect("writable");
        let samples = probe
            .sample(Wanted::Power)
            .expect("the others are readable");
        assert_eq!(samples[2].readings.get(Quantity::Energy), None);
    }

    #[test]
    fn a_host_without_counters_says_where_it_looked() {
        let (_root, places) = host(&[]);
        let error = RaplProbe::open(&Selection::All, &places)
            .err()
            .expect("nothing");
        assert!(
            error.to_string().contains("powercap/intel-rapl:*"),
            "{error}"
        );
        let (_root, places) = host(&[("intel-rapl:0", "package-0", "1")]);
        let wanted = Selection::Indexes(vec![3]);
        let error = RaplProbe::open(&wanted, &places).err().expect("no 3");
        assert!(error.to_string().contains("accepted are 0"), "{error}");
    }
}
