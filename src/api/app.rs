//! The whole server: both listeners over one gateway, from start to the last answer.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::follow::follow;
use super::listener::{self, Limits};
use super::public::PublicState;
use super::suites::{WithinDoor, check_suites, run_suites};
use super::{admin_router, public_router};
use crate::config::{Config, Source, Stamp};
use crate::gateway::{Gateway, Pace, StartError};
use crate::telemetry::Metrics;

/// How long connections may take to close once no generation runs.
const CLOSING: Duration = Duration::from_secs(2);

/// Why the server could not come up.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// An address could not be bound.
    #[error("{name} cannot listen on {address}: {source}; choose another address in `server.{name}`")]
    Bind {
        /// `listen` or `admin`.
        name: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// A metric could not be registered.
    #[error("metrics cannot be set up: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A regression suite that no version could pass.
    #[error("{0}")]
    Suite(String),
    /// The gateway could not come up.
    #[error(transparent)]
    Gateway(#[from] StartError),
}

/// Starts servers.
#[derive(Debug, Clone, Copy)]
pub struct App;

/// A running server. Dropping it stops listening at once; [`RunningApp::shut_down`] ends it in order.
#[derive(Debug)]
pub struct RunningApp {
    /// The gateway, for the loads that were begun and for tests.
    pub gateway: Gateway,
    /// Where clients call.
    pub public: SocketAddr,
    /// Where operators call.
    pub admin: SocketAddr,
    stop: CancellationToken,
    servers: Vec<JoinHandle<()>>,
    loading: JoinHandle<()>,
}

impl App {
    /// Binds both listeners, opens the state and begins to load; `/ready` tells when that is over.
    pub async fn start(config: Config) -> Result<RunningApp, AppError> {
        Self::start_at(config, Pace::default()).await
    }

    /// The same where time passes in another way for rollouts.
    pub async fn start_at(config: Config, pace: Pace) -> Result<RunningApp, AppError> {
        check_suites(&config).map_err(AppError::Suite)?;
        let public = bind("listen", config.server.listen).await?;
        let admin = bind("admin", config.server.admin).await?;
        let gateway = Gateway::start(&config, Metrics::new()?, pace).await?;
        let stop = CancellationToken::new();
        let (public_at, admin_at) = (address(&public, "listen")?, address(&admin, "admin")?);
        let clients = public_router(gateway.clone(), &config.server);
        let operators = admin_router(gateway.clone(), &config.server);
        let suites = WithinDoor::new(PublicState::new(gateway.clone(), &config.server));
        let suites = tokio::spawn(run_suites(gateway.clone(), suites));
        let servers = vec![
            tokio::spawn(listener::serve(public, clients, Limits::default(), stop.clone())),
            tokio::spawn(listener::serve(admin, operators, Limits::default(), stop.clone())),
            suites,
        ];
        let loader = gateway.clone();
        let loading = tokio::spawn(async move { loader.load_initial().await });
        tracing::info!(public = %public_at, admin = %admin_at, "listening");
        Ok(RunningApp { gateway, public: public_at, admin: admin_at, stop, servers, loading })
    }
}

impl RunningApp {
    /// Puts in force what a configuration's file holds, whenever that is something else. `read` is what the system said of it
    /// before the configuration of this server was read.
    pub fn follow(&mut self, source: Source, read: Stamp) {
        let follower = follow(self.gateway.clone(), source, read);
        self.servers.push(tokio::spawn(follower));
    }

    /// Waits until the first loads are over, well or badly.
    pub async fn loaded(&mut self) {
        if let Err(error) = (&mut self.loading).await {
            tracing::error!(%error, "the first loads were cut off");
        }
    }

    /// Ends in order: no new requests, answers finished within the drain deadline, connections closed. How many answers
    /// were cut off at the deadline.
    pub async fn shut_down(mut self) -> usize {
        self.loading.abort();
        let cut_off = self.gateway.shut_down().await;
        self.stop.cancel();
        for server in &mut self.servers {
            if tokio::time::timeout(CLOSING, &mut *server).await.is_err() {
                server.abort();
            }
        }
        self.gateway.end_checks().await;
        cut_off
    }
}

impl Drop for RunningApp {
    fn drop(&mut self) {
        self.gateway.close();
        self.stop.cancel();
        self.loading.abort();
    }
}

async fn bind(name: &'static str, address: SocketAddr) -> Result<TcpListener, AppError> {
    TcpListener::bind(address).await.map_err(|source| AppError::Bind { name, address, source })
}

fn address(listener: &TcpListener, name: &'static str) -> Result<SocketAddr, AppError> {
    let unbound = SocketAddr::from(([0, 0, 0, 0], 0));
    listener.local_addr().map_err(|source| AppError::Bind { name, address: unbound, source })
}
