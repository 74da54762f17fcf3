//! What a connection does at the moment, and how long it may go on doing that: waiting for a request, or
//! for the rest of a request's head.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum_core::body::Body;
use axum_core::response::Response;
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How the preface of HTTP/2 begins, as no request of HTTP/1 does.
const PREFACE: &[u8] = b"PRI ";
/// The shortest time between two looks at a connection.
const MIN_LOOK: Duration = Duration::from_millis(10);

/// How long a connection may wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For the first byte of the next request.
    pub(super) idle: Duration,
    /// For the end of a request's head, from its first byte on.
    pub(super) head: Duration,
}

/// What has become of a connection that has waited too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expired {
    /// No request has come.
    Idle,
    /// A request has begun, and the rest of its head has not come.
    Head,
}

/// What one connection does at the moment.
#[derive(Debug, Clone)]
pub(super) struct Activity(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// Requests whose response is not sent yet.
    requests: usize,
    /// When the connection last began to wait for a request.
    idle_since: Instant,
    /// When the first byte of the next request came. Stays `None` for HTTP/2, where other things than
    /// requests come too.
    head_since: Option<Instant>,
    /// Whether no request has been read yet.
    is_new: bool,
    /// How much of HTTP/2's preface the connection has brought. `None`: it brought something else.
    preface: Option<usize>,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            requests: 0,
            idle_since: Instant::now(),
            head_since: None,
            is_new: true,
            preface: Some(0),
        })))
    }

    /// A request was read. It is under way until what this returns is dropped.
    pub(super) fn begin_request(&self) -> UnderWay {
        let mut state = self.0.lock();
        state.requests += 1;
        state.head_since = None;
        state.is_new = false;
        UnderWay(self.clone())
    }

    fn has_read(&self, bytes: &[u8]) {
        let mut state = self.0.lock();
        if bytes.is_empty() {
            return;
        }
        if state.is_http2_after(bytes) {
            state.head_since = None;
        } else if state.requests == 0 {
            state.head_since.get_or_insert_with(Instant::now);
        }
    }

    /// What is left of a response goes out after its body was read to the end.
    fn has_written(&self) {
        let mut state = self.0.lock();
        // In HTTP/2 it may be the answer to a ping.
        let is_http2 = state.preface == Some(PREFACE.len());
        if state.requests == 0 && state.head_since.is_none() && !is_http2 {
            state.idle_since = Instant::now();
        }
    }

    /// Ready when the connection has waited too long for a request.
    pub(super) async fn expired(&self, patience: Patience) -> Expired {
        loop {
            let now = Instant::now();
            let (deadline, meaning) = self.0.lock().deadline(now, patience);
            if deadline <= now {
                return meaning;
            }
            // Whatever begins in the meantime has this much time at the least.
            let next_look = now + patience.head.min(patience.idle).max(MIN_LOOK);
            tokio::time::sleep_until(deadline.min(next_look).into()).await;
        }
    }
}

impl State {
    /// Whether the connection speaks HTTP/2, as its first bytes tell, with these ones read too.
    fn is_http2_after(&mut self, bytes: &[u8]) -> bool {
        let Some(seen) = self.preface else { return false };
        let expected = &PREFACE[seen..];
        let length = expected.len().min(bytes.len());
        if bytes[..length] != expected[..length] {
            self.preface = None;
            return false;
        }
        self.preface = Some(seen + length);
        seen + length == PREFACE.len()
    }

    fn deadline(&self, now: Instant, patience: Patience) -> (Instant, Expired) {
        match self.head_since {
            _ if self.requests > 0 => (now + patience.idle.max(MIN_LOOK), Expired::Idle),
            Some(since) => (since + patience.head, Expired::Head),
            // Before its first request a connection has not promised to be quick.
            None if self.is_new => {
                (self.idle_since + patience.idle.max(patience.head), Expired::Idle)
            }
            None => (self.idle_since + patience.idle, Expired::Idle),
        }
    }
}

/// A request whose response is not sent yet.
#[derive(Debug)]
pub(super) struct UnderWay(Activity);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        state.requests -= 1;
        state.idle_since = Instant::now();
    }
}

impl UnderWay {
    /// The response, under way until its body was sent.
    pub(super) fn until_sent(self, response: Response) -> Response {
        response.map(|body| Body::new(SentBody { body, _under_way: self }))
    }
}

pin_project! {
    /// The body of a response, which says when it was sent or given up.
    struct SentBody {
        #[pin]
        body: Body,
        _under_way: UnderWay,
    }
}

impl HttpBody for SentBody {
    type Data = Bytes;
    type Error = axum_core::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum_core::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The socket of a connection, which tells what goes over it.
#[derive(Debug)]
pub(super) struct Watched<I> {
    io: I,
    activity: Activity,
}

impl<I> Watched<I> {
    pub(super) fn new(io: I, activity: Activity) -> Self {
        Self { io, activity }
    }

    fn written(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let length = ready!(result)?;
        if length > 0 {
            self.activity.has_written();
        }
        Poll::Ready(Ok(length))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        self.activity.has_read(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.written(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.written(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
