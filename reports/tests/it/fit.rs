//! Verdict, table and page of a fit.

use reports::fit::{Check, Evidence, Fact, Fit, FitPlot, FitScale, FitShape};
use reports::render::{self, Style};

fn check(what: &str, evidence: Evidence) -> Check {
    let figures = ("1.06".to_owned(), "1.05 ± 0.01".to_owned());
    Check::new("arrivals", what, figures, evidence)
}

fn fit(checks: Vec<Check>) -> Fit {
    let mut fit = Fit::new(
        "doubao-chat".into(),
        "2 seeds, 16,000 sessions".into(),
        checks,
    );
    fit.facts.push(Fact {
        name: "requests",
        value: "44,321".to_owned(),
    });
    fit.plots.push(FitPlot {
        id: "gaps",
        title: "Gaps <b>",
        caption: "Deviation.".to_owned(),
        scales: (FitScale::Linear, FitScale::Linear),
        series: vec![
            (
                "found",
                FitShape::Line,
                vec![(0.0, -0.01), (0.5, 0.02), (1.0, 0.0)],
            ),
            ("band", FitShape::Line, vec![(0.0, 0.03), (1.0, 0.03)]),
        ],
    });
    fit
}

#[test]
fn the_chance_of_a_false_alarm_is_shared() {
    let many = |p| fit((0..50).map(|_| check("x", Evidence::P(p))).collect());
    assert!(many(0.000_03).passed && !many(0.000_01).passed);
    assert!(
        !fit(vec![
            check("a", Evidence::P(0.5)),
            check("b", Evidence::Within(false))
        ])
        .passed
    );
    assert!(fit(vec![check("b", Evidence::Within(true))]).passed);
}

#[test]
fn table_and_page_show_every_check() {
    let found = fit(vec![
        check("CV of gaps", Evidence::P(0.412)),
        check("Gaps, time rescaled", Evidence::P(3.2e-9)),
        check("Ideal prefix hit", Evidence::Within(true)),
    ]);
    insta::assert_snapshot!(render::fit(&found, Style::Plain));
    let page = render::fit_html(&found);
    assert!(page.contains("FAIL · doubao-chat") && page.contains("<svg "));
    assert_eq!(
        page.matches("<tr><th scope=\"row\">").count(),
        7,
        "checks, facts, plotted values"
    );
    assert!(!page.contains("Gaps <b>"), "titles are escaped");
    assert!(!page.contains("http://") && !page.contains("https://"));
}
