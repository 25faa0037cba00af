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

    assert_eq!(desk.json(&["load", "desk@v2", "--to", "warm"])["residency"]["state"], "warm");
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

#[test]
fn a_prompt_file_is_checked_shown_and_pinned() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("v7.md");
    let text = "---\nvariables: { shop: string, topics: { type: list, default: [tents] } }\n\
        examples: [{ user: a, assistant: b }]\n---\nAnswer for {{ shop }} about {{ topics | join(', ') }}.\n";
    std::fs::write(&file, text).unwrap();
    let show = |arguments: &[&str]| {
        let output = run(&[&["prompt", "show", file.to_str().unwrap()], arguments].concat());
        let told =
            |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&folder.path().display().to_string(), ".");
        (output.status.code(), told(&output.stdout), told(&output.stderr))
    };
    let (status, shown, needed) = show(&[]);
    assert_eq!((status, needed.as_str()), (Some(0), "to see it rendered, give --var shop=…\n"));
    insta::assert_snapshot!(shown, @r#"
    prompt: "./v7.md"
    prompt_digest: "sha256:44e6c1a4d24038c73c0e6334bc8642154eabeeef7e4ad6600c298096b63f6aa5"
    "#);
    let (_, shown, _) =
        show(&["--var", "shop=Acme", "--var", r#"topics=["tea", "tents"]"#, "--message", "Hi"]);
    insta::assert_snapshot!(shown.lines().skip(2).collect::<Vec<_>>().join("\n"), @r"
    [system]
    Answer for Acme about tea, tents.

    [user]
    a

    [assistant]
    b

    [user]
    Hi
    ");
    let (_, json, _) = show(&["--json", "--var", "shop=Acme"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["messages"][0]["content"], "Answer for Acme about tents.");
    for (arguments, why) in [
        (&["--var", "shop=Acme", "--var", "topics=tea"][..], "--var topics: found \"tea\"; give a list"),
        (&["--var", "shop=Acme", "--var", "tone=calm"], "it has: shop, topics"),
        (&["--var", "shop"], "write `--var name=value`"),
    ] {
        let (status, _, error) = show(arguments);
        assert!(status == Some(1) && error.contains(why), "{arguments:?}: {error}");
    }
    std::fs::write(&file, "Answer for {{ shop }}.").unwrap();
    let (status, _, error) = show(&[]);
    assert!(status == Some(1) && error.starts_with("error: ./v7.md:1: the template names `shop`"), "{error}");
}

#[test]
fn models_shows_which_prompt_a_version_has() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("v7.md"), "Be kind.\n").unwrap();
    let config = demo_config(folder.path());
    let text = std::fs::read_to_string(&config).unwrap().replace("/v2 }", "/v2, prompt: v7.md }");
    std::fs::write(&config, text).unwrap();
    let desk = Desk { server: Process::serve(&config), _folder: folder };
    let table = desk.text(&["models"]);
    let ends: Vec<_> =
        table.lines().map(|line| line.split_whitespace().rev().take(2).collect::<Vec<_>>()).collect();
    assert_eq!(ends[0], ["PROMPT", "ADAPTER"]);
    assert_eq!(ends[2], ["f32bf5e09516", "v7.md"]);
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
