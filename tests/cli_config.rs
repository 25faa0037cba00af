//! `switchback check` and `switchback diff`: a configuration looked at without a server.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::process::Output;

use common::process::run;
use serde_json::Value;
use tempfile::TempDir;

/// A configuration of the demo with prompts; `v3` has what else is said.
fn folder(v3: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let models = models.display();
    write("v1.md", "---\ntemperature: 0.7\n---\nYou are the desk.\nBe kind.\nBe brief.\n");
    write("v2.md", "---\ntemperature: 0\n---\nYou are the desk.\nBe kind.\nBe very brief.\n");
    write("broken.md", "{% for x in %}\n");
    write("suite.yaml", "prompts: [hi]\ntests: [{ assert: [{ type: contains, value: a }] }]\n");
    write("bad-suite.yaml", "prompts: [hi]\ntests: [{ assert: [{ type: regex, value: '(' }] }]\n");
    write(
        "switchback.yaml",
        &format!(
            "server: {{ mode: dev }}\nmodels:\n  desk:\n    checks: [is-json]\n    versions:\n      \
             v1: {{ image: {models}/v1, prompt: v1.md }}\n      v2: {{ image: {models}/v1, prompt: v2.md, residency: cold }}\n      \
             v3: {{ image: {models}/v2{v3} }}\n    route: {{ v1: 100 }}\n"
        ),
    );
    folder
}

/// The status, what is printed, and what is complained of, without the folder's name.
fn told(folder: &TempDir, arguments: &[&str]) -> (i32, String, String) {
    let config = folder.path().join("switchback.yaml").display().to_string();
    let Output { status, stdout, stderr } = run(&[arguments, &["--config", &config]].concat());
    let text = |bytes: Vec<u8>| {
        String::from_utf8(bytes).unwrap().replace(&format!("{}/", folder.path().display()), "")
    };
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[test]
fn a_changed_prompt_is_shown_line_by_line() {
    let folder = folder("");
    let (status, out, _) = told(&folder, &["diff", "desk@v1", "desk@v2"]);
    assert_eq!(status, 0);
    insta::assert_snapshot!(out, @r###"
    desk@v1 -> desk@v2
    residency: hot -> cold

    --- v1.md
    +++ v2.md
    @@ -1,6 +1,6 @@
     ---
    -temperature: 0.7
    +temperature: 0
     ---
     You are the desk.
     Be kind.
    -Be brief.
    +Be very brief.

    answers may differ; the weights are the same, and are shared
    "###);
    let (_, out, _) = told(&folder, &["diff", "desk@v1", "desk@v3", "--json"]);
    let found: Value = serde_json::from_str(&out).unwrap();
    let what = |found: &Value| {
        let changes = found["changes"].as_array().unwrap().iter();
        changes.map(|change| change["what"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(what(&found), ["image"]);
    assert!(found["prompt"].as_str().unwrap().contains("-You are the desk."), "{found}");
    assert_eq!((&found["answers_may_differ"], &found["shares_weights"]), (&true.into(), &false.into()));
    let (_, out, _) = told(&folder, &["diff", "desk@v1", "desk@v1"]);
    assert_eq!(out, "desk@v1 -> desk@v1\nnothing that decides answers is another\n");
    let (status, _, complaint) = told(&folder, &["diff", "desk@v1", "desk@v9"]);
    assert_eq!(status, 1);
    assert!(complaint.contains("no version desk@v9; declared: desk@v1, desk@v2, desk@v3"), "{complaint}");
}

#[test]
fn what_holds_passes_and_all_that_does_not_is_told_at_once() {
    let good = folder("");
    let suite = |folder: &TempDir, name: &str| folder.path().join(name).display().to_string();
    let (status, out, complaint) = told(&good, &["check", "--suite", &suite(&good, "suite.yaml")]);
    assert_eq!((status, complaint.as_str()), (0, ""));
    assert_eq!(out, "switchback.yaml: 1 models, 3 versions, 2 prompts; 1 cases of 1 suites: all hold\n");
    let digest = format!("sha256:{}", "0".repeat(64));
    let bad = folder(&format!(", prompt: broken.md, digest: \"{digest}\", adapter: nowhere"));
    let (status, out, complaint) =
        told(&bad, &["check", "--images", "--suite", &suite(&bad, "bad-suite.yaml")]);
    assert_eq!((status, out.as_str()), (1, ""));
    for wanted in [
        "models.desk.versions.v3.prompt: broken.md:1:",
        "v3.adapter: nowhere is not there",
        &format!("not {digest}"),
        "bad-suite.yaml: line 2: regex: \"(\" is no regular expression",
    ] {
        assert!(complaint.contains(wanted), "{wanted} is missing: {complaint}");
    }
    let (status, out, _) = told(&bad, &["check", "--json"]);
    let found: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((status, found["faults"].as_array().unwrap().len()), (1, 2), "{found}");
}

#[test]
fn the_configuration_that_ships_holds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let place = |name: &str| root.join(name).display().to_string();
    let check = [
        "check",
        "--images",
        "--config",
        &place("switchback.yaml"),
        "--suite",
        &place("suites/support.yaml"),
    ];
    let Output { status, stderr, .. } = run(&check);
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
}

#[test]
fn a_plan_beside_another_file_says_what_a_server_could_take() {
    let folder = folder("");
    let before = folder.path().join("before.yaml");
    let now = std::fs::read_to_string(folder.path().join("switchback.yaml")).unwrap();
    let plan = |text: &str| {
        // it may lie anywhere: paths in it are those of the other's folder
        std::fs::write(&before, text).unwrap();
        told(&folder, &["plan", "--from", &before.display().to_string()])
    };
    assert_eq!(plan(&now), (0, "nothing would change\n".to_owned(), String::new()));
    let (status, out, _) =
        plan(&now.replace("residency: cold", "residency: warm").replace("prompt: v1.md", "prompt: v2.md"));
    assert_eq!((status, out.as_str()), (0, "desk@v1: prompt changed under the same name\ndesk@v2: cold\n"));
    let (status, out, complaint) = plan(&now.replace("mode: dev", "mode: dev, drain_deadline: 1s"));
    assert_eq!((status, out.as_str()), (1, "server: changed, which takes a restart\n"));
    assert_eq!(
        complaint,
        "error: nothing of it can be put in force now:\n  server: changed, which takes a restart\n"
    );
    let (status, _, complaint) = plan("models: {}\n");
    assert_eq!(status, 1);
    assert!(
        complaint.contains("before.yaml does not hold:") && complaint.contains("no model is declared"),
        "{complaint}"
    );
}
