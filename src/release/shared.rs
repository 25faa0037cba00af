//! What the owner of changes does where replicas share the store: it has its turn before it changes anything, and keeps
//! up with what the others change.
//!
//! Each command is carried out on the newest state: whoever has the turn first reads what others have changed since it
//! last looked, which the number of changes tells. Of a file none of this is asked.

use std::sync::atomic::Ordering;

use tokio::sync::mpsc;

use super::changes::Command;
use super::error::ReleaseError;
use super::flags;
use super::owner::Owner;
use super::route::Route;
use super::table::RouteTable;
use crate::store::{RouteRow, StoreError};

/// How often state is read again because it was changed while it was read. Whatever is read is shown: what changed
/// then is told, and read, next.
const READINGS: usize = 3;

impl Owner {
    /// Takes one command after another, and in between what other replicas have changed, until the last handle is gone.
    pub(super) async fn run(self, mut inbox: mpsc::Receiver<Command>) {
        let mut changes = self.store.changes();
        loop {
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(command) if self.store.is_shared() => self.obey_in_turn(command).await,
                    Some(command) => self.obey(command).await,
                    None => return,
                },
                Ok(()) = changes.changed() => if let Err(error) = self.keep_up().await {
                    // it is tried again at the next word, or in a second
                    tracing::debug!(%error, "what other replicas changed could not be read");
                },
            }
        }
    }

    async fn obey_in_turn(&self, command: Command) {
        let turn = match self.store.take_turn().await {
            Ok(turn) => turn,
            Err(error) => return command.refuse(error.into()),
        };
        let known = self.known.load(Ordering::Acquire);
        let read = if turn.changes_made() == known { Ok(()) } else { self.read_anew().await };
        match read {
            Ok(()) => {
                self.obey(command).await;
                self.known.store(turn.changes_made(), Ordering::Release);
            }
            Err(error) => command.refuse(error),
        }
        turn.give_back().await;
    }

    /// Shows readers what other replicas have changed.
    async fn keep_up(&self) -> Result<(), ReleaseError> {
        for _ in 0..READINGS {
            let made = self.store.changes_made().await?;
            if made == self.known.load(Ordering::Acquire) {
                break;
            }
            self.read_anew().await?;
            self.known.store(made, Ordering::Release);
        }
        Ok(())
    }

    /// Reads all that readers see, and shows it: routes first. What this replica cannot read, as a younger release has
    /// written it, is left as it was, and told; it must not keep the rest from being shown.
    async fn read_anew(&self) -> Result<(), ReleaseError> {
        let before = self.routes.snapshot();
        let declared = &self.declared.all();
        let mut table = RouteTable::clone(&before);
        let rows = self.store.latest_routes().await?.into_iter();
        for row in rows.filter(|row| declared.contains_key(&row.model)) {
            let (model, revision) = (row.model.clone(), row.revision);
            if before.get(&model).is_none_or(|route| route.revision() != revision) {
                tracing::info!(%model, revision, by = %row.actor, "another replica changed the route");
            }
            if let Some(route) = read_or_told(as_written(row))? {
                table = table.with(&model, route);
            }
        }
        self.routes.publish(table.clone());
        if let Some(all) = read_or_told(flags::restored(&self.store, declared).await)? {
            for (model, flags) in all {
                table = table.with_flags(&model, flags);
            }
            self.routes.publish(table);
        }
        read_or_told(self.rollouts.restore(&self.store, declared).await)?;
        read_or_told(self.experiments.restore(&self.store, declared).await).map(|_| ())
    }
}

/// What was read; nothing, which is told, where the store holds what cannot be read. An error is what may pass.
fn read_or_told<T>(read: Result<T, ReleaseError>) -> Result<Option<T>, ReleaseError> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error @ (ReleaseError::Damaged { .. } | ReleaseError::Store(StoreError::Row { .. }))) => {
            tracing::error!(%error, "what another replica wrote cannot be read here, and is left as it was");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

impl Command {
    /// Tells whoever asked that it was not done.
    fn refuse(self, error: ReleaseError) {
        // Who asked may have gone.
        match self {
            Self::Change { reply, .. } => drop(reply.send(Err(error))),
            Self::Flag { reply, .. } => drop(reply.send(Err(error))),
            Self::Begin { reply, .. } | Self::Rollout { reply, .. } => drop(reply.send(Err(error))),
            Self::BeginExperiment { reply, .. } | Self::Experiment { reply, .. } => {
                drop(reply.send(Err(error)));
            }
            Self::Follow { reply, .. } => drop(reply.send(Err(error))),
            Self::Withdraw { reply, .. } | Self::Redeclare { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}

/// The route of a shared store. It may name a version that this replica does not know, or not yet: others do, and here
/// another answers in its place.
pub(super) fn as_written(row: RouteRow) -> Result<Route, ReleaseError> {
    let damaged = ReleaseError::Damaged { model: row.model, revision: row.revision };
    Route::restored(row.revision, row.weights, &row.bucket_runs, row.rollback_points).ok_or(damaged)
}
