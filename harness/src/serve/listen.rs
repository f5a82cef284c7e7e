//! Connections: accepted, served, and let go.
//!
//! The caller owns the socket and says when to stop. Then what runs is finished, up to a grace
//! period, and whatever else is asked is refused; whoever still has no answer after that is cut
//! off. Invariant: no error of one connection ends the server, nor does a lack of files:
//! connections then wait in the system's queue until others have gone.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use backends::Nanos;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::crowd::{Crowd, give_memory_back};
use super::patience::{HyperTimer, Patient};
use super::{Server, routes};

/// A connection on which no request comes is closed after this long.
const IDLE_LIMIT: Duration = Duration::from_secs(75);
/// A reader that takes nothing for this long is gone.
const STALL_LIMIT: Nanos = Nanos(30_000_000_000);
/// Before the next attempt, when the system gives no connection.
const ACCEPT_PAUSE: Nanos = Nanos(50_000_000);
/// Bytes that a connection may hold in either direction; a request's head must fit.
const BUFFER_BYTES: usize = 64 << 10;

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Every request had its answer.
    Drained,
    /// This many had none yet.
    CutOff(u32),
}

/// Serves until `stop` says so. After its first word, requests that run have `grace` to finish; the
/// second ends them at once.
pub async fn run(
    server: Arc<Server>,
    listener: TcpListener,
    mut stop: mpsc::Receiver<()>,
    grace: Nanos,
) -> Ending {
    let connections = Connections {
        router: routes::router(Arc::clone(&server)),
        server: Arc::clone(&server),
        crowd: Arc::default(),
    };
    let open = GracefulShutdown::new();
    loop {
        tokio::select! {
            biased;
            _ = stop.recv() => break,
            accepted = listener.accept() => {
                connections.take(accepted, |connection| open.watch(connection)).await;
            }
        }
    }
    server.drain();
    let mut drained = pin!(open.shutdown());
    let mut patience = pin!(server.clock().sleep(grace));
    loop {
        tokio::select! {
            biased;
            () = &mut drained => return Ending::Drained,
            _ = stop.recv() => return Ending::CutOff(server.in_flight()),
            () = &mut patience => return Ending::CutOff(server.in_flight()),
            // Those who come now are told that they are too late.
            accepted = listener.accept() => {
                connections.take(accepted, |connection| connection).await;
            }
        }
    }
}

type Accepted = io::Result<(TcpStream, SocketAddr)>;
type Connection = http1::Connection<TokioIo<Patient<TcpStream>>, TowerToHyperService<Router>>;

struct Connections {
    server: Arc<Server>,
    router: Router,
    crowd: Arc<Crowd>,
}

impl Connections {
    /// Serves a new connection; waits a little when the system has none to give.
    async fn take<F>(&self, accepted: Accepted, watch: impl FnOnce(Connection) -> F)
    where
        F: Future<Output = hyper::Result<()>> + Send + 'static,
    {
        match accepted.and_then(|(stream, _)| stream.set_nodelay(true).map(|()| stream)) {
            Ok(stream) => self.serve(stream, watch),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                self.server.clock().sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    fn serve<F>(&self, stream: TcpStream, watch: impl FnOnce(Connection) -> F)
    where
        F: Future<Output = hyper::Result<()>> + Send + 'static,
    {
        let clock = self.server.clock().clone();
        let stream = Patient::new(stream, clock.clone(), STALL_LIMIT);
        let connection = http1::Builder::new()
            .timer(HyperTimer(clock))
            .header_read_timeout(IDLE_LIMIT)
            .max_buf_size(BUFFER_BYTES)
            .serve_connection(
                TokioIo::new(stream),
                TowerToHyperService::new(self.router.clone()),
            );
        let served = watch(connection);
        let server = Arc::clone(&self.server);
        let crowd = Arc::clone(&self.crowd);
        crowd.grew(server.metrics.connections.inc() + 1);
        tokio::spawn(async move {
            if let Err(error) = served.await {
                tracing::debug!(%error, "a connection broke");
            }
            if crowd.shrank(server.metrics.connections.dec() - 1) {
                // Those who are still served do not wait for it.
                std::thread::spawn(give_memory_back);
            }
        });
    }
}
