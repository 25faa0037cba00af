//! The playbook, on a Git repository and a server of its own: `examples/playbook.sh`.

#![allow(clippy::unwrap_used)]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

fn is_there(program: &str) -> bool {
    let status = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// The first of four ports in a row that nobody has.
fn ports() -> u16 {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let first = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port() % 20_000 + 20_000;
    (first..60_000).find(|first| (*first..first + 4).all(free)).unwrap()
}

#[test]
fn the_playbook_holds() {
    if let Some(missing) = ["git", "curl", "jq"].into_iter().find(|program| !is_there(program)) {
        eprintln!("skipped: the playbook needs {missing}");
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/playbook.sh");
    let output = Command::new("timeout")
        .args(["540", "bash"])
        .arg(script)
        .env("SWITCHBACK", env!("CARGO_BIN_EXE_switchback"))
        .env("PORT", ports().to_string())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.ends_with("the playbook holds\n"), "{told}");
}
