//! An app that is served.

use std::time::Duration;

use axum::Router;
use flautino::Engine;
use flautino_axum::{ServeError, ServeReport};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// An app behind a real socket, under `flautino_axum::serve`.
#[derive(Debug)]
pub struct App {
    /// Such as `http://127.0.0.1:40001`.
    pub url: String,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<ServeReport, ServeError>>,
}

impl App {
    /// Serves the app on a free port.
    pub async fn start(app: Router, engine: Engine) -> Self {
        Self::start_with_drain(app, engine, Duration::from_secs(20)).await
    }

    /// As [`start`](Self::start), with another drain time than `serve`'s own.
    pub async fn start_with_drain(app: Router, engine: Engine, drain: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            let _ = stopped.await;
        };
        let serve = flautino_axum::serve(listener, app, engine)
            .drain_timeout(drain)
            .with_shutdown(shutdown);
        let task = tokio::spawn(serve.into_future());
        Self { url, stop: Some(stop), task }
    }

    /// Asks the server to shut down, without waiting for it.
    pub fn signal(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }

    /// Shuts down in order, and answers what `serve` reported.
    pub async fn stop(mut self) -> ServeReport {
        self.signal();
        self.task.await.unwrap().unwrap()
    }
}
