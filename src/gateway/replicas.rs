//! Several servers over one store: who leads, and what each does to keep up with the others.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Gateway;
use crate::config::StoreAt;
use crate::notify::Courier;
use crate::store::{LeaderRow, Reach, Role, Store, StoreError};

/// This replica, and what it knows of the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// Its name; none where the server has its store for itself.
    pub name: Option<String>,
    /// Whether it advances rollouts.
    pub leads: bool,
    /// Whether the store can be reached.
    pub reach: Reach,
    /// Who leads, as far as the store tells.
    pub leader: Option<LeaderRow>,
}

impl Gateway {
    /// Whether this replica leads: advances rollouts and experiments, runs suites, delivers webhooks.
    pub fn leads(&self) -> bool {
        self.inner().releases.store().leads()
    }

    /// This replica, and what it knows of the others.
    pub async fn replica(&self) -> ReplicaStatus {
        let store = self.inner().releases.store();
        ReplicaStatus {
            name: store.replica().map(str::to_owned),
            leads: store.leads(),
            // of a store that is lost, nobody knows who leads
            leader: store.leader().await.ok().flatten(),
            reach: store.reach(),
        }
    }

    /// Shows in the metrics what this replica is.
    pub(super) fn show_replica(&self) {
        let store = self.inner().releases.store();
        self.inner().metrics.replica(store.leads(), store.reach() == Reach::Reachable);
    }
}

pub(super) async fn open(at: &StoreAt) -> Result<Store, StoreError> {
    match at {
        StoreAt::File(path) => Store::open(path).await,
        StoreAt::Postgres(url) => Store::connect(url.expose(), &name()).await,
    }
}

/// The host and the process, for people who read logs. A container's host is its own name.
fn name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "replica" } else { host.trim() };
    format!("{host}/{}", std::process::id())
}

/// Hears of what other replicas change until `stop`, and leads when nobody else does. Whoever has led resigns when what he
/// has seen is written.
pub(super) fn keep_up(store: Store, tasks: &TaskTracker, stop: &CancellationToken) {
    let (listener, stop) = (store.clone(), stop.clone());
    tasks.spawn(async move { listener.listen(stop).await });
    tasks.spawn(async move { store.stand_for_lead().await });
}

/// Delivers webhooks while this replica leads, until `stop`. What a leader was about to deliver when it lost the lead may
/// be delivered twice.
pub(super) async fn deliver(courier: Courier, mut role: watch::Receiver<Role>, stop: CancellationToken) {
    let leads = |role: &Role| matches!(role, Role::Leads { .. });
    loop {
        // an error would mean that the store is gone, and the courier holds it
        let elected = async { drop(role.wait_for(leads).await) };
        if stop.run_until_cancelled(elected).await.is_none() {
            return;
        }
        let leading = stop.child_token();
        let until_replaced = async {
            let _ = leading.run_until_cancelled(role.wait_for(|role| !leads(role))).await;
            leading.cancel();
        };
        tokio::join!(courier.run_until(&leading), until_replaced);
    }
}
