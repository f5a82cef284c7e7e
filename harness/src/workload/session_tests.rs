//! The generator against the aggregates that its specification expects (Monte-Carlo of 40,000
//! sessions in the specification). Both sides are samples: a tolerance is three standard errors of
//! their difference, at least 3 %.

use super::*;
use crate::workload::spec;

const OVERHEAD: TemplateOverhead = TemplateOverhead {
    without_system: 8,
    with_system: 16,
    exchange: 16,
};

fn sessions(name: &str, count: u64) -> (WorkloadSpec, Vec<SessionPlan>) {
    let spec = spec::load(name).expect("built in");
    let sessions = (0..count)
        .map(|index| plan_session(&spec, 20_241_231, index))
        .collect();
    (spec, sessions)
}

fn quantile(values: &mut [u32], q: f64) -> f64 {
    values.sort_unstable();
    f64::from(values[((values.len() as f64 * q).ceil() as usize).max(1) - 1])
}

fn mean(values: &[u32]) -> f64 {
    values.iter().map(|&value| f64::from(value)).sum::<f64>() / values.len() as f64
}

#[track_caller]
fn close(name: &str, found: f64, expected: f64, tolerance: f64) {
    let error = found / expected - 1.0;
    assert!(
        error.abs() <= tolerance,
        "{name}: {found:.3}, expected {expected} ± {tolerance}"
    );
}

#[test]
fn doubao_chat_is_what_its_specification_expects() {
    let (spec, sessions) = sessions("doubao-chat", 40_000);
    let turns: Vec<&TurnPlan> = sessions.iter().flat_map(|session| &session.turns).collect();
    let requests = turns.len() as f64;
    close(
        "turns per session",
        requests / sessions.len() as f64,
        2.77,
        0.03,
    );
    for (k, expected) in [(2, 0.455), (3, 0.298), (5, 0.155), (10, 0.048)] {
        let share = sessions
            .iter()
            .filter(|session| session.turns.len() >= k)
            .count() as f64;
        close(
            &format!("P(T >= {k})"),
            share / sessions.len() as f64,
            expected,
            0.1,
        );
    }
    let mut user: Vec<u32> = turns.iter().map(|turn| turn.user_tokens).collect();
    close("user p50", quantile(&mut user, 0.5), 16.0, 0.07);
    close("user mean", mean(&user), 213.0, 0.08);
    let mut output: Vec<u32> = turns.iter().map(|turn| turn.received_tokens()).collect();
    close("output mean", mean(&output), 314.0, 0.03);
    close("output p50", quantile(&mut output, 0.5), 240.0, 0.03);
    close("output p99", quantile(&mut output, 0.99), 1403.0, 0.05);
    let short = output.iter().filter(|&&tokens| tokens <= 200).count() as f64 / requests;
    close("output <= 200", short, 0.436, 0.03);
    let cancelled = turns
        .iter()
        .filter(|turn| turn.cancel_after.is_some())
        .count() as f64;
    close("cancelled", cancelled / requests, 0.0385, 0.06);
    let mut prompts: Vec<u32> = Vec::new();
    for session in &sessions {
        let turns = 0..session.turns.len();
        prompts.extend(turns.map(|t| plan_prompt(&spec, session, t, OVERHEAD).prompt_tokens));
    }
    close("prompt mean", mean(&prompts), 2887.0, 0.03);
    close("prompt p50", quantile(&mut prompts, 0.5), 1970.0, 0.03);
    close("prompt p95", quantile(&mut prompts, 0.95), 7611.0, 0.04);
}

#[test]
fn classes_have_their_share_of_requests() {
    let (spec, sessions) = sessions("doubao-chat", 40_000);
    let requests: usize = sessions.iter().map(|session| session.turns.len()).sum();
    for (id, expected) in [
        ("casual_chat", 0.227),
        ("search_qa", 0.235),
        ("homework_qa", 0.14),
        ("writing", 0.124),
        ("translation", 0.038),
        ("coding", 0.041),
        ("roleplay", 0.141),
        ("doc_long", 0.053),
    ] {
        let of_class = sessions
            .iter()
            .filter(|session| spec.classes[session.class].id == id);
        let share = of_class.map(|session| session.turns.len()).sum::<usize>() as f64;
        close(id, share / requests as f64, expected, 0.12);
    }
}

#[test]
fn prompts_and_answers_fit_the_context() {
    for name in [
        "smoke",
        "doubao-chat-lite",
        "doubao-chat-8k",
        "random:100/20",
    ] {
        let (spec, sessions) = sessions(name, 3_000);
        let mut truncated = 0;
        for session in &sessions {
            for turn in 0..session.turns.len() {
                let prompt = plan_prompt(&spec, session, turn, OVERHEAD);
                let total = prompt.prompt_tokens + session.turns[turn].output_tokens;
                assert!(total <= spec.context_limit, "{name}: {total}");
                truncated += u32::from(prompt.truncated);
            }
        }
        assert_eq!(
            truncated > 0,
            !name.starts_with("random"),
            "{name}: {truncated} cut"
        );
    }
}

#[test]
fn a_session_depends_on_its_index_alone_and_cancels_change_nothing_else() {
    let spec = spec::load("doubao-chat").expect("built in");
    let calm = WorkloadSpec {
        cancel: false,
        ..spec.clone()
    };
    for index in 0..200 {
        let session = plan_session(&spec, 9, index);
        assert_eq!(session, plan_session(&spec, 9, index));
        let other = plan_session(&calm, 9, index);
        let lengths = |s: &SessionPlan| -> Vec<_> {
            s.turns
                .iter()
                .map(|t| (t.user_tokens, t.output_tokens, t.think_s.to_bits()))
                .collect()
        };
        assert_eq!(lengths(&session), lengths(&other));
        assert!(other.turns.iter().all(|turn| turn.cancel_after.is_none()));
    }
}
