//! What a replica that follows saw of answers, on its way to the one that leads.
//!
//! Evidence is the leader's: it has all analyses. The others keep what they saw for a second and send it, bounded; what
//! finds no room is lost to the analyses, and counted: less evidence, not wrong evidence. An answer names the exposure
//! under which its replica saw it, as only that replica's clock can tell whether it was asked for since that began.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::changes::Releases;
use super::watcher::Seen;
use crate::ids::{ExperimentId, ModelName, RolloutId, VersionName, Weight};
use crate::store::{Parcel, StoreError};
use crate::telemetry::Metrics;

/// What may wait to be sent. At 4096 a second, a replica answers more than its engines can.
const ROOM: usize = 4096;

/// Something that a replica saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Item {
    /// An answer.
    Answer {
        /// What it counts for.
        of: Of,
        /// What was seen.
        seen: Seen,
    },
    /// A user's word about an answer.
    Word {
        /// The rollout that it counts for.
        rollout: RolloutId,
        /// Who had answered.
        version: VersionName,
        /// A hash of the user's sticky key.
        user: u64,
        /// Whether it passes.
        passed: bool,
    },
}

/// What an answer counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Of {
    /// A rollout, and the canary's share of traffic and of copies then.
    Rollout {
        /// Which.
        id: RolloutId,
        /// The share of traffic.
        weight: Weight,
        /// The share of copies.
        mirror: Weight,
    },
    /// An experiment.
    Experiment {
        /// Which.
        id: ExperimentId,
    },
}

/// What waits to be sent.
#[derive(Default)]
pub(super) struct Sending {
    waiting: BTreeMap<ModelName, Vec<Item>>,
    /// Since when each model's comparison has been as it is.
    since: BTreeMap<ModelName, (Of, Timestamp)>,
    metrics: Option<Metrics>,
}

impl Sending {
    /// Counts what finds no room.
    pub(super) fn count_by(&mut self, metrics: Metrics) {
        self.metrics = Some(metrics);
    }

    /// Notes since when comparisons are as they are. To be called before anything is seen of a new one.
    pub(super) fn follow(&mut self, releases: &Releases, now: Timestamp) {
        let rollouts = releases.rollouts().all();
        let experiments = releases.experiments.all();
        let mut running: BTreeMap<&ModelName, Of> = BTreeMap::new();
        for rollout in &rollouts {
            let of = Of::Rollout { id: rollout.id, weight: rollout.weight, mirror: rollout.mirror() };
            running.insert(&rollout.model, of);
        }
        for experiment in &experiments {
            running.insert(&experiment.model, Of::Experiment { id: experiment.id });
        }
        self.since.retain(|model, (of, _)| running.get(model) == Some(of));
        for (model, of) in running {
            self.since.entry(model.clone()).or_insert((of, now));
        }
    }

    /// Keeps an answer that a comparison asks for.
    pub(super) fn saw(&mut self, releases: &Releases, seen: Seen, now: Timestamp) {
        if releases.compared(&seen.version.model).is_none_or(|arms| !arms.contains(&seen.version.version)) {
            return;
        }
        self.follow(releases, now);
        let Some((of, since)) = self.since.get(&seen.version.model).copied() else { return };
        // An experiment has one share from its beginning to its end.
        if matches!(of, Of::Experiment { .. }) || seen.admitted >= since {
            self.keep(seen.version.model.clone(), Item::Answer { of, seen });
        }
    }

    pub(super) fn keep(&mut self, model: ModelName, item: Item) {
        if self.waiting.values().map(Vec::len).sum::<usize>() < ROOM {
            self.waiting.entry(model).or_default().push(item);
        } else {
            self.lost(&model, 1);
        }
    }

    /// All that waits, for a replica that leads by now.
    pub(super) fn take_all(&mut self) -> BTreeMap<ModelName, Vec<Item>> {
        std::mem::take(&mut self.waiting)
    }

    /// Sends what waits. What cannot be sent while the store is lost waits on; what may have been sent is not sent again, as
    /// it would count twice.
    pub(super) async fn send(&mut self, releases: &Releases) {
        let full = self.waiting.iter().filter(|(_, items)| !items.is_empty());
        let parcels: Vec<Parcel> =
            full.map(|(model, items)| Parcel { model: model.clone(), body: written(items) }).collect();
        if parcels.is_empty() {
            return;
        }
        match releases.store().send_parcels(&parcels).await {
            Ok(()) => self.waiting.clear(),
            Err(StoreError::Lost { .. } | StoreError::Busy) => {}
            Err(error) => {
                tracing::warn!(%error, "what this replica saw of answers could not be sent to the one that leads");
                for (model, items) in self.take_all() {
                    self.lost(&model, items.len());
                }
            }
        }
    }

    fn lost(&self, model: &ModelName, items: usize) {
        if let Some(metrics) = &self.metrics {
            metrics.observations_dropped(model, items as u64);
        }
    }
}

fn written(items: &[Item]) -> String {
    serde_json::to_string(items).expect("names and numbers always serialise")
}

/// What another replica sent; nothing of what a newer release wrote in other words.
pub(super) fn read(body: &str) -> Vec<Item> {
    serde_json::from_str(body).unwrap_or_else(|error| {
        tracing::warn!(%error, "what another replica saw of answers cannot be read, and does not count");
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ids::VersionRef;
    use crate::release::analysis::{Measured, Outcome};
    use crate::release::{Request, SeenAnswer};

    #[test]
    fn what_is_sent_is_what_comes() {
        let seen = |answer| Seen {
            version: VersionRef { model: "desk".parse().unwrap(), version: "v2".parse().unwrap() },
            user: u64::MAX,
            admitted: "2026-03-01T12:00:00.123456789Z".parse().unwrap(),
            answer,
            request: Request::Copy,
            measured: Measured {
                latency: Some(Duration::from_nanos(1_000_000_001)),
                first_token: None,
                output_tokens: Some(7),
            },
        };
        let of = Of::Rollout {
            id: RolloutId::new(3),
            weight: Weight::from_percent(2.5).unwrap(),
            mirror: Weight::ZERO,
        };
        let said = vec![("is-json".parse().unwrap(), Outcome::Failed)];
        let items = vec![
            Item::Answer { of, seen: seen(SeenAnswer::Whole(said)) },
            Item::Answer {
                of: Of::Experiment { id: ExperimentId::new(9) },
                seen: seen(SeenAnswer::TimedOut),
            },
            Item::Word {
                rollout: RolloutId::new(3),
                version: "v1".parse().unwrap(),
                user: 1 << 63,
                passed: true,
            },
        ];
        assert_eq!(read(&written(&items)), items);
        assert_eq!(read("[{\"Gesture\": 1}]"), []);
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let metrics = Metrics::new().unwrap();
        let mut sending = Sending::default();
        sending.count_by(metrics.clone());
        let model: ModelName = "desk".parse().unwrap();
        let word =
            Item::Word { rollout: RolloutId::new(1), version: "v1".parse().unwrap(), user: 1, passed: true };
        for _ in 0..ROOM + 3 {
            sending.keep(model.clone(), word.clone());
        }
        assert_eq!(sending.take_all()[&model].len(), ROOM);
        let text = metrics.render(&[], &[], &[], Duration::ZERO).unwrap();
        assert!(text.contains("switchback_observations_dropped_total{model=\"desk\"} 3"), "{text}");
    }
}
