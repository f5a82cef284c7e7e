//! Refusals, ratios, break-even.

use proptest::prelude::*;

use super::*;

fn figure(value: f64, ci95: Option<(f64, f64)>) -> SubjectFigure {
    SubjectFigure {
        value,
        ci95,
        n: None,
    }
}

fn slo(ttft_s: f64) -> Slo {
    Slo {
        ttft_s: Some(ttft_s),
        tpot_s: None,
        e2e_s: None,
    }
}

fn subject(label: &str) -> Subject {
    let mut subject = Subject::new(Source::Weighbridge, label);
    subject.model.name = Some("ref-135m".to_owned());
    subject.model.tokenizer = Some("smollm2".to_owned());
    subject.workload.name = Some("doubao-chat".to_owned());
    subject.workload.schedule_hash = Some("9b1c".to_owned());
    subject.workload.seed = Some(7);
    subject.workload.slo = Some(slo(2.0));
    let rate = figure(10.0, Some((9.0, 11.0)));
    subject
        .figures
        .insert("output_tokens_per_s".to_owned(), rate);
    subject
        .figures
        .insert("goodput_rate".to_owned(), figure(2.0, None));
    subject
}

/// Aspects in which a subject, changed, is refused beside an unchanged one.
fn refused(change: impl Fn(&mut Subject)) -> Vec<&'static str> {
    let mut other = subject("other");
    change(&mut other);
    match compare(vec![subject("base"), other], 0, &[]) {
        Ok(_) => Vec::new(),
        Err(CompareError::Incomparable(found)) => {
            found.iter().map(|one| one.aspect.name()).collect()
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn what_is_not_alike_is_refused() {
    type Change = fn(&mut Subject);
    let cases: [(&[&str], Change); 14] = [
        (&[], |other| other.workload.slo = None),
        (&[], |_| {}),
        (&[], |other| {
            other.device = Some("another device".to_owned());
        }),
        (&[], |other| other.model.tokenizer = None),
        (&["tokenizer"], |other| {
            other.model.tokenizer = Some("qwen2".to_owned());
        }),
        (&["model"], |other| {
            other.model.name = Some("qwen".to_owned());
        }),
        (&["simulated"], |other| other.basis = Basis::Simulated),
        (&["invalid"], |other| {
            other.invalid = vec!["it was late".to_owned()];
        }),
        (&["workload"], |other| {
            other.workload.schedule_hash = Some("77aa".to_owned());
        }),
        (&["workload"], |other| {
            other.workload.schedule_hash = Some("77aa".to_owned());
            other.workload.seed = Some(8);
        }),
        (&["definitions"], |other| other.source = Source::Vllm),
        (&["slo"], |other| {
            other.workload.slo = Some(slo(1.0));
        }),
        (&["simulated", "model"], |other| {
            other.basis = Basis::Simulated;
            other.model.name = Some("qwen".to_owned());
        }),
        (&[], |other| {
            other.workload.slo = Some(slo(1.0));
            other.figures.remove("goodput_rate");
        }),
    ];
    for (index, (expected, change)) in cases.into_iter().enumerate() {
        assert_eq!(refused(change), expected, "case {index}");
    }
}

#[test]
fn loads_of_tools_without_a_schedule_are_held_by_what_they_state() {
    let foreign = |rate: f64, output: f64| {
        let mut subject = subject("vllm");
        subject.source = Source::Vllm;
        subject.workload.schedule_hash = None;
        subject.workload.target_rate = Some(rate);
        subject.workload.output_tokens_mean = Some(output);
        subject
    };
    let found = |other| compare(vec![foreign(4.0, 128.0), other], 0, &[]);
    assert!(found(foreign(4.0, 127.0)).is_ok(), "within two percent");
    let refused = |other| found(other).expect_err("another load").to_string();
    assert!(refused(foreign(5.0, 128.0)).contains("rate 4"));
    assert!(refused(foreign(4.0, 64.0)).contains("mean output 128"));
    let mut silent = foreign(4.0, 128.0);
    silent.workload = crate::subject::WorkloadIdentity::default();
    let notes = found(silent).expect("not stated is not different").notes;
    assert!(
        notes.iter().any(|note| note.contains("same workload")),
        "{notes:?}"
    );
}

#[test]
fn quantisations_are_compared_and_said() {
    let with = |label: &str, weights: &str, parameters| {
        let mut subject = subject(label);
        subject.model.name = Some(format!("model-{weights}.gguf"));
        subject.model.weights = Some(weights.to_owned());
        subject.model.architecture = Some("llama".to_owned());
        subject.model.parameters = Some(parameters);
        subject
    };
    let pair = vec![with("a", "F16", 7), with("b", "Q4_1", 7)];
    let notes = compare(pair, 0, &[]).expect("one model").notes;
    assert!(notes[0].contains("quantisations are compared"), "{notes:?}");
    let pair = vec![with("a", "F16", 7), with("b", "Q4_1", 8)];
    assert!(compare(pair, 0, &[]).is_err(), "another size");
}

#[test]
fn what_is_allowed_is_kept_in_mind() {
    let mut other = subject("base");
    other.basis = Basis::Simulated;
    other.model.tokenizer = Some("qwen2".to_owned());
    let pair = || vec![subject("base"), other.clone()];
    let partly = compare(pair(), 0, &[Aspect::Simulated]);
    assert!(matches!(partly, Err(CompareError::Incomparable(rest)) if rest.len() == 1));
    let found = compare(pair(), 0, &[Aspect::Simulated, Aspect::Tokenizer]).expect("allowed");
    assert_eq!(found.tolerated.len(), 2);
    assert_eq!(found.subjects[1].label, "base (2)", "labels differ");
    assert!(found.tolerated[0].why.contains("simulated figures"));
}

#[test]
fn too_few_and_nothing_in_common_are_errors() {
    assert_eq!(
        compare(vec![subject("a")], 0, &[]),
        Err(CompareError::TooFew(1))
    );
    let pair = || vec![subject("a"), subject("b")];
    assert!(matches!(
        compare(pair(), 2, &[]),
        Err(CompareError::Reference { given: 3, .. })
    ));
    let mut bare = pair();
    bare[1].figures.clear();
    assert!(matches!(
        compare(bare, 0, &[]),
        Err(CompareError::NothingInCommon(..))
    ));
}

#[test]
fn a_ratio_says_what_it_shows() {
    let base = figure(100.0, Some((95.0, 105.0)));
    let cases = [
        (figure(120.0, Some((114.0, 126.0))), Finding::Better),
        (figure(80.0, Some((76.0, 84.0))), Finding::Worse),
        (
            figure(103.0, Some((98.0, 108.0))),
            Finding::NoDifferenceShown,
        ),
        (figure(120.0, None), Finding::NotTested),
        // An interval that does not hold its own figure is no interval.
        (figure(120.0, Some((130.0, 140.0))), Finding::NotTested),
    ];
    for (other, expected) in cases {
        let found = ratio(&other, &base, Better::Higher).expect("positive");
        assert_eq!(found.finding, expected, "{other:?}");
    }
    assert_eq!(ratio(&figure(0.0, None), &base, Better::Higher), None);
    // By hand: √(ln(120/114)² + ln(105/100)²) = 0.07084, √(ln(126/120)² + ln(100/95)²) = 0.07084.
    let (low, high) = ratio(&cases[0].0, &base, Better::Higher)
        .and_then(|ratio| ratio.ci95)
        .expect("both have one");
    assert!(
        (low - 1.117_9).abs() < 1e-4 && (high - 1.288_1).abs() < 1e-4,
        "{low} {high}"
    );
}

#[test]
fn break_even_is_the_ratio_of_work_in_the_reference_s_price() {
    let mut pair = vec![subject("a"), subject("b")];
    pair[0].usd_per_hour = Some(2.0);
    pair[1]
        .figures
        .insert("goodput_rate".to_owned(), figure(3.0, None));
    let found = compare(pair.clone(), 0, &[]).expect("alike").break_even;
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].figure.as_str(), found[0].usd_per_hour),
        ("goodput_rate", Some(3.0))
    );
    // A system that does no work within the SLO is not saved by its token rate.
    pair[1]
        .figures
        .insert("goodput_rate".to_owned(), figure(0.0, None));
    assert!(compare(pair, 0, &[]).expect("alike").break_even.is_empty());
}

fn any_figure() -> impl Strategy<Value = SubjectFigure> {
    (1e-6_f64..1e6, 0.0_f64..0.9, 0.0_f64..5.0).prop_map(|(value, below, above)| {
        figure(value, Some((value * (1.0 - below), value * (1.0 + above))))
    })
}

proptest! {
    #[test]
    fn exchanging_the_sides_inverts_a_ratio(a in any_figure(), b in any_figure()) {
        let one = ratio(&a, &b, Better::Lower).expect("positive");
        let other = ratio(&b, &a, Better::Lower).expect("positive");
        let close = |x: f64, y: f64| (x * y - 1.0).abs() < 1e-9;
        prop_assert!(close(one.value, other.value));
        let ((low, high), (low_2, high_2)) = one.ci95.zip(other.ci95).expect("both have one");
        prop_assert!(close(low, high_2) && close(high, low_2));
        prop_assert!(low <= one.value && one.value <= high);
        let opposite = match one.finding {
            Finding::Better => Finding::Worse,
            Finding::Worse => Finding::Better,
            same => same,
        };
        prop_assert_eq!(other.finding, opposite);
    }
}
