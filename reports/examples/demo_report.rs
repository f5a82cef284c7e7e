//! Writes the made-up report of the tests: `demo_report DIR [steady|overloaded]`.

use std::path::Path;

use reports::render::{self, Style};

#[path = "../tests/it/synthetic.rs"]
mod synthetic;

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().unwrap_or_else(|| ".".to_owned());
    let story = match arguments.next().as_deref() {
        Some("overloaded") => synthetic::Story::Overloaded,
        _ => synthetic::Story::Steady,
    };
    let directory = Path::new(&directory);
    std::fs::create_dir_all(directory)?;
    let report = synthetic::report(story, "ref-135m");
    let found = synthetic::measured(story);
    std::fs::write(
        directory.join("report.json"),
        serde_json::to_string_pretty(&report)?,
    )?;
    std::fs::write(directory.join("report.html"), render::html(&report))?;
    std::fs::write(directory.join("report.md"), render::markdown(&report))?;
    std::fs::write(
        directory.join("report.txt"),
        render::terminal(&report, Style::Ansi),
    )?;
    std::fs::write(directory.join("latency.hlog"), found.interval_log)
}
