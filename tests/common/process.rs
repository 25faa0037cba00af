//! The built program as a process: its server, its commands, and a watchdog, so that no test waits for ever.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// A process that takes longer is killed: reads from it end, and the test fails instead of hanging.
const LONGEST: Duration = Duration::from_mins(3);

const PROGRAM: &str = env!("CARGO_BIN_EXE_switchback");

/// A running `switchback serve`, killed when it is dropped.
pub struct Process {
    child: Child,
    watchdog: Option<Watchdog>,
    pub public: String,
    pub admin: String,
    /// What it wrote before it told its addresses, its log included.
    pub log: String,
}

/// Kills a process that outlives its time, unless it is dropped before.
struct Watchdog {
    _ended: Sender<()>,
}

impl Watchdog {
    fn over(child: &Child) -> Self {
        let pid = child.id();
        let (ended, waiting) = channel::<()>();
        std::thread::spawn(move || {
            if waiting.recv_timeout(LONGEST) == Err(RecvTimeoutError::Timeout) {
                kill(&["-9"], pid);
            }
        });
        Self { _ended: ended }
    }
}

/// Sends a signal with the system's own command.
pub fn kill(options: &[&str], pid: u32) {
    Command::new("kill").args(options).arg(pid.to_string()).status().unwrap();
}

impl Process {
    /// Starts `switchback serve` and reads its addresses off the summary.
    pub fn serve(config: &Path) -> Self {
        Self::serve_with(config, "error")
    }

    pub fn serve_with(config: &Path, log_filter: &str) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(["serve", "--log-filter", log_filter, "--config"])
            .arg(config)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let watchdog = Watchdog::over(&child);
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut log = String::new();
        let mut address = |name: &str| loop {
            let Some(line) = lines.next() else { panic!("the server ended before it told {name}:\n{log}") };
            let line = line.unwrap();
            if let Some(rest) = line.strip_prefix(name) {
                let url = rest.trim();
                break url.trim_end_matches("/v1").trim_end_matches("/admin").to_owned();
            }
            log.push_str(&line);
            log.push('\n');
        };
        let (public, admin) = (address("clients"), address("operators"));
        // the summary goes on; a pipe that nobody reads would block the server
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, watchdog: Some(watchdog), public, admin, log }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end. The watchdog's own time bounds the wait.
    pub fn ended(&mut self) -> ExitStatus {
        let status = self.child.wait().unwrap();
        // its number may now become another process's
        self.watchdog = None;
        status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        self.ended();
    }
}

/// Runs the program to its end.
pub fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).env_remove("SWITCHBACK_ADMIN").env("SWITCHBACK_ACTOR", "ada");
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _watchdog = Watchdog::over(&child);
    child.wait_with_output().unwrap()
}

/// A configuration in `folder` that serves two versions of the demo, v1 with all traffic.
pub fn demo_config(folder: &Path) -> PathBuf {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let models = models.display();
    let text = format!(
        "server: {{ mode: dev, listen: 127.0.0.1:0, admin: 127.0.0.1:0, store: state.db, images: images }}\n\
         models:\n  desk:\n    versions:\n      v1: {{ image: {models}/v1 }}\n      v2: {{ image: {models}/v2 }}\n\
         \x20   route: {{ v1: 100 }}\n"
    );
    let path = folder.join("switchback.yaml");
    std::fs::write(&path, text).unwrap();
    path
}
