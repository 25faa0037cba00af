use std::time::Duration;

use super::*;
use crate::config::{Guardrails as Limits, Policy, Ratio, RelativeChange, TimeLimit, Timing};

fn policy() -> Policy {
    let quantile = 0.9.try_into().unwrap();
    let limit = TimeLimit { quantile, max_ratio: Ratio::new(1.5).unwrap() };
    let guardrails = Limits {
        times: [(Timing::Latency, limit)].into(),
        output_length: RelativeChange::percent(30.0),
        ..Limits::none()
    };
    Policy { guardrails, ..Policy::default() }
}

/// Minutes of 50 canary and 200 stable answers, which take a second and a half on average and have 100 tokens, but for
/// what is said of the canary.
fn play(limits: &mut Guardrails, minutes: std::ops::Range<u64>, slower: f64, longer: f64) {
    for minute in minutes {
        for i in 0..250_u64 {
            let (arm, slower, longer) =
                if i % 5 == 0 { (Arm::Canary, slower, longer) } else { (Arm::Stable, 1.0, 1.0) };
            let spread = 0.5 + ((minute * 250 + i) * 7919 % 1009) as f64 / 1009.0;
            let measured = Measured {
                latency: Some(Duration::from_secs_f64(1.5 * spread * slower)),
                first_token: None,
                output_tokens: Some((100.0 * spread * longer) as usize),
            };
            let user = UserCell::of((minute * 250 + i).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            limits.observe(arm, user, &measured);
        }
        limits.look();
    }
}

fn after(minutes: u64, slower: f64, longer: f64) -> Guardrails {
    let mut limits = Guardrails::new(&policy());
    play(&mut limits, 0..minutes, slower, longer);
    limits
}

fn over(limits: &Guardrails, verdict: Verdict) -> Judgement {
    limits.over(Judgement { verdict, why: format!("`overall`: {verdict}") })
}

fn standings(limits: &Guardrails) -> Vec<Standing> {
    limits.findings().into_iter().map(|finding| finding.standing).collect()
}

#[test]
fn each_guardrail_explains_itself_with_its_numbers() {
    let told = [
        over(&after(30, 1.0, 1.0), Verdict::Promote),
        over(&after(30, 2.0, 1.0), Verdict::Promote),
        over(&after(30, 1.0, 1.6), Verdict::Continue),
        over(&after(30, 2.0, 0.5), Verdict::Abort),
        over(&after(0, 1.0, 1.0), Verdict::Continue),
        over(&after(1, 1.0, 1.32), Verdict::Promote),
    ]
    .map(|judgement| format!("{} | {}", judgement.verdict, judgement.why));
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn a_breach_aborts_whatever_the_checks_say_and_stays() {
    let mut limits = after(30, 2.0, 2.0);
    for verdict in [Verdict::Continue, Verdict::Promote, Verdict::Abort] {
        assert_eq!(over(&limits, verdict).verdict, Verdict::Abort);
    }
    play(&mut limits, 30..90, 0.5, 1.0);
    assert_eq!(standings(&limits), [Standing::Breached; 2]);
}

#[test]
fn a_guardrail_never_promotes_and_holds_one_that_leans_beyond_its_limit() {
    assert_eq!(over(&after(30, 1.0, 1.0), Verdict::Continue).verdict, Verdict::Continue);
    let leaning = after(1, 1.0, 1.32);
    assert_eq!(standings(&leaning), [Standing::Unknown, Standing::Leaning]);
    assert_eq!(over(&leaning, Verdict::Promote).verdict, Verdict::Continue);
}

#[test]
fn what_is_allowed_is_no_breach() {
    for (slower, longer) in [(1.45, 1.25), (0.2, 0.75), (1.0, 1.0)] {
        assert_eq!(standings(&after(60, slower, longer)), [Standing::Within; 2], "{slower} and {longer}");
    }
}

#[test]
fn a_bad_hour_of_both_is_nobodys_fault() {
    let mut limits = Guardrails::new(&policy());
    for hour in 0..6 {
        let both = f64::from(1 + hour % 3);
        for i in 0..1000_u64 {
            let share = if hour % 3 == 2 { 2 } else { 20 };
            let arm = if i % share == 0 { Arm::Canary } else { Arm::Stable };
            let measured = Measured {
                latency: Some(Duration::from_secs_f64(both * (1.0 + (i * 7 % 13) as f64))),
                first_token: None,
                output_tokens: Some((both * 100.0) as usize + (i * 5 % 11) as usize),
            };
            let user = (hour as u64 * 1000 + i).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            limits.observe(arm, UserCell::of(user), &measured);
        }
        limits.look();
        limits.cut();
    }
    assert!(
        standings(&limits).iter().all(|standing| *standing == Standing::Within),
        "{:?}",
        limits.findings()
    );
}

#[test]
fn guardrails_go_on_after_a_restart() {
    let mut whole = after(4, 1.7, 1.4);
    let written: Vec<(String, String)> =
        whole.snapshots().into_iter().map(|(name, text)| (name, text.unwrap())).collect();
    assert!(written.iter().all(|(name, _)| Guardrails::wrote(name)), "{written:?}");
    assert!(!Guardrails::wrote("is-json") && "guardrail:latency".parse::<crate::ids::CheckName>().is_err());
    let mut resumed = Guardrails::new(&policy());
    resumed.resume(&written);
    for limits in [&mut whole, &mut resumed] {
        play(limits, 4..9, 1.7, 1.4);
    }
    assert_eq!(resumed.findings(), whole.findings());
    assert_ne!(resumed.findings(), after(5, 1.7, 1.4).findings());
    let stored_before_there_were_guardrails: Policy = serde_json::from_str("{}").unwrap();
    assert!(Guardrails::new(&stored_before_there_were_guardrails).findings().is_empty());
}
