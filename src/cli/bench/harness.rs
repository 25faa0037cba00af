//! A server for one benchmark: the configuration's models, free ports, a store that goes with it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::api::{App, RunningApp};
use crate::cli::error::CliError;
use crate::config::{self, Config};

/// The server under measurement and a client for it.
pub(super) struct Harness {
    pub(super) app: RunningApp,
    pub(super) client: reqwest::Client,
    scratch: PathBuf,
}

impl Harness {
    /// Starts the models of `path`, after `adjust` has had its say about the configuration.
    pub(super) async fn start(path: &Path, adjust: impl FnOnce(&mut Config)) -> Result<Self, CliError> {
        let mut config = config::load(path)?;
        let scratch = std::env::temp_dir().join(format!("switchback-bench-{}", std::process::id()));
        std::fs::create_dir_all(&scratch).map_err(|e| failed("make a folder for", &scratch, e))?;
        config.server.listen.set_port(0);
        config.server.admin.set_port(0);
        config.server.store = scratch.join("state.db");
        adjust(&mut config);
        let mut app = App::start(config).await.map_err(|e| CliError::Server(e.to_string()))?;
        app.loaded().await;
        if let Some(why) = app.gateway.not_ready().first() {
            return Err(CliError::Server(why.clone()));
        }
        let client = reqwest::Client::builder().no_proxy().build();
        let client = client.map_err(|e| CliError::Bench(format!("no HTTP client: {e}")))?;
        Ok(Self { app, client, scratch })
    }

    pub(super) fn public(&self, path: &str) -> String {
        format!("http://{}{path}", self.app.public)
    }

    pub(super) fn admin(&self, path: &str) -> String {
        format!("http://{}{path}", self.app.admin)
    }

    /// The one model of the configuration that a benchmark of the demo means.
    pub(super) async fn only_model(&self) -> Result<Value, CliError> {
        let answer = self.client.get(self.admin("/admin/models")).send().await;
        let answer: Value = match answer {
            Ok(answer) => answer.json().await.map_err(|e| CliError::Bench(e.to_string()))?,
            Err(e) => return Err(CliError::Bench(e.to_string())),
        };
        match answer["models"].as_array().map(Vec::as_slice) {
            Some([model]) => Ok(model.clone()),
            _ => {
                Err(CliError::Bench("this benchmark needs a configuration with exactly one model".to_owned()))
            }
        }
    }

    /// Stops the server and removes what it wrote.
    pub(super) async fn stop(self) -> Result<(), CliError> {
        self.app.shut_down().await;
        std::fs::remove_dir_all(&self.scratch).map_err(|e| failed("remove", &self.scratch, e))
    }
}

fn failed(what: &str, path: &Path, error: std::io::Error) -> CliError {
    CliError::Bench(format!("cannot {what} {}: {error}", path.display()))
}

/// The `q` quantile of `sorted`, by nearest rank; 0 where it is empty.
pub(super) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get(((q * last as f64).round() as usize).min(last)).copied().unwrap_or(0.0)
}
