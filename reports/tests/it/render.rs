//! Snapshots, escaping, size and self-containment of the rendered reports.

use reports::Report;
use reports::render::{self, Style};
use reports::schema::Metric;

use crate::synthetic::{self, Story};

fn steady() -> Report {
    synthetic::report(Story::Steady, "ref-135m")
}

const HOSTILE: &str = "<script>alert(1)</script>\"'|`*](x)\u{1b}[31m\n# h";

fn hostile() -> Report {
    let mut report = synthetic::report(Story::Overloaded, HOSTILE);
    report
        .workload
        .realised
        .classes
        .insert(HOSTILE.to_owned(), 3);
    report.summary.failures.insert(HOSTILE.to_owned(), 1);
    report.run.command.push(format!("```{HOSTILE}"));
    report
        .run
        .environment
        .insert(HOSTILE.to_owned(), HOSTILE.to_owned());
    report.warnings.push(HOSTILE.to_owned());
    report.validity.reasons.push(HOSTILE.to_owned());
    if let Some(cost) = &mut report.cost {
        HOSTILE.clone_into(&mut cost.what);
    }
    report
}

/// A report with nothing in it: no request was ever made.
fn empty() -> Report {
    let mut report = steady();
    let found = synthetic::measure(&[]);
    (report.summary, report.histograms) = (found.summary, found.histograms);
    report.series = Vec::new();
    report.cost = None;
    report.workload.slo = None;
    report
}

#[test]
fn terminal_steady() {
    insta::assert_snapshot!(render::terminal(&steady(), Style::Plain));
}

#[test]
fn terminal_overloaded() {
    let report = synthetic::report(Story::Overloaded, "ref-135m");
    insta::assert_snapshot!(render::terminal(&report, Style::Plain));
}

#[test]
fn terminal_empty() {
    insta::assert_snapshot!(render::terminal(&empty(), Style::Plain));
}

/// A run over HTTP in which the client's own error is a part of some figures.
fn doubtful() -> Report {
    let mut report = synthetic::report(Story::Overloaded, "ref-135m");
    let mut preflight = crate::preflight::preflight(2_000_000);
    preflight.mark(&report.summary, report.workload.slo);
    report.client_error.preflight = Some(preflight);
    report
}

#[test]
fn terminal_doubtful() {
    insta::assert_snapshot!(render::terminal(&doubtful(), Style::Plain));
}

#[test]
fn doubtful_figures_are_marked_everywhere() {
    for text in [render::markdown(&doubtful()), render::html(&doubtful())] {
        assert!(text.contains(" †"), "a mark in the table");
        assert!(text.contains("Own error of TPOT"), "the rows of the client");
        assert!(text.contains("Own error over 5 % of the figure"));
    }
    assert!(!render::html(&steady()).contains('†'));
}

#[test]
fn terminal_fits_and_has_colour_only_when_asked() {
    let makers: [fn() -> Report; 4] = [steady, hostile, empty, doubtful];
    for report in makers.map(|make| Box::new(make())) {
        let plain = render::terminal(&report, Style::Plain);
        assert!(!plain.contains('\u{1b}'));
        let longest = plain.lines().map(|line| line.chars().count()).max();
        assert!(longest <= Some(100), "{longest:?}");
        let coloured = render::terminal(&report, Style::Ansi);
        assert!(coloured.contains("\u{1b}[1m"));
    }
}

#[test]
fn markdown_steady() {
    insta::assert_snapshot!(render::markdown(&steady()));
}

#[test]
fn markdown_keeps_hostile_names_in_their_cells() {
    let text = render::markdown(&hostile());
    let fences = text.matches("```").count();
    assert_eq!(fences, 2, "only the fences of the command");
    let outside = text.split("```").next().expect("text before the command");
    assert!(!outside.contains("<script>"), "{outside}");
    assert!(!text.contains("\n# h"), "a name started a heading");
    assert!(render::markdown(&empty()).contains("no price is known"));
}

#[test]
fn html_fetches_nothing_and_is_small() {
    for report in [steady(), hostile(), empty()] {
        let page = render::html(&report);
        assert!(page.len() < 1_000_000, "{} bytes", page.len());
        for fetch in ["http://", "https://", "<link", " src=", "@import"] {
            assert!(!page.contains(fetch), "the page has {fetch}");
        }
        let elsewhere = page
            .match_indices("url(")
            .filter(|(at, _)| !page[*at..].starts_with("url(#"));
        assert_eq!(elsewhere.count(), 0, "only references within the page");
        let links = page.match_indices("href=\"");
        let within = links.filter(|(at, _)| page[at + 6..].starts_with('#'));
        assert_eq!(within.count(), page.matches("href=").count());
    }
}

#[test]
fn html_escapes_names() {
    let page = render::html(&hostile());
    assert!(!page.contains("<script>alert"), "a name became markup");
    assert!(page.contains("&lt;script&gt;alert(1)"));
    assert!(!page.contains("\"'|"), "quotes of a name are escaped");
}

#[test]
fn html_has_every_metric_plot_and_table() {
    let page = render::html(&steady());
    for name in [
        "TTFT",
        "TTFT from send",
        "ITL",
        "Chunk gap",
        "TPOT",
        "E2E",
        "Send lag",
        "Queue",
    ] {
        assert!(page.contains(&format!("\">{name}</a><small>")), "{name}");
    }
    assert_eq!(Metric::ALL.len(), 8);
    for id in [
        "percentiles",
        "ttft-distribution",
        "itl-distribution",
        "e2e-distribution",
        "tokens",
        "in-flight",
        "ttft-time",
        "itl-time",
        "requests",
    ] {
        assert!(
            page.contains(&format!("<figure data-plot=\"{id}\">")),
            "{id}"
        );
        assert!(page.contains(&format!("<title id=\"{id}-title\">")), "{id}");
    }
    assert_eq!(page.matches("<svg ").count(), 11);
    assert_eq!(page.matches("Values as a table").count(), 11);
    for title in [
        "Throughput",
        "Cost",
        "Load and outcomes",
        "Request outcomes",
        "Load generator",
        "Definitions",
        "Environment",
    ] {
        assert!(page.contains(&format!("<h2>{title}</h2>")), "{title}");
    }
    assert!(page.contains("new-blog-june09"), "source of the price");
    assert!(
        page.contains("needs 6,636 requests, has 856"),
        "reason of a null"
    );
    assert!(
        !page.contains("fill=\"#") && !page.contains("stroke=\"#"),
        "a colour that the theme does not know"
    );
}

#[test]
fn every_term_of_a_page_is_defined_on_it() {
    let makers: [fn() -> Report; 4] = [steady, hostile, empty, doubtful];
    for report in makers.map(|make| Box::new(make())) {
        let page = render::html(&report);
        let terms: Vec<&str> = page
            .split("href=\"#def-")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .collect();
        assert!(terms.len() > 12, "{terms:?}");
        for term in terms {
            assert!(page.contains(&format!("<div id=\"def-{term}\">")), "{term}");
        }
    }
}

#[test]
fn html_of_a_day_stays_small() {
    let mut report = steady();
    let second = report.series[60].clone();
    report.series = (0..86_400)
        .map(|t_s| reports::schema::SecondPoint {
            t_s,
            ..second.clone()
        })
        .collect();
    let page = render::html(&report);
    assert!(page.len() < 1_000_000, "{} bytes", page.len());
}

#[test]
fn html_of_nothing_has_reasons_and_no_plots() {
    let page = render::html(&empty());
    assert!(page.contains("no request gave a value"));
    assert!(page.contains("no price is known for this device"));
    assert!(!page.contains("data-plot=\"tokens\""));
}
