//! Hears of what other replicas change, and knows whether the database is there.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgListener;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::connect::{CONNECT, Reach, Shared, lost};
use super::writing::CHANNEL;
use crate::store::open::{Kind, Store};

/// How often it is asked whether the database is there, and looked for changes that nobody was told of.
const LOOK: Duration = Duration::from_secs(1);

/// How soon a database that is lost is tried again at first, and at last.
const SOONEST: Duration = Duration::from_millis(100);
const LATEST: Duration = Duration::from_secs(2);

impl Store {
    /// Tells [`Store::changes`] and [`Store::outbox_changes`] of what other replicas do, and [`Store::reach`] whether
    /// the database is there, until `stop`. Of a file there is nothing to hear.
    pub async fn listen(&self, stop: CancellationToken) {
        let Kind::Shared(shared) = &self.kind else { return };
        let _ = stop.run_until_cancelled(self.listen_again_and_again(shared)).await;
    }

    async fn listen_again_and_again(&self, shared: &Shared) {
        let mut wait = SOONEST;
        loop {
            match connected(shared).await {
                Ok(listener) => {
                    wait = SOONEST;
                    if matches!(*shared.reach.borrow(), Reach::Lost { .. }) {
                        tracing::info!("the store is back");
                    }
                    shared.reach.send_replace(Reach::Reachable);
                    let why = self.hear(shared, listener).await;
                    tracing::debug!(%why, "the connection to the store is made anew");
                }
                Err(why) => {
                    if *shared.reach.borrow() == Reach::Reachable {
                        tracing::error!(%why, "the store is lost: this replica serves its last routes, and nothing can be changed");
                    }
                    shared.reach.send_replace(Reach::Lost { why: Arc::from(why) });
                    tokio::time::sleep(wait).await;
                    wait = LATEST.min(wait * 2);
                }
            }
        }
    }

    /// Listens until the connection breaks, or something else failed.
    async fn hear(&self, shared: &Shared, mut listener: PgListener) -> String {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                heard = listener.try_recv() => match heard {
                    Ok(Some(_)) => while listener.next_buffered().is_some() {},
                    Ok(None) => return "it broke".to_owned(),
                    Err(error) => return error.to_string(),
                },
                // nobody may have been told: of what was changed before this began to listen
                _ = looks.tick() => if let Err(why) = answers(shared).await {
                    return why;
                },
                () = shared.doubt.notified() => if let Err(why) = answers(shared).await {
                    return why;
                },
            }
            self.changes.send_replace(());
            self.outbox.send_replace(());
        }
    }
}

async fn connected(shared: &Shared) -> Result<PgListener, String> {
    let connecting = async {
        let mut listener = PgListener::connect_with(&shared.pool).await?;
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        Ok::<_, sqlx::Error>(listener)
    };
    match timeout(2 * CONNECT, connecting).await {
        Ok(connected) => connected.map_err(why),
        Err(_) => Err(format!("no connection within {CONNECT:?}")),
    }
}

fn why(error: sqlx::Error) -> String {
    lost(&error).unwrap_or_else(|| error.to_string())
}

/// Whether the database still answers.
async fn answers(shared: &Shared) -> Result<(), String> {
    match timeout(CONNECT, sqlx::query("SELECT 1").execute(&shared.pool)).await {
        Ok(answer) => answer.map(drop).map_err(why),
        Err(_) => Err(format!("no answer within {CONNECT:?}")),
    }
}
