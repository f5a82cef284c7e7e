//! Builds the fake vendor libraries of `backends/tests/fakes` with the system's C compiler.
//!
//! Each fake is a file of its own with its own configuration beside it, so tests do not meet.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A fake library.
pub(crate) struct Fake {
    folder: TempDir,
}

impl Fake {
    /// Compiles `name`.c; `None`, with a word, where there is no compiler.
    pub(crate) fn build(name: &str, configuration: &str) -> Option<Self> {
        Self::build_without(name, configuration, &[])
    }

    /// The same without some functions.
    pub(crate) fn build_without(
        name: &str,
        configuration: &str,
        functions: &[&str],
    ) -> Option<Self> {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../backends/tests/fakes");
        let fake = Self {
            folder: tempfile::tempdir().expect("a folder"),
        };
        let gone = functions.iter().map(|name| format!("-D{name}=gone_{name}"));
        let output = Command::new("cc")
            .args([
                "-shared",
                "-fPIC",
                "-O1",
                "-fno-builtin",
                "-fvisibility=hidden",
                "-Wall",
                "-Wextra",
            ])
            .arg("-Wno-unused-function")
            .args(gone)
            .arg("-o")
            .arg(fake.path())
            .arg(sources.join(format!("{name}.c")))
            .arg("-ldl")
            .output();
        let Ok(output) = output else {
            skipped(name);
            return None;
        };
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{said}");
        std::fs::write(fake.folder.path().join("fake.so.conf"), configuration).expect("writable");
        Some(fake)
    }

    /// The library.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("fake.so")
    }

    /// An environment in which `variable` names it, and nothing else is found.
    pub(crate) fn environment(&self, variable: &str) -> BTreeMap<String, OsString> {
        let root = self.folder.path().join("root");
        BTreeMap::from([
            (variable.to_owned(), self.path().into_os_string()),
            ("WEIGHBRIDGE_SYSROOT".to_owned(), root.into_os_string()),
        ])
    }
}

#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn skipped(name: &str) {
    eprintln!("skipped: there is no C compiler `cc` to build the fake {name} with");
}
