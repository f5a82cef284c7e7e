//! Writes the made-up report of the tests: `demo_report DIR [steady|overloaded]`, and the two
//! stories side by side as `compare.html`.

use std::path::Path;

use reports::compare::{Aspect, compare};
use reports::render::{self, Style};
use reports::subject::Subject;

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
    let stories = [synthetic::Story::Steady, synthetic::Story::Overloaded];
    let subjects = stories.map(|story| Subject::from(&synthetic::report(story, "ref-135m")));
    let found_both = compare(subjects.into(), 0, &[Aspect::Invalid]);
    let found_both = found_both.map_err(std::io::Error::other)?;
    std::fs::write(
        directory.join("compare.html"),
        render::comparison_html(&found_both),
    )?;
    std::fs::write(directory.join("latency.hlog"), found.interval_log)
}
