//! Right generators pass, wrong ones fail: each mistake that generators have been found to make.

use super::*;
use crate::workload::spec;

fn options(spec: &WorkloadSpec) -> CheckOptions {
    CheckOptions {
        seeds: vec![1, 2, 3, 4],
        sessions: 16_000,
        rate: spec.rate,
        arrivals: spec.arrivals,
    }
}

fn failures(fit: &Fit) -> Vec<String> {
    let failed = fit.checks.iter().filter(|check| !check.passed);
    failed
        .map(|c| {
            format!(
                "{}: {} for {} ({:?})",
                c.what, c.found, c.expected, c.evidence
            )
        })
        .collect()
}

#[test]
fn every_preset_fits_its_specification() {
    for name in spec::builtin_names()
        .iter()
        .map(String::as_str)
        .chain(["random:128/64"])
    {
        let spec = spec::load(name).expect("built in");
        let fit = check_spec(&spec, &options(&spec));
        assert!(fit.passed, "{name}: {:#?}", failures(&fit));
        assert!(
            fit.checks.len() >= 10,
            "{name}: {} checks",
            fit.checks.len()
        );
    }
}

#[test]
fn a_right_generator_passes_for_other_seeds_too() {
    let spec = spec::load("doubao-chat-lite").expect("built in");
    let alarms = (100..120).filter(|&seed| {
        let options = CheckOptions {
            seeds: vec![seed],
            sessions: 2_500,
            ..options(&spec)
        };
        !check_spec(&spec, &options).passed
    });
    // One in a thousand may fail; of twenty more than one do so once in five thousand times.
    let alarms: Vec<u64> = alarms.collect();
    assert!(alarms.len() <= 1, "{alarms:?}");
}

/// Checks samples that were made by a wrong generator.
#[track_caller]
fn wrong(change: impl Fn(&mut Sample)) -> Vec<String> {
    let spec = spec::load("doubao-chat").expect("built in");
    let options = CheckOptions {
        sessions: 10_000,
        ..options(&spec)
    };
    let make = |&seed: &u64| {
        let mut sample = Sample::generate(&spec, &options, seed);
        change(&mut sample);
        sample
    };
    let samples: Vec<Sample> = options.seeds.iter().map(make).collect();
    let fit = check_samples(&spec, &options, &samples);
    assert!(!fit.passed, "it was not found");
    failures(&fit)
}

#[test]
fn one_uniform_for_all_fields_fails() {
    // Each field keeps its law, but a long message always has a long answer.
    let failed = wrong(|sample| {
        let classes = sample.sessions.iter().map(|s| s.class).max().unwrap_or(0);
        for class in 0..=classes {
            let of_class = |s: &&mut SessionPlan| s.class == class;
            let mut firsts: Vec<&mut SessionPlan> =
                sample.sessions.iter_mut().filter(of_class).collect();
            let mut answers: Vec<u32> = firsts.iter().map(|s| s.turns[0].output_tokens).collect();
            answers.sort_unstable();
            firsts.sort_by_key(|session| session.turns[0].user_tokens);
            for (session, answer) in firsts.into_iter().zip(answers) {
                session.turns[0].output_tokens = answer;
                session.turns[0].cancel_after = None;
            }
        }
    });
    assert!(
        failed
            .iter()
            .any(|what| what.starts_with("message and answer")),
        "{failed:#?}"
    );
}

#[test]
fn gaps_scaled_to_the_exact_sum_fail() {
    let spec = spec::load("doubao-chat").expect("built in");
    let failed = wrong(|sample| {
        // As many as the rate says, the last of them exactly at the end.
        let (from, to) = sample.span_s;
        let count = (spec.rate / spec.mean_turns() * (to - from)).round() as usize;
        let mut last = *sample.starts_s.last().expect("there are some");
        while sample.starts_s.len() < count {
            last += (to - from) / count as f64;
            sample.starts_s.push(last);
        }
        sample.starts_s.truncate(count);
        let scale = (to - from) / (sample.starts_s[count - 1] - from);
        let moved = |start: &mut f64| *start = from + (*start - from) * scale;
        sample.starts_s.iter_mut().for_each(moved);
    });
    assert!(
        failed
            .iter()
            .any(|what| what.starts_with("number, and its variance")),
        "{failed:#?}"
    );
}

#[test]
fn too_much_variation_of_gaps_fails() {
    let spec = spec::load("doubao-chat").expect("built in");
    let right = CheckOptions {
        seeds: vec![7],
        sessions: 10_000,
        ..options(&spec)
    };
    let clumped = CheckOptions {
        arrivals: Arrivals::Gamma(1.2),
        ..right.clone()
    };
    let samples = [Sample::generate(&spec, &clumped, 7)];
    let fit = check_samples(&spec, &right, &samples);
    let failed = failures(&fit);
    assert!(
        failed.iter().any(|what| what.starts_with("CV of gaps")),
        "{failed:#?}"
    );
    assert!(check_samples(&spec, &clumped, &samples).passed);
}

#[test]
fn other_mistakes_are_found_where_they_are() {
    let longer = wrong(|sample| {
        for session in &mut sample.sessions {
            session
                .turns
                .iter_mut()
                .for_each(|turn| turn.output_tokens += turn.output_tokens / 10);
        }
    });
    assert!(
        longer
            .iter()
            .any(|what| what.starts_with("answers, all classes")),
        "{longer:#?}"
    );
    let clipped = wrong(|sample| {
        for session in &mut sample.sessions {
            session.turns.truncate(8);
        }
    });
    assert!(
        clipped.iter().any(|what| what.starts_with("turns")),
        "{clipped:#?}"
    );
    let impatient = wrong(|sample| {
        for session in &mut sample.sessions {
            session
                .turns
                .iter_mut()
                .for_each(|turn| turn.think_s *= 0.9);
        }
    });
    assert!(
        impatient.iter().any(|what| what.starts_with("pauses")),
        "{impatient:#?}"
    );
    let thinned = |session: &SessionPlan| !session.index.is_multiple_of(4) || session.class != 1;
    let one_class = wrong(|sample| sample.sessions.retain(thinned));
    assert!(
        one_class
            .iter()
            .any(|what| what.starts_with("class shares")),
        "{one_class:#?}"
    );
}

#[test]
fn a_day_at_the_wrong_hour_fails() {
    let spec = spec::load("doubao-day").expect("built in");
    let mut shifted = spec.clone();
    let day = shifted
        .rate_shape
        .as_mut()
        .and_then(|shape| shape.day.as_mut());
    day.expect("it has a day").from_hour = 3.0;
    let options = options(&spec);
    let samples = [Sample::generate(&shifted, &options, 1)];
    let failed = failures(&check_samples(&spec, &options, &samples));
    assert!(
        failed
            .iter()
            .any(|what| what.starts_with("sessions by hour")),
        "{failed:#?}"
    );
}
