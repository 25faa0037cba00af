//! What becomes of a user's word about an answer: it counts for the rollout that the answer was given in.

use super::feedback::{FeedbackCheck, FeedbackError, Rated, Remembered};
use super::leading::arm_of;
use super::parcels::Item;
use super::watcher::Watcher;
use crate::ids::{ResponseId, Score, VersionRef};

impl Watcher {
    /// A word counts for a rollout if the answer was given since it began: so both arms' answers are of one time.
    pub(super) fn feedback(&mut self, response: ResponseId, score: Score) -> Result<Rated, FeedbackError> {
        let remembered = self.memory.rate(response)?;
        // what was not told to other replicas yet, they need not hear of
        self.answers.forget(response);
        self.counted(remembered, score)
    }

    pub(super) fn counted(&mut self, remembered: Remembered, score: Score) -> Result<Rated, FeedbackError> {
        let Remembered { version, user, at } = remembered;
        let check = self.models.get(&version.model).and_then(|watched| watched.feedback.clone());
        let FeedbackCheck { threshold, .. } = check.ok_or(FeedbackError::Unknown)?;
        let passed = score >= threshold;
        let VersionRef { model, version: answered } = &version;
        if let Some(user) = user
            && let Some(rollout) = self.releases.rollouts().get(model)
            && arm_of(&rollout, answered).is_some()
            && at >= rollout.started_at
        {
            if self.leads() {
                self.take_word(model, rollout.id, answered, user, passed);
            } else {
                let version = answered.clone();
                let word = Item::Word { rollout: rollout.id, version, user, passed };
                self.sending.keep(model.clone(), word);
            }
        }
        Ok(Rated { version, passed })
    }
}
