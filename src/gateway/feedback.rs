//! Users' words about their answers, on their way to the rollouts that they count for.

use std::time::Duration;

use tokio::sync::oneshot;

use super::Gateway;
use crate::ids::{ResponseId, Score};
use crate::release::{FeedbackError, Message, Rated};

/// How long a word waits behind what else there is to take in.
const PATIENCE: Duration = Duration::from_secs(5);

impl Gateway {
    /// Counts what a user thinks of an answer.
    pub async fn feedback(&self, response: ResponseId, score: Score) -> Result<Rated, FeedbackError> {
        let (reply, counted) = oneshot::channel();
        let message = match self.inner().releases.rate_answer(response).await? {
            Some(answer) => Message::Rated { answer, score, reply },
            None => Message::Feedback { response, score, reply },
        };
        let ask = async {
            self.inner().watcher.send(message).await.ok()?;
            counted.await.ok()
        };
        let rated = tokio::time::timeout(PATIENCE, ask).await.ok().flatten();
        let rated = rated.unwrap_or(Err(FeedbackError::Busy))?;
        let check = self.configured(&rated.version.model, |config| config.feedback_check().cloned());
        if let Some(check) = check.flatten() {
            let result = if rated.passed { "passed" } else { "failed" };
            self.inner().metrics.check_judged(&rated.version, check.as_str(), result);
        }
        Ok(rated)
    }
}
