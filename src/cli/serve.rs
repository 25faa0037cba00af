//! `switchback serve`: starts the server of a configuration and stays until it is told to stop.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::error::CliError;
use super::models::short_name;
use super::table::{Table, bytes};
use crate::api::{App, RunningApp};
use crate::config::{Config, EnvName, ModelConfig, Source};
use crate::gateway::{Gateway, Prepared};
use crate::ids::{Digest, ModelName, VersionName, VersionRef};
use crate::telemetry;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration to serve
    #[arg(long, env = "SWITCHBACK_CONFIG", default_value = "switchback.yaml", value_name = "FILE")]
    config: PathBuf,
    /// The environment whose overlay, `env/<NAME>.yaml` beside the configuration, is laid over it
    #[arg(long, env = "SWITCHBACK_ENV", value_name = "NAME")]
    env: Option<EnvName>,
    /// How log lines are written: text or json
    #[arg(long, default_value = "text", value_name = "FORMAT")]
    log: telemetry::LogFormat,
    /// What is logged, such as `info,switchback=debug`
    #[arg(long, env = "RUST_LOG", default_value = "warn,switchback=info", value_name = "FILTER")]
    log_filter: String,
}

pub(super) async fn run(args: Args) -> Result<(), CliError> {
    telemetry::init_logging(args.log, &args.log_filter).map_err(|e| CliError::Usage(e.to_string()))?;
    let source = Source { file: args.config, env: args.env };
    // first: what is written while it is read is read again
    let stamp = source.stamp();
    let config = source.load()?;
    let unpinned = unpinned(&config);
    if let Some(threads) = config.threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build_global();
        pool.map_err(|e| CliError::Server(format!("engine.threads cannot be {threads}: {e}")))?;
    }
    let stop = stop_signal()?;
    let mut app = App::start(config).await.map_err(|e| CliError::Server(e.to_string()))?;
    app.follow(source, stamp);
    let stopped_early = tokio::select! {
        () = watched_loads(&mut app) => false,
        () = stop.wait() => true,
    };
    if !stopped_early {
        summary(&app, &unpinned);
        stop.wait().await;
    }
    eprintln!("stopping: no new requests; those under way may finish");
    match app.shut_down().await {
        0 => eprintln!("stopped"),
        cut_off => eprintln!("stopped; {cut_off} answers were cut off at `server.drain_deadline`"),
    }
    Ok(())
}

/// Waits for the first loads behind a bar of the bytes read.
async fn watched_loads(app: &mut RunningApp) {
    let style = ProgressStyle::with_template("loading {msg} [{bar:40}] {bytes}/{total_bytes} read");
    let bar = ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let gateway = app.gateway.clone();
    let loads = app.loaded();
    tokio::pin!(loads);
    loop {
        tokio::select! {
            () = &mut loads => break,
            () = tokio::time::sleep(Duration::from_millis(100)) => show_progress(&bar, &gateway),
        }
    }
    bar.finish_and_clear();
}

fn show_progress(bar: &ProgressBar, gateway: &Gateway) {
    for version in gateway.models().iter().flat_map(|model| &model.versions) {
        if let Some((done, total)) = version.state.progress() {
            bar.set_message(version.version.to_string());
            bar.set_length(total);
            bar.set_position(done);
        }
    }
}

/// The versions whose content nothing holds fast.
fn unpinned(config: &Config) -> BTreeSet<VersionRef> {
    let of = |(model, settings): (&ModelName, &ModelConfig)| {
        let model = model.clone();
        let named =
            move |version: &VersionName| VersionRef { model: model.clone(), version: version.clone() };
        settings.unpinned().map(named).collect::<Vec<_>>()
    };
    config.models.iter().flat_map(of).collect()
}

/// What is being served, where, and what it takes; for the person who just started it.
fn summary(app: &RunningApp, unpinned: &BTreeSet<VersionRef>) {
    let mut table =
        Table::new(&["version", "residency", "traffic", "bytes", "shared", "digest", "adapter", "prompt"]);
    let mut failures = Vec::new();
    let beside = |file: &Path, digest: Option<Digest>| {
        short_name(file, &digest.map(|d| d.short()).unwrap_or_default())
    };
    for version in app.gateway.models().into_iter().flat_map(|model| model.versions) {
        if let Some(why) = version.state.failure() {
            failures.push(format!("{} is not served: {why}", version.version));
        }
        let digest = version.digest.map(|d| d.short()).unwrap_or_default();
        let mark = if unpinned.contains(&version.version) { " (unpinned)" } else { "" };
        let prepared = version.state.prepared();
        let size = |n: Option<u64>| n.map(bytes).unwrap_or_default();
        table.row([
            version.version.to_string(),
            version.state.name().to_owned(),
            format!("{} %", version.weight),
            size(prepared.map(Prepared::weight_bytes)),
            size(prepared.map(Prepared::shared_bytes)),
            format!("{digest}{mark}").trim_start().to_owned(),
            version.adapter.map(|a| beside(a.image.to_string().as_ref(), a.digest)).unwrap_or_default(),
            version.prompt.map(|p| beside(&p.file, p.digest)).unwrap_or_default(),
        ]);
    }
    eprintln!(
        "\nclients    http://{}/v1\noperators  http://{}/admin\ndevice     {}\n",
        app.public,
        app.admin,
        app.gateway.device()
    );
    eprint!("{table}");
    for failure in failures {
        eprintln!("\n{failure}");
    }
    let resident = resident_bytes().map(|n| format!("memory {}; ", bytes(n))).unwrap_or_default();
    eprintln!("\n{resident}stop with Ctrl-C or SIGTERM");
}

/// Memory that the process holds, where the system tells.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// Set once the process is told to stop.
struct StopSignal(tokio_util::sync::CancellationToken);

impl StopSignal {
    async fn wait(&self) {
        self.0.cancelled().await;
    }
}

#[cfg(unix)]
fn stop_signal() -> Result<StopSignal, CliError> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |e: std::io::Error| CliError::Server(format!("signals cannot be listened for: {e}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let stop = tokio_util::sync::CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        told.cancel();
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        eprintln!("told to stop again: ending at once");
        // As a shell tells of a process that a signal ended.
        std::process::exit(128 + SignalKind::terminate().as_raw_value());
    });
    Ok(StopSignal(stop))
}

#[cfg(not(unix))]
fn stop_signal() -> Result<StopSignal, CliError> {
    let stop = tokio_util::sync::CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        // without signals there is nothing to wait for but the end of the process
        let _ = tokio::signal::ctrl_c().await;
        told.cancel();
    });
    Ok(StopSignal(stop))
}
