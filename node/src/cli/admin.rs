//! The admin port: HTTP for people and for what watches over a broker.
//!
//! Owns: `/metrics` (Prometheus text), `/health/live` (the process answers), `/health/ready` (200, with what someone
//! must look at; or 503 and why).
//! Promises: at most [`MAX_CONNECTIONS`] at a time, each request within [`HEADER_TIMEOUT`]; nothing here can change
//! anything. Leaves out: what the numbers mean (`metrics`), whether the broker is well (`broker::Health`).
//! Called by `cli::start`. Production only: it listens by tokio directly, no simulated node has an admin port.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

/// One more waits.
const MAX_CONNECTIONS: usize = 32;
/// A client that says nothing for this long is closed.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// A text that is put together.
pub(super) type Text = Pin<Box<dyn Future<Output = String> + Send>>;

/// What the admin port shows.
pub(super) struct Shown {
    /// Prometheus text.
    pub(super) metrics: Box<dyn Fn() -> Text + Send + Sync>,
    /// Why the broker is not ready, if it is not.
    pub(super) problem: Box<dyn Fn() -> Option<String> + Send + Sync>,
    /// What is wrong though it is ready.
    pub(super) notice: Box<dyn Fn() -> Option<String> + Send + Sync>,
}

/// Takes `address` and answers there until the process ends; returns where it listens.
///
/// # Errors
/// The address cannot be listened on.
#[allow(clippy::disallowed_methods, reason = "the admin port exists in production only")]
pub(super) async fn start(address: &str, shown: Shown) -> io::Result<String> {
    let listener = TcpListener::bind(address).await?;
    let local = listener.local_addr()?.to_string();
    drop(tokio::spawn(accept(listener, Arc::new(shown))));
    Ok(local)
}

#[allow(clippy::disallowed_methods, reason = "the admin port exists in production only")]
async fn accept(listener: TcpListener, shown: Arc<Shown>) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = Arc::clone(&room).acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let shown = Arc::clone(&shown);
                drop(tokio::spawn(async move {
                    serve(stream, shown).await;
                    drop(permit);
                }));
            }
            Err(error) => {
                warn!(%error, "the admin port cannot accept");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, shown: Arc<Shown>) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let shown = Arc::clone(&shown);
        async move { Ok::<_, Infallible>(respond(request.method(), request.uri().path(), &shown).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
    if let Err(error) = served {
        debug!(%error, "admin connection ended");
    }
}

async fn respond(method: &Method, path: &str, shown: &Shown) -> Response<Full<Bytes>> {
    let (status, text) = match (method, path) {
        (&Method::GET, "/metrics") => (StatusCode::OK, (shown.metrics)().await),
        (&Method::GET, "/health/live") => (StatusCode::OK, "alive\n".to_owned()),
        (&Method::GET, "/health/ready") => match (shown.problem)() {
            None => match (shown.notice)() {
                None => (StatusCode::OK, "ready\n".to_owned()),
                Some(notice) => (StatusCode::OK, format!("ready, but {notice}\n")),
            },
            Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")),
        },
        (&Method::GET, "/") => (StatusCode::OK, "/metrics\n/health/live\n/health/ready\n".to_owned()),
        (&Method::GET, _) => (StatusCode::NOT_FOUND, "see /\n".to_owned()),
        _ => (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let plain = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "an HTTP client is a raw socket here")]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn get(address: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        answer
    }

    #[tokio::test]
    async fn readiness_follows_the_broker_while_liveness_does_not() {
        let problem = Arc::new(Mutex::new(None));
        let seen = Arc::clone(&problem);
        let shown = Shown {
            metrics: Box::new(|| Box::pin(async { "dejaq_connections 1\n".to_owned() })),
            problem: Box::new(move || seen.lock().expect("no panic").clone()),
            notice: Box::new(|| Some("the disk is full".to_owned())),
        };
        let address = start("127.0.0.1:0", shown).await.expect("a free port");
        assert!(get(&address, "/metrics").await.ends_with("\r\n\r\ndejaq_connections 1\n"));
        let ready = get(&address, "/health/ready").await;
        assert!(
            ready.starts_with("HTTP/1.1 200") && ready.ends_with("ready, but the disk is full\n"),
            "{ready}"
        );
        *problem.lock().expect("no panic") = Some("the disk is gone".to_owned());
        let ready = get(&address, "/health/ready").await;
        assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("the disk is gone"), "{ready}");
        assert!(get(&address, "/health/live").await.starts_with("HTTP/1.1 200"));
        assert!(get(&address, "/nothing").await.starts_with("HTTP/1.1 404"));
    }
}
