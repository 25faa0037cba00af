//! `switchback eval` with the suite that ships, against the demo's versions: what is printed, written and returned.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use common::process::{Process, run};
use serde_json::Value;

/// Runs `eval` against a server; the status, what is printed, and what is complained of.
fn eval(server: &Process, arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = run(&[&["eval"], arguments, &["--url", &server.public]].concat());
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// A server of the demo's three versions.
fn serve(folder: &Path) -> Process {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let versions =
        ["v1", "v2", "v3"].map(|v| format!("      {v}: {{ image: {} }}\n", models.join(v).display()));
    let text = format!(
        "server: {{ mode: dev, listen: 127.0.0.1:0, admin: 127.0.0.1:0, store: state.db, images: images }}\n\
         models:\n  support-assistant:\n    versions:\n{}    route: {{ v1: 100 }}\n",
        versions.concat()
    );
    let config = folder.join("switchback.yaml");
    std::fs::write(&config, text).unwrap();
    let server = Process::serve(&config);
    let hot = || {
        let models = run(&["models", "--json", "--admin", &server.admin]).stdout;
        String::from_utf8(models).unwrap().matches("\"hot\"").count()
    };
    let begun = Instant::now();
    while hot() < 3 {
        assert!(begun.elapsed() < Duration::from_mins(1), "the versions never load");
        std::thread::sleep(Duration::from_millis(20));
    }
    server
}

fn shipped() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("suites/support.yaml").display().to_string()
}

#[test]
fn a_regression_is_caught_case_by_case() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path());
    let (junit, html) = (folder.path().join("junit.xml"), folder.path().join("report.html"));
    let suite = shipped();
    let (status, out, complaint) = eval(
        &server,
        &[
            &suite,
            "--model",
            "support-assistant@v3",
            "--baseline",
            "support-assistant@v1",
            "--json",
            "--junit",
            &junit.display().to_string(),
            "--html",
            &html.display().to_string(),
        ],
    );
    assert_eq!(status, 1, "{complaint}");
    let report: Value = serde_json::from_str(&out).unwrap();
    let count = |value: &Value| value.as_u64().unwrap();
    assert_eq!((count(&report["total"]["cases"]), count(&report["total"]["errors"])), (120, 0));
    let broken = count(&report["baseline"]["comparison"]["broken"]);
    assert!(broken > 20 && complaint.contains(&format!("{broken} of 120 cases are broken")), "{complaint}");
    assert!(report["baseline"]["comparison"]["p_value"].as_f64().unwrap() < 0.01);
    // where it is weak: v3 was trained to shy from the angry
    let (angry, before) = (&report["tags"]["angry"], &report["baseline"]["total"]);
    assert!(2 * count(&angry["passed"]) < count(&angry["cases"]), "{angry}");
    assert!(count(&before["passed"]) > 90, "{before}");
    let junit = std::fs::read_to_string(&junit).unwrap();
    assert_eq!(junit.matches("<testcase ").count(), 120);
    assert_eq!(junit.matches("message=\"broken\"").count() as u64, broken);
    let page = std::fs::read_to_string(&html).unwrap();
    assert_eq!(page.matches("-case\">").count(), 120);
    assert!(page.contains("&quot;intent&quot;") && !page.contains("\"intent\""), "answers are escaped");
}

#[test]
fn a_version_that_holds_passes_and_terms_decide() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path());
    let suite = shipped();
    let v2 = [suite.as_str(), "--model", "support-assistant@v2"];
    let (status, out, complaint) = eval(&server, &[&v2[..], &["--min-pass", "80"]].concat());
    assert_eq!((status, complaint.as_str()), (0, ""), "{out}");
    assert!(out.contains("CASES") && out.contains("intent: 1.000 at the mean"), "{out}");
    let (status, _, complaint) = eval(&server, &v2);
    assert!(status == 1 && complaint.contains("at least 100 % must"), "{complaint}");
    let (status, out, _) =
        eval(&server, &[&v2[..], &["--tag", "refund", "--baseline", "support-assistant@v2"]].concat());
    assert_eq!(status, 0);
    assert!(out.contains("0 fixed, 0 broken") && !out.contains("invoice"), "{out}");
}

#[test]
fn what_cannot_be_run_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path());
    let file = folder.path().join("suite.yaml");
    let file_name = file.display().to_string();
    let told = |text: &str, more: &[&str]| {
        std::fs::write(&file, text).unwrap();
        let (status, out, complaint) = eval(&server, &[&[file_name.as_str()], more].concat());
        assert_eq!((status, out.as_str()), (1, ""), "{complaint}");
        complaint.replace(&file_name, "suite.yaml")
    };
    let script = "prompts: [hi]\ntests:\n  - assert:\n      - { type: javascript, value: 'true' }\n";
    assert!(told(script, &[]).contains("suite.yaml:4: `javascript` is not computed here"));
    assert!(
        told("prompts: [hi]\ntests: [{ vars: {} }]\n", &[])
            .contains("names no provider, and no model is given")
    );
    assert!(
        told("prompts: [hi]\ntest: []\n", &[])
            .contains("suite.yaml:2: test: unknown key; did you mean `tests`?")
    );
    let wrong = "prompts: [hi]\ntests:\n  - assert: [{ type: regex, value: '(' }]\n";
    assert!(told(wrong, &["--model", "x"]).contains("line 3: regex: \"(\" is no regular expression"));
    let none = "prompts: [hi]\ntests: [{ vars: {} }]\n";
    std::fs::write(&file, none).unwrap();
    let (status, out, complaint) = eval(&server, &[&file_name, "--model", "nobody"]);
    let nowhere = run(&["eval", &file_name, "--model", "x", "--url", "http://127.0.0.1:1"]);
    let unheard = String::from_utf8(nowhere.stderr).unwrap();
    assert!(unheard.contains("no answer from http://127.0.0.1:1") && unheard.contains("--url"), "{unheard}");
    assert_eq!(status, 1);
    assert!(
        complaint.contains("1 of 1 cases could not be asked")
            && complaint.contains("`nobody` does not exist"),
        "{complaint}"
    );
    assert!(out.contains("error:"), "{out}");
}
