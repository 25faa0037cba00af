//! A PostgreSQL of a test's own, in a temporary folder, on a free port of this machine.

use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

use super::process::kill;

/// Longer than a test takes; a server whose test was killed goes then.
const LONGEST: &str = "600";

/// A running database server, killed when it is dropped.
pub struct Postgres {
    folder: TempDir,
    port: u16,
    server: Option<Child>,
}

impl Postgres {
    /// One with an empty database; nothing where the machine has no PostgreSQL, or none that this user may run.
    pub async fn start() -> Option<Self> {
        if let Some(why) = missing() {
            eprintln!("skipped, as it needs PostgreSQL: {why}");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        if is_root() {
            assert!(Command::new("chown").arg("nobody").arg(folder.path()).status().unwrap().success());
        }
        let mut initdb = as_nobody("initdb", folder.path());
        initdb.args(["--no-sync", "-A", "trust", "-U", "switchback", "--no-locale", "-E", "UTF8", "-D"]);
        let made = initdb.arg(folder.path().join("data")).output().unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut postgres = Self { folder, port, server: None };
        postgres.go_on().await;
        Some(postgres)
    }

    /// Where it is, with a password that nobody may ever read.
    pub fn url(&self) -> String {
        format!("postgres://switchback:hush-hush@127.0.0.1:{}/postgres", self.port)
    }

    /// Starts it where it was stopped, and waits until it answers.
    pub async fn go_on(&mut self) {
        let mut server = as_nobody("timeout", self.folder.path());
        server.args(["-s", "QUIT", LONGEST]).arg(found("postgres"));
        server.args(["-p", &self.port.to_string(), "-D"]);
        server.arg(self.folder.path().join("data"));
        for setting in [
            "fsync=off",
            "shared_buffers=16MB",
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "max_connections=100",
        ] {
            server.args(["-c", setting]);
        }
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        self.server = Some(server.stderr(log).stdout(Stdio::null()).spawn().unwrap());
        let began = Instant::now();
        while let Err(error) = PgConnection::connect(&self.url()).await {
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            let ended = self.server.as_mut().and_then(|server| server.try_wait().unwrap());
            assert!(ended.is_none(), "PostgreSQL has ended: {error}\n{log}");
            assert!(began.elapsed() < Duration::from_secs(30), "PostgreSQL does not come up: {error}\n{log}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stops it at once, as a machine that loses its power; what it has acknowledged stays.
    pub fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let pid = std::fs::read_to_string(self.folder.path().join("data/postmaster.pid"));
            if let Some(Ok(pid)) = pid.unwrap_or_default().lines().next().map(|line| line.trim().parse()) {
                kill(&["-QUIT"], pid);
            }
            server.wait().unwrap();
        }
    }

    /// Asks it something that has one number as its answer.
    pub async fn number(&self, query: &'static str) -> i64 {
        let mut connection = PgConnection::connect(&self.url()).await.unwrap();
        sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

/// PostgreSQL refuses to run as root, so root's tests run it as nobody.
fn as_nobody(program: &str, folder: &Path) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=nobody", "--clear-groups"]).arg(found(program));
        command
    } else {
        Command::new(found(program))
    };
    command.current_dir(folder).env("LC_ALL", "C").stdin(Stdio::null());
    command
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|this| this.uid() == 0)
}

/// Where a program is: on the PATH, or where Debian has PostgreSQL's.
fn found(program: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut debians: Vec<PathBuf> =
        versions.map(|version| version.path().join("bin").join(program)).collect();
    debians.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join(program));
    on_path.chain(debians.into_iter().rev()).find(|file| file.is_file()).unwrap_or_else(|| program.into())
}

/// What is not there.
fn missing() -> Option<String> {
    let runs = |program: &str| {
        let mut command = Command::new(found(program));
        command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let needed = ["initdb", "postgres"].into_iter().chain(is_root().then_some("setpriv"));
    needed.into_iter().find(|program| !runs(program)).map(|program| format!("there is no {program} on PATH"))
}
