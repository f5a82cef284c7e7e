//! What a gate found, as `JUnit` XML: one test case for each metric that decides.
//!
//! Invariant: worse and changed are failures, inconclusive is skipped with its reason; a gate never
//! reports less than its own verdict. What it does not do: times; a gate's report has none.

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use crate::gate::{GateReport, Verdict};

use super::{Style, gate};

pub(super) fn junit(report: &GateReport) -> String {
    let mut suite = TestSuite::new("weighbridge gate");
    for metric in report.metrics.iter().filter(|metric| metric.decides) {
        suite.add_test_case(case(&metric.name, metric.verdict, report));
    }
    let told = report
        .metrics
        .iter()
        .any(|metric| metric.decides && metric.verdict == report.verdict);
    if !told {
        suite.add_test_case(case("verdict", report.verdict, report));
    }
    suite.set_system_out(gate::terminal(report, Style::Plain));
    let mut whole = Report::new("weighbridge gate");
    whole.add_test_suite(suite);
    whole
        .to_string()
        .expect("the names are text, and writing to memory does not fail")
}

fn case(name: &str, verdict: Verdict, report: &GateReport) -> TestCase {
    let message = || format!("{}: {}", verdict.words(), report.reasons.join("; "));
    let status = match verdict.passes() {
        Some(true) => TestCaseStatus::success(),
        Some(false) => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status.set_message(message()).set_type(verdict.words());
            status
        }
        None => {
            let mut status = TestCaseStatus::skipped();
            status.set_message(message());
            status
        }
    };
    let mut case = TestCase::new(name, status);
    case.set_classname(format!("weighbridge.gate.{}", report.tier.words()));
    case
}
