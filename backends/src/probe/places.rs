//! Where libraries, commands, exporters and sysfs are looked for.
//!
//! The environment is read once. `WEIGHBRIDGE_DCMI_LIB` and its like name one library, command or
//! address, and nothing else is tried then; `WEIGHBRIDGE_SYSROOT` is a folder that stands for `/`,
//! for a host's root that is mounted in a container. Invariant: looking finds out where something
//! is and starts nothing but a library's own initialisers.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::ffi::Foreign;
use super::{Kind, OpenError};

/// Where this process looks.
#[derive(Debug, Clone)]
pub struct Places {
    variables: BTreeMap<String, OsString>,
    root: PathBuf,
}

/// How one library is searched.
struct LibraryPlaces {
    variable: &'static str,
    name: &'static str,
    /// `$VARIABLE` and the folder below it.
    home: Option<(&'static str, &'static str)>,
    folders: &'static [&'static str],
}

fn library_places(kind: Kind) -> Option<LibraryPlaces> {
    Some(match kind {
        Kind::Nvml => LibraryPlaces {
            variable: "WEIGHBRIDGE_NVML_LIB",
            name: "libnvidia-ml.so.1",
            home: None,
            folders: &[
                "usr/lib/x86_64-linux-gnu",
                "usr/lib/aarch64-linux-gnu",
                "usr/lib64",
                "usr/local/nvidia/lib64",
            ],
        },
        Kind::Dcmi => LibraryPlaces {
            variable: "WEIGHBRIDGE_DCMI_LIB",
            name: "libdcmi.so",
            home: None,
            folders: &[
                "usr/local/Ascend/driver/lib64/driver",
                "usr/local/dcmi",
                "usr/lib64",
                "usr/local/lib",
            ],
        },
        Kind::Cndev => LibraryPlaces {
            variable: "WEIGHBRIDGE_CNDEV_LIB",
            name: "libcndev.so",
            home: Some(("NEUWARE_HOME", "lib64")),
            folders: &[
                "usr/local/neuware/lib64",
                "usr/lib/x86_64-linux-gnu",
                "usr/lib/aarch64-linux-gnu",
                "usr/lib64",
                "lib",
            ],
        },
        _ => return None,
    })
}

impl Places {
    /// Those of this host and this environment.
    pub fn of_this_host() -> Self {
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .collect();
        Self::of(variables)
    }

    /// Those of another environment.
    pub fn of(variables: BTreeMap<String, OsString>) -> Self {
        let root = variables.get("WEIGHBRIDGE_SYSROOT").map(PathBuf::from);
        Self {
            root: root.unwrap_or_else(|| PathBuf::from("/")),
            variables,
        }
    }

    fn variable(&self, name: &str) -> Option<&OsStr> {
        let value = self.variables.get(name)?;
        (!value.is_empty()).then_some(value)
    }

