//! Runs the regression suites that rollouts wait for. It asks as a client would, by the same handlers, but from within: no
//! connection, no API key.
//!
//! One task looks for rollouts that wait, when one begins and at the start of the server, so that a suite that a restart
//! cut off is run again. A rollout that is aborted meanwhile cuts its suite off.

use std::collections::HashSet;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use axum::routing::post;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::caller::Within;
use super::openai;
use super::public::PublicState;
use crate::config::suite::read_suite;
use crate::config::{Config, SuiteGate};
use crate::gateway::{Gateway, Rollout};
use crate::quality::suite::{Door, DoorError, Foreign, Plan, check_suite, compare, run};

/// Conversations of one suite at once: few, as clients are served beside them.
const AT_ONCE: usize = 4;
/// How often it is looked whether a rollout still waits for its suite.
const LOOK: Duration = Duration::from_secs(1);
/// The largest answer that is read.
const LARGEST: usize = 16 << 20;

/// The handlers that suites ask.
#[derive(Clone)]
pub(super) struct WithinDoor(Router);

impl WithinDoor {
    pub(super) fn new(state: PublicState) -> Self {
        let router = Router::new()
            .route("/v1/chat/completions", post(openai::chat_completions))
            .route("/v1/embeddings", post(openai::embeddings))
            .with_state(state);
        Self(router)
    }
}

impl Door for WithinDoor {
    fn post(&self, path: &'static str, body: Value) -> BoxFuture<'_, Result<Value, DoorError>> {
        self.ask(path, body).boxed()
    }
}

impl WithinDoor {
    async fn ask(&self, path: &str, body: Value) -> Result<Value, DoorError> {
        let failed = |why: String| DoorError::Failed(why);
        let request = Request::post(path).header(header::CONTENT_TYPE, "application/json").extension(Within);
        let request = request.body(Body::from(body.to_string())).map_err(|e| failed(e.to_string()))?;
        let response = self.0.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
        let status = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), LARGEST).await;
        let bytes = bytes.map_err(|e| failed(e.to_string()))?;
        let answer: Value = serde_json::from_slice(&bytes).map_err(|e| failed(format!("{status}: {e}")))?;
        if status.is_success() {
            return Ok(answer);
        }
        let why = format!("{status}: {}", answer["error"]["message"].as_str().unwrap_or_default());
        Err(match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                DoorError::Busy { after: None, why }
            }
            _ => failed(why),
        })
    }
}

/// Refuses suites that no version could pass, as something in them cannot be judged.
pub fn check_suites(config: &Config) -> Result<(), String> {
    for (model, settings) in &config.models {
        let Some(gate) = &settings.suite else { continue };
        let failed = |why: String| format!("models.{model}.suite: {}: {why}", gate.file.display());
        let suite = read_suite(&gate.file).map_err(|errors| failed(errors.to_string()))?;
        check_suite(&suite, gate.judge.as_deref(), gate.embeddings.as_deref()).map_err(failed)?;
    }
    Ok(())
}

/// Runs suites until the server stops.
pub(super) async fn run_suites(gateway: Gateway, door: WithinDoor) {
    let (mut tasks, mut running) = (JoinSet::new(), HashSet::new());
    // what is in memory by then can be asked
    tokio::select! {
        () = gateway.stopping() => return,
        () = gateway.settled() => {}
    }
    loop {
        for rollout in gateway.rollouts_in_suite() {
            if running.insert(rollout.id) {
                let (gateway, door) = (gateway.clone(), door.clone());
                tasks.spawn(async move {
                    one(&gateway, &door, &rollout).await;
                    rollout.id
                });
            }
        }
        tokio::select! {
            () = gateway.stopping() => return,
            () = gateway.suite_wanted() => {}
            () = tokio::time::sleep(LOOK) => {}
            // one that still waits then is run again
            Some(Ok(ended)) = tasks.join_next() => drop(running.remove(&ended)),
        }
    }
}

async fn one(gateway: &Gateway, door: &WithinDoor, rollout: &Rollout) {
    tracing::info!(model = %rollout.model, rollout = %rollout.id, "the regression suite begins");
    let outcome = tokio::select! {
        outcome = on_a_thread(gateway.clone(), door.clone(), rollout.clone()) => outcome,
        () = no_longer_waits(gateway, rollout) => return,
    };
    // what a server that stops does not answer is no fault of the version
    while !gateway.is_stopping() && waits(gateway, rollout) {
        match gateway.suite_ended(rollout, outcome.clone()).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(model = %rollout.model, rollout = %rollout.id, %error, "the suite's end is told again");
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Runs it where its templates, which may take long, hold up nobody. Dropping this ends it.
async fn on_a_thread(gateway: Gateway, door: WithinDoor, rollout: Rollout) -> Result<(), String> {
    let stop = CancellationToken::new();
    let (stopped, _stops) = (stop.clone(), stop.drop_guard());
    let runtime = Handle::current();
    let task = tokio::task::spawn_blocking(move || {
        runtime.block_on(async {
            tokio::select! {
                outcome = outcome(&gateway, &door, &rollout) => outcome,
                () = stopped.cancelled() => Err("it was stopped".to_owned()),
            }
        })
    });
    task.await.unwrap_or_else(|_| Err("it panicked".to_owned()))
}

fn waits(gateway: &Gateway, rollout: &Rollout) -> bool {
    gateway.rollouts_in_suite().iter().any(|waiting| waiting.id == rollout.id)
}

async fn no_longer_waits(gateway: &Gateway, rollout: &Rollout) {
    while waits(gateway, rollout) {
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether the canary has passed, or why not.
async fn outcome(gateway: &Gateway, door: &WithinDoor, rollout: &Rollout) -> Result<(), String> {
    let gate = gateway.suite_of(&rollout.model).ok_or("the model's `suite` has left the configuration")?;
    let SuiteGate { file, terms, judge, embeddings } = gate;
    let suite = tokio::task::spawn_blocking(move || read_suite(&file)).await;
    let suite = suite.map_err(|e| e.to_string())?.map_err(|errors| errors.to_string())?;
    let (canary, stable) =
        (format!("{}@{}", rollout.model, rollout.canary), format!("{}@{}", rollout.model, rollout.stable));
    let plan = |model: &str| Plan {
        model: Some(model.to_owned()),
        judge: judge.clone(),
        embeddings: embeddings.clone(),
        concurrency: suite.concurrency.map_or(AT_ONCE, |n| n.get().min(AT_ONCE)),
        foreign: Foreign::Refuse,
    };
    let report = run(&suite, &plan(&canary), door, &|_| ()).await?;
    let comparison = match terms.max_regressions {
        None => None,
        Some(_) => Some(compare(&report, &run(&suite, &plan(&stable), door, &|_| ()).await?)),
    };
    terms.judge(&report, comparison.as_ref().map(|comparison| (stable.as_str(), comparison)))
}
