//! The command line against a running server, and against none: what is printed, and the exit status.

#![allow(clippy::unwrap_used)]

mod common;

use std::process::Output;

use common::process::{Process, demo_config, run};
use serde_json::Value;
use tempfile::TempDir;

struct Desk {
    server: Process,
    _folder: TempDir,
}

fn desk() -> Desk {
    let folder = tempfile::tempdir().unwrap();
    Desk { server: Process::serve(&demo_config(folder.path())), _folder: folder }
}

impl Desk {
    fn run(&self, arguments: &[&str]) -> Output {
        run(&[arguments, &["--admin", &self.server.admin]].concat())
    }

    /// Standard output of a command that succeeds.
    fn text(&self, arguments: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.run(arguments);
        assert!(status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
        assert!(stderr.is_empty(), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.text(&[arguments, &["--json"]].concat())).unwrap()
    }

    /// Standard error of a command that fails with status 1.
    fn refusal(&self, arguments: &[&str]) -> String {
        refusal(&self.run(arguments))
    }
}

fn refusal(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    text
}

/// The first words of each line of a table.
fn columns(table: &str, count: usize) -> Vec<Vec<&str>> {
    table.lines().map(|line| line.split_whitespace().take(count).collect()).collect()
}

#[test]
fn operators_see_and_move_traffic() {
    let desk = desk();
    let table = desk.text(&["models"]);
    assert_eq!(
        columns(&table, 3),
        [["VERSION", "RESIDENCY", "TRAFFIC"], ["desk@v1", "hot", "100"], ["desk@v2", "hot", "0"]]
    );
    let models = desk.json(&["models"]);
    assert_eq!(models["models"][0]["versions"][1]["version"], "v2");

    insta::assert_snapshot!(desk.text(&["route", "desk"]), @r"
    VERSION  WEIGHT
    v1       100 %
    revision 1, stable v1, no rollback target
    ");
    let moved = desk.text(&["route", "desk", "v1=97.5", "v2=2.5", "--reason", "a canary"]);
    insta::assert_snapshot!(moved, @r"
    VERSION  WEIGHT
    v1       97.5 %
    v2       2.5 %
    revision 2, stable v1, rolls back to v1
    ");
    let route = desk.json(&["route", "desk"]);
    assert_eq!((&route["weights"]["v2"], &route["revision"]), (&2.5.into(), &2.into()));

    insta::assert_snapshot!(desk.text(&["rollback", "desk"]), @r"
    VERSION  WEIGHT
    v1       100 %
    revision 3, stable v1, no rollback target
    ");
    assert_eq!(desk.json(&["route", "desk", "v2=100"])["stable"], "v2");
    assert_eq!(desk.json(&["rollback", "desk", "--reason", "slow"])["weights"]["v1"], 100.0);
}

#[test]
fn operators_load_and_unload_a_version() {
    let desk = desk();
    let table = desk.text(&["unload", "desk@v2", "--reason", "to save memory"]);
    assert_eq!(columns(&table, 3)[1], ["desk@v2", "cold", "0"]);
    assert!(desk.refusal(&["route", "desk", "v2=100"]).contains("desk@v2 is not hot; load it first"));
    assert_eq!(desk.json(&["unload", "desk@v2"])["residency"]["state"], "cold");

    let table = desk.text(&["load", "desk@v2", "--reason", "it is needed again"]);
    assert_eq!(columns(&table, 3)[1], ["desk@v2", "hot", "0"]);
    assert_eq!(desk.json(&["load", "desk@v2"])["residency"]["state"], "hot");
    desk.text(&["route", "desk", "v2=100"]);
    assert!(desk.refusal(&["unload", "desk@v2"]).contains("set its weight to 0 first"));
}

#[test]
fn what_cannot_be_done_is_refused_with_the_reason_and_a_status() {
    let desk = desk();
    for arguments in [
        &["route", "nobody"][..],
        &["route", "nobody", "v1=100"],
        &["rollback", "nobody"],
        &["load", "nobody@v1"],
        &["unload", "nobody@v1", "--json"],
    ] {
        let text = desk.refusal(arguments);
        assert!(text.starts_with("error: ") && text.contains("nobody"), "{arguments:?}: {text}");
    }
    assert!(desk.refusal(&["load", "desk@v9"]).contains("v9"));
    assert!(desk.refusal(&["rollback", "desk"]).contains("set the weights instead"));
    assert!(desk.refusal(&["route", "desk", "v1=60"]).contains("100 %"));
    assert!(desk.refusal(&["route", "desk", "v1=60", "v1=40"]).contains("named twice"));
    // what does not parse is the caller's mistake: status 2, before any server is asked
    for arguments in [&["load", "desk"][..], &["route", "desk", "v1"], &["route", "desk", "v1=101"]] {
        let output = desk.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn without_a_server_every_command_says_how_to_reach_one() {
    // a port that was free a moment ago
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for arguments in [
        &["models"][..],
        &["route", "desk", "--json"],
        &["rollback", "desk"],
        &["load", "desk@v1"],
        &["unload", "desk@v1"],
    ] {
        let text = refusal(&run(&[arguments, &["--admin", &nobody]].concat()));
        assert!(text.contains(&format!("no server answers at http://{nobody}")), "{text}");
        assert!(text.contains("switchback serve") && text.contains("--admin"), "{text}");
    }
}

#[test]
fn an_unpinned_version_is_warned_about() {
    let folder = tempfile::tempdir().unwrap();
    let server = Process::serve_with(&demo_config(folder.path()), "warn,switchback=info");
    let warned = |version: &str| {
        server.log.lines().any(|line| {
            line.contains("WARN") && line.contains("unpinned") && line.contains(&format!("version={version}"))
        })
    };
    assert!(warned("v1") && warned("v2"), "{}", server.log);
    assert!(server.log.contains("loading version=desk@v1"), "{}", server.log);
}

/// Runs a benchmark of the demo and gives its JSON document.
fn bench(arguments: &[&str]) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let config = demo_config(folder.path());
    let output = run(&[&["bench"], arguments, &["--json", "--config", config.to_str().unwrap()]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_switching_benchmark_tells_what_was_lost_and_how_long_it_took() {
    let report = bench(&["switch", "--switches", "6", "--clients", "4"]);
    assert_eq!((&report["switches"], &report["failed"], &report["mixed"]), (&6.into(), &0.into(), &0.into()));
    for key in ["visible_us_p50", "visible_us_p99", "lookup_ns"] {
        assert!(report[key].as_f64().unwrap() > 0.0, "{key}: {report}");
    }
}

#[test]
fn the_demo_benchmark_scores_each_version() {
    let report = bench(&["demo", "--cases", "4"]);
    for version in ["v1", "v2"] {
        let figures = &report[version];
        assert_eq!(figures["cases"], 4, "{report}");
        for key in ["accuracy", "valid_json", "refusal"] {
            assert!((0.0..=1.0).contains(&figures[key].as_f64().unwrap()), "{key}: {report}");
        }
    }
}