    /// A path of the host, given without its leading slash.
    pub(super) fn file(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn is_own_root(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Tries `load` at each place of a library; its own loader message is kept for those that are
    /// there and do not load.
    pub(super) fn library<T>(
        &self,
        kind: Kind,
        load: impl Fn(&Path) -> Result<T, String>,
    ) -> Result<T, OpenError> {
        let places = library_places(kind).expect("only kinds that are libraries are asked for");
        let broken = |path: &Path, reason: String| OpenError::Broken {
            place: path.display().to_string(),
            reason,
        };
        if let Some(path) = self.variable(places.variable).map(Path::new) {
            return load(path).map_err(|reason| {
                broken(
                    path,
                    format!("{reason} (the path is from {})", places.variable),
                )
            });
        }
        let mut looked = Vec::new();
        let mut first_broken = None;
        for path in self.candidates(&places) {
            let bare = path.components().count() == 1;
            looked.push(path.display().to_string());
            if !bare && !path.exists() {
                continue;
            }
            match load(&path) {
                Ok(loaded) => return Ok(loaded),
                Err(reason) if bare && is_absence(&reason, places.name) => {}
                Err(reason) => first_broken = first_broken.or(Some(broken(&path, reason))),
            }
        }
        Err(first_broken.unwrap_or(OpenError::Absent { looked }))
    }

    fn candidates(&self, places: &LibraryPlaces) -> Vec<PathBuf> {
        let mut found = Vec::new();
        if self.is_own_root() {
            found.push(PathBuf::from(places.name));
        }
        if let Some((variable, folder)) = places.home
            && let Some(home) = self.variable(variable)
        {
            found.push(Path::new(home).join(folder).join(places.name));
        }
        found.extend(
            places
                .folders
                .iter()
                .map(|folder| self.file(folder).join(places.name)),
        );
        found
    }

    /// A vendor's library for [`Foreign`] calls.
    pub(super) fn foreign(&self, kind: Kind) -> Result<Foreign, OpenError> {
        self.library(kind, Foreign::load)
    }

    /// A vendor's command.
    pub(super) fn command(&self, kind: Kind) -> Result<PathBuf, OpenError> {
        let variable = match kind {
            Kind::NpuSmi => "WEIGHBRIDGE_NPU_SMI",
            Kind::Cnmon => "WEIGHBRIDGE_CNMON",
            _ => "WEIGHBRIDGE_NVIDIA_SMI",
        };
        if let Some(path) = self.variable(variable) {
            return Ok(PathBuf::from(path));
        }
        let search = self.variable("PATH").unwrap_or_default();
        let mut folders: Vec<PathBuf> = std::env::split_paths(search).collect();
        let more = ["usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin"];
        folders.extend(more.map(|folder| self.file(folder)));
        let found = folders.iter().map(|folder| folder.join(kind.name()));
        found
            .into_iter()
            .find(|path| path.is_file())
            .ok_or_else(|| OpenError::Absent {
                looked: vec![format!("`{}` on PATH", kind.name())],
            })
    }

    /// Address of an exporter's page, as host, port and path.
    pub(super) fn exporter(&self, kind: Kind) -> Result<String, OpenError> {
        let (variable, port) = match kind {
            Kind::NpuExporter => ("WEIGHBRIDGE_NPU_EXPORTER", 8082),
            Kind::MluExporter => ("WEIGHBRIDGE_MLU_EXPORTER", 30108),
            _ => ("WEIGHBRIDGE_DCGM_EXPORTER", 9400),
        };
        let Some(url) = self.variable(variable) else {
            return Ok(format!("http://127.0.0.1:{port}/metrics"));
        };
        url.to_str()
            .map(str::to_owned)
            .ok_or_else(|| OpenError::Broken {
                place: variable.to_owned(),
                reason: "it is not UTF-8".to_owned(),
            })
    }

    /// The library of `AscendCL`, if it was named.
    pub(super) fn acl(&self) -> Option<PathBuf> {
        self.variable("WEIGHBRIDGE_ACL_LIB").map(PathBuf::from)
    }

    /// Folders that Ascend's toolkit may be in.
    pub(super) fn ascend_toolkits(&self) -> Vec<PathBuf> {
        let variables = ["ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH"];
        let own = variables.iter().filter_map(|name| self.variable(name));
        let mut found: Vec<PathBuf> = own.map(PathBuf::from).collect();
        found.push(self.file("usr/local/Ascend/ascend-toolkit/latest"));
        found.push(self.file("usr/local/Ascend/cann"));
        if let Some(home) = self.variable("HOME") {
            found.push(Path::new(home).join("Ascend/ascend-toolkit/latest"));
        }
        found
    }
}

/// Does the loader say that the library itself, not one that it needs, is not there?
fn is_absence(reason: &str, name: &str) -> bool {
    reason.starts_with(name) && reason.contains("cannot open shared object file")
        || reason.contains("image not found")
        || reason.contains("no such file")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(variables: &[(&str, &str)]) -> Places {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), OsString::from(value));
        Places::of(variables.iter().map(own).collect())
    }

    #[test]
    fn a_missing_library_says_where_it_was_looked_for() {
        let places = places(&[
            ("WEIGHBRIDGE_SYSROOT", "/no/such/root"),
            ("NEUWARE_HOME", "/opt/neuware"),
        ]);
        let error = places.foreign(Kind::Cndev).expect_err("nothing is there");
        let text = error.to_string();
        for part in [
            "/opt/neuware/lib64/libcndev.so",
            "/no/such/root/usr/local/neuware/lib64/libcndev.so",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_library_that_was_named_is_the_only_one_tried() {
        let places = places(&[("WEIGHBRIDGE_DCMI_LIB", "/no/such/libdcmi.so")]);
        let error = places.foreign(Kind::Dcmi).expect_err("it is not there");
        let text = error.to_string();
        assert!(
            text.contains("WEIGHBRIDGE_DCMI_LIB") && !text.contains("driver"),
            "{text}"
        );
    }

    #[test]
    fn what_the_loader_says_of_a_needed_library_is_not_absence() {
        let own = "libdcmi.so: cannot open shared object file: No such file or directory";
        let needed = "libc_sec.so: cannot open shared object file: No such file or directory";
        assert!(is_absence(own, "libdcmi.so"));
        assert!(!is_absence(needed, "libdcmi.so"));
    }
}
