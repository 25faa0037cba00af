//! Runs the regression suites that rollouts wait for. It asks as a client would, by the same handlers, but from within: no
//! connection, no API key.
//!
//! One task looks for rollouts that wait, when one begins and at the start of the server, so that a suite that a restart
//! cut off is run again. A rollout that is aborted meanwhile cuts its suite off.

use std::collections::HashSet;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, header};
use axum::routing::post;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::openai;
use super::public::PublicState;
use crate::config::SuiteGate;
use crate::config::suite::read_suite;
use crate::gateway::{Gateway, Rollout};
use crate::ids::RolloutId;
use crate::quality::suite::{Door, DoorError, Foreign, Plan, compare, run};

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
        let router = self.0.clone();
        async move {
            let failed = |why: String| DoorError(why);
            let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
            let request = request.body(Body::from(body.to_string())).map_err(|e| failed(e.to_string()))?;
            let response = router.oneshot(request).await.unwrap_or_else(|never| match never {});
            let status = response.status();
            let bytes = axum::body::to_bytes(response.into_body(), LARGEST).await;
            let bytes = bytes.map_err(|e| failed(e.to_string()))?;
            let answer: Value =
                serde_json::from_slice(&bytes).map_err(|e| failed(format!("{status}: {e}")))?;
            if status.is_success() {
                return Ok(answer);
            }
            Err(failed(format!("{status}: {}", answer["error"]["message"].as_str().unwrap_or_default())))
        }
        .boxed()
    }
}

/// Runs suites until the server stops.
pub(super) async fn run_suites(gateway: Gateway, door: WithinDoor, stop: CancellationToken) {
    let mut running = JoinSet::new();
    let mut known: HashSet<RolloutId> = HashSet::new();
    // what is in memory by then can be asked
    tokio::select! {
        () = stop.cancelled() => return,
        () = gateway.settled() => {}
    }
    loop {
        for rollout in gateway.rollouts_in_suite() {
            if known.insert(rollout.id) {
                let (gateway, door) = (gateway.clone(), door.clone());
                running.spawn(async move { one(&gateway, &door, &rollout).await });
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = gateway.suite_wanted() => {}
            Some(_) = running.join_next() => {}
        }
    }
}

async fn one(gateway: &Gateway, door: &WithinDoor, rollout: &Rollout) {
    tracing::info!(model = %rollout.model, rollout = %rollout.id, "the regression suite begins");
    let outcome = tokio::select! {
        outcome = outcome(gateway, door, rollout) => outcome,
        () = no_longer_waits(gateway, rollout) => return,
    };
    if let Err(error) = gateway.suite_ended(rollout, outcome).await {
        tracing::warn!(model = %rollout.model, rollout = %rollout.id, %error, "nobody waited for the suite");
    }
}

async fn no_longer_waits(gateway: &Gateway, rollout: &Rollout) {
    while gateway.rollouts_in_suite().iter().any(|waiting| waiting.id == rollout.id) {
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
