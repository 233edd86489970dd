//! The HTTP sockets: accept, limits, graceful end.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;
use tower::util::MapRequest;
use tracing::{debug, warn};

use super::viewer::{self, Peer};

/// Connections at once; when all are taken new ones wait in the listen queue.
const CONNECTIONS_MAX: usize = 20_000;
/// A client that has not sent its request's headers by then is closed. Also how long a kept-alive connection may idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Request headers of a player are below 2 KB.
const HEADER_BYTES: usize = 16 << 10;

/// Serves until `shutdown`, then lets running requests end within `patience`.
/// `peer` tells who is at the other end of a connection from an address.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    peer: fn(IpAddr) -> Peer,
    shutdown: CancellationToken,
    patience: Duration,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES)
        .keep_alive(true);
    let builder = Arc::new(builder.http1_only());
    let graceful = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (socket, address) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(why) => {
                    // Out of descriptors, most likely: let connections end before the next try.
                    warn!(%why, "accept failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = shutdown.cancelled() => break,
        };
        if let Err(why) = socket.set_nodelay(true) {
            debug!(%why, "no TCP_NODELAY");
        }
        let peer = peer(address.ip());
        let service = MapRequest::new(router.clone(), move |request| viewer::prepare(request, peer));
        let connection = builder.serve_connection(TokioIo::new(socket), TowerToHyperService::new(service)).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            let _slot: OwnedSemaphorePermit = slot;
            if let Err(why) = connection.await {
                debug!(%why, "connection ended");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(patience, graceful.shutdown()).await.is_err() {
        debug!("some connections were cut");
    }
}
