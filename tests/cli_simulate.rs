//! `switchback simulate` through its command line.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

use serde_json::Value;

fn simulate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_switchback")).arg("simulate").args(arguments).output().unwrap()
}

const FEW: [&str; 8] = ["--margin-pp", "5", "--stable", "0.92", "--runs", "100", "--seed", "1"];

#[test]
fn the_report_has_the_keys_that_scripts_read_and_a_plot() {
    let folder = tempfile::tempdir().unwrap();
    let plot = folder.path().join("plot.svg");
    let more = ["--drop", "0.1", "--users-requests", "2", "--icc", "0.1", "--json", "--plot"];
    let arguments = [&FEW[..], &more, &[plot.to_str().unwrap()]].concat();
    let output = simulate(&arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    for decisions in [&report, &report["threshold_rule"]] {
        let share = |key: &str| decisions[key].as_f64().unwrap();
        assert!((share("abort") + share("promote") + share("inconclusive") - 1.0).abs() < 1e-9);
        assert!(share("abort") > 0.5 && share("users_exposed") > 0.0, "{report}");
        assert!(decisions["median_minutes_to_abort"].as_u64().unwrap() <= 60);
        assert!(decisions.get("median_minutes_to_promote").is_some());
    }
    let drawn = std::fs::read_to_string(&plot).unwrap();
    assert!(drawn.starts_with("<svg") && drawn.contains("aborted, sequential test"), "{drawn}");
    assert_eq!(simulate(&arguments).stdout, output.stdout, "the same seed, the same report");
}

#[test]
fn a_policy_of_the_configuration_can_be_played() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("switchback.yaml");
    let text = "server: { mode: dev }\nmodels: { m: { versions: { v1: { image: m } } } }\n\
                policies: { mine: { steps: [{setWeight: 50}, {pause: {duration: 5m}}] } }\n";
    std::fs::write(&config, text).unwrap();
    let output = simulate(&[&FEW[..], &["--policy", "mine", "--config", config.to_str().unwrap()]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("OF 100 CANARIES"));
}

#[test]
fn what_cannot_be_simulated_is_told() {
    for (arguments, word) in [
        (["--policy", "nightly"], "there are customer-facing"),
        (["--policy", "batch"], "no step in which a canary is watched"),
        (["--stable", "1.5"], "stable of 1.5 cannot be: give 0.001 to 0.999"),
        (["--margin-pp", "0"], "above 0 and below 100"),
        (["--alpha", "0.99"], "give a smaller alpha"),
        (["--runs", "0"], "give at least 1"),
    ] {
        let output = simulate(&arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(word), "{arguments:?}: {error}");
    }
}
