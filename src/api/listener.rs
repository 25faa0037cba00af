//! The accept loop of one listener: what a client may leave undone has a deadline, and the end is in order.
//!
//! axum's own loop sets no timers: a client that never ends its request's head, or never reads its answer, would be
//! held for ever. This one closes such connections, and stops accepting while too many are open.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::caller::Connection;

/// What clients may take for themselves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The longest that a connection may take to send a request's head; also the longest that it may lie idle.
    head: Duration,
    /// The longest that a client may take nothing of what is being sent to it.
    stalled: Duration,
    /// Connections that may be open; beyond it, new ones wait in the system's backlog.
    open: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { head: Duration::from_mins(1), stalled: Duration::from_mins(1), open: 8192 }
    }
}

/// How long to wait when the system gives no connection, for want of file descriptors for example.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop` is cancelled, then lets the requests under way end. Dropping it closes all connections at once.
pub(super) async fn serve(listener: TcpListener, router: Router, limits: Limits, stop: CancellationToken) {
    let (places, graceful) = (Arc::new(Semaphore::new(limits.open)), GracefulShutdown::new());
    let mut connections = JoinSet::new();
    while let Some((stream, place)) = next(&listener, &places, &stop).await {
        while connections.try_join_next().is_some() {}
        let connection = graceful.watch(connection(stream, router.clone(), limits));
        connections.spawn(async move {
            // A client that breaks off is no error of ours.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection broke off");
            }
            drop(place);
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

/// The next connection and its place; nothing once it is time to stop.
async fn next(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    stop: &CancellationToken,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    stop.run_until_cancelled(async {
        // The semaphore is never closed.
        let place = Arc::clone(places).acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => break Some((stream, place)),
                Err(error) => {
                    tracing::warn!(%error, "no connection can be accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    })
    .await
    .flatten()
}

fn connection(
    stream: TcpStream,
    router: Router,
    limits: Limits,
) -> http1::Connection<TokioIo<std::pin::Pin<Box<TimeoutStream<TcpStream>>>>, Routed> {
    // Events of a stream are small, and each is wanted at once. A socket that refuses still works.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(limits.stalled));
    let service = Routed { router, connection: Connection::new() };
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .serve_connection(TokioIo::new(Box::pin(stream)), service)
}

/// The router, telling each request which connection it came on.
struct Routed {
    router: Router,
    connection: Connection,
}

impl hyper::service::Service<axum::http::Request<Incoming>> for Routed {
    type Response = axum::response::Response;
    type Error = std::convert::Infallible;
    type Future = tower::util::Oneshot<Router, axum::extract::Request>;

    fn call(&self, request: axum::http::Request<Incoming>) -> Self::Future {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(self.connection.clone()));
        self.router.clone().oneshot(request)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    async fn started(
        limits: Limits,
    ) -> (std::net::SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let endless = || async {
            let part = axum::body::Bytes::from(vec![b'x'; 1 << 16]);
            Body::from_stream(futures::stream::repeat_with(move || Ok::<_, std::io::Error>(part.clone())))
        };
        let router = Router::new()
            .route("/", axum::routing::get(|| async { "hello" }))
            .route("/endless", axum::routing::get(endless));
        let served = tokio::spawn(serve(listener, router, limits, stop.clone()));
        (address, stop, served)
    }

    /// All that the server sends until it closes the connection.
    async fn rest(stream: &mut TcpStream) -> String {
        let mut text = Vec::new();
        let read = tokio::time::timeout(SOON, stream.read_to_end(&mut text));
        read.await.expect("the connection stays open").unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    #[tokio::test]
    async fn a_client_that_never_ends_its_head_is_closed() {
        let (address, ..) = started(Limits { head: Duration::from_millis(50), ..Limits::default() }).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").await.unwrap();
        assert!(!rest(&mut stream).await.contains("hello"));
    }

    #[tokio::test]
    async fn a_client_that_never_reads_is_closed_and_its_place_given_to_the_next() {
        let limits = Limits { stalled: Duration::from_millis(50), open: 1, ..Limits::default() };
        let (address, ..) = started(limits).await;
        let mut greedy = TcpStream::connect(address).await.unwrap();
        greedy.write_all(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut next = TcpStream::connect(address).await.unwrap();
        next.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        assert!(rest(&mut next).await.ends_with("hello"));
    }

    #[tokio::test]
    async fn an_idle_connection_does_not_hold_up_the_end() {
        let (address, stop, served) = started(Limits::default()).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        stream.read_exact(&mut [0; 15]).await.unwrap();
        stop.cancel();
        tokio::time::timeout(SOON, served).await.expect("the listener does not end").unwrap();
        assert!(rest(&mut stream).await.ends_with("hello"));
    }
}
