//! A server for one benchmark: the configuration's models, free ports, a store that goes with it.

use std::path::{Path, PathBuf};

use reqwest::StatusCode;
use serde_json::Value;

use crate::api::{App, RunningApp};
use crate::cli::error::CliError;
use crate::config::{self, Config};
use crate::ids::{IdError, ModelName, VersionName};

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
        config.server.store = config::StoreAt::File(scratch.join("state.db"));
        // Nobody is told of what a benchmark does, and its client has no key.
        config.webhooks.clear();
        config.server.api_keys.clear();
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

    /// Asks for a chat's answer.
    pub(super) async fn chat(&self, body: &Value) -> Result<(StatusCode, Value), CliError> {
        let unanswered = |error: reqwest::Error| CliError::Bench(error.to_string());
        let asked = self.client.post(self.public("/v1/chat/completions")).json(body);
        let response = asked.send().await.map_err(unanswered)?;
        Ok((response.status(), response.json().await.map_err(unanswered)?))
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

    /// The benchmark's model, and two of its versions that are hot.
    pub(super) async fn two_hot_versions(&self) -> Result<(ModelName, [VersionName; 2]), CliError> {
        let model = self.only_model().await?;
        let name: ModelName = model["model"]
            .as_str()
            .unwrap_or_default()
            .parse()
            .map_err(|e: IdError| CliError::Bench(e.to_string()))?;
        let versions = model["versions"].as_array().into_iter().flatten();
        let mut hot = versions
            .filter(|v| v["residency"]["state"] == "hot")
            .filter_map(|v| v["version"].as_str()?.parse::<VersionName>().ok());
        match (hot.next(), hot.next()) {
            (Some(first), Some(second)) => Ok((name, [first, second])),
            _ => Err(CliError::Bench(format!("{name} has fewer than two hot versions"))),
        }
    }

    /// The sum of those series of a metric that have all these labels; 0 where it has none yet.
    pub(super) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64, CliError> {
        let text = async { self.client.get(self.public("/metrics")).send().await?.text().await };
        let text = text.await.map_err(|e| CliError::Bench(e.to_string()))?;
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let of = |line: &str| {
            let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']));
            rest.is_some_and(|rest| labels.iter().all(|label| rest.contains(label)))
        };
        let values = text.lines().filter(|line| of(line)).filter_map(|line| line.rsplit(' ').next());
        // the sum of nothing is -0.0
        Ok(values.filter_map(|value| value.parse::<f64>().ok()).fold(0.0, |sum, value| sum + value))
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

/// Requests a second, as an option gives them.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.001..=1e6).contains(rate));
    rate.ok_or_else(|| "give requests a second, from 0.001 to 1000000".to_owned())
}

/// The `q` quantile of `sorted`, by nearest rank; 0 where it is empty.
pub(super) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get(((q * last as f64).round() as usize).min(last)).copied().unwrap_or(0.0)
}

/// For people to read.
pub(super) fn hundredths(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

/// Of an odd number of values, the one in the middle.
pub(super) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
