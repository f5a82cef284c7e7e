//! The rules of the house that no lint knows.

use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
}

const PACKAGES: [&str; 5] = ["harness", "models", "backends", "benches", "reports"];

fn files(ending: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, ending, found);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    for package in PACKAGES {
        walk(&root().join(package), ending, &mut found);
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("readable UTF-8")
}

/// Every file of source that breaks a rule, with the rule.
fn complaints(path: &Path) -> Vec<String> {
    let text = read(path);
    let name = path
        .strip_prefix(root())
        .expect("below the workspace")
        .display();
    let is_test = path.to_string_lossy().contains("/tests/")
        || path
            .file_name()
            .is_some_and(|file| file.to_string_lossy().contains("tests"));
    let mut found = Vec::new();
    let mut complain = |what: String| found.push(format!("{name}: {what}"));
    if !text.starts_with("//!") {
        complain("does not begin with //! documentation".into());
    }
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    if code.lines().count() > 800 {
        complain(format!(
            "has {} lines; 800 are allowed",
            code.lines().count()
        ));
    }
    for (number, line) in (1..).zip(text.lines()) {
        let is_literal = line.contains('"') || line.trim_start().starts_with("///");
        if line.chars().count() > 100 && !is_literal {
            complain(format!("line {number} is longer than 100 columns"));
        }
    }
    if !is_test {
        let selects = code.matches("select! {").count();
        let biased = code.matches("biased;").count();
        if selects != biased {
            complain(format!(
                "{selects} select! and {biased} biased; a random order is not ours"
            ));
        }
        if code.contains("#[ignore") || code.contains("TODO") || code.contains("FIXME") {
            complain("has #[ignore], TODO or FIXME".into());
        }
    }
    found
}

#[test]
fn sources_keep_the_rules() {
    let sources = files(".rs");
    assert!(
        sources.len() > 60,
        "{} files are too few: were they found?",
        sources.len()
    );
    let found: Vec<String> = sources.iter().flat_map(|path| complaints(path)).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn dependencies_point_one_way() {
    let allowed = [
        ("reports", &[][..]),
        ("models", &[]),
        ("backends", &["models"]),
        ("harness", &["models", "backends", "reports"]),
    ];
    for (package, may_know) in allowed {
        let manifest = read(&root().join(package).join("Cargo.toml"));
        let manifest: toml::Table = manifest.parse().expect("TOML");
        let knows = manifest["dependencies"].as_table().expect("a table");
        for other in PACKAGES.iter().filter(|other| knows.contains_key(**other)) {
            assert!(may_know.contains(other), "{package} must not know {other}");
        }
    }
}

#[test]
fn unsafe_code_is_where_it_may_be() {
    for path in files(".rs") {
        let text = read(&path);
        let name = path
            .strip_prefix(root())
            .expect("below")
            .to_string_lossy()
            .into_owned();
        let blocks = text.matches("unsafe {").count() + text.matches("unsafe impl").count();
        let reasons = text.matches("// SAFETY:").count();
        let here = name == "harness/tests/it/tidy.rs" || blocks == 0;
        let may = name.starts_with("models/src/cpu/")
            || name == "models/src/kv.rs"
            || name == "models/src/sampler.rs"
            || name == "backends/src/plugin/library.rs"
            || name == "harness/src/serve/crowd.rs"
            || name == "backends/src/priority.rs"
            || name == "backends/src/segments.rs"
            || name == "backends/src/probe/ffi.rs";
        assert!(here || may, "{name} has unsafe code");
        assert!(
            here || blocks == reasons,
            "{name}: {blocks} unsafe blocks, {reasons} SAFETY"
        );
    }
}

#[test]
fn the_readme_s_commands_are_the_ones_that_ci_runs() {
    let readme = read(&root().join("README.md"));
    let ci = read(&root().join(".ci/run"));
    for command in ["cargo run --release -- run", "cargo test --workspace"] {
        assert!(readme.contains(command), "README.md lacks `{command}`");
    }
    assert!(ci.contains("cargo test --workspace"));
}

#[test]
fn the_documents_are_there() {
    for name in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "LICENSE-MIT",
        "LICENSE-APACHE",
    ] {
        assert!(read(&root().join(name)).len() > 500, "{name}");
    }
    let lines = read(&root().join("ARCHITECTURE.md")).lines().count();
    assert!(
        lines <= 200,
        "ARCHITECTURE.md has {lines} lines; 200 are allowed"
    );
}
