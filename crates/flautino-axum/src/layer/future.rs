//! The response future: holds the handler's response back until the request's transaction has ended
//! and its token is made.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use flautino::{Handle, Token, Transaction};
use futures_core::future::BoxFuture;
use http::request::Parts;
use http::{Response, StatusCode};
use pin_project_lite::pin_project;

use super::failure::{EmptyError, ErrorResponse, LayerError};
use super::repeats::Repeats;
use super::server_timing;
use crate::context::{AtResponse, RequestContext};
use crate::token::RequestTokens;

pin_project! {
    /// The response future of an [`EngineService`](crate::EngineService).
    pub struct ResponseFuture<F, R, E = EmptyError> {
        #[pin]
        state: State<F, R>,
        context: RequestContext,
        tokens: RequestTokens,
        repeats: Option<Repeats>,
        failing: Failing<E>,
    }
}

/// What is needed to answer in the handler's place.
pub(super) struct Failing<E> {
    pub(super) on_error: E,
    pub(super) parts: Option<Box<Parts>>,
}

pin_project! {
    #[project = StateProjection]
    enum State<F, R> {
        Handling { #[pin] future: F },
        // `None` where there is nothing to finish, so that most reads pay for no allocation.
        Finishing { finishing: Option<BoxFuture<'static, Finished>>, response: Option<Response<R>> },
    }
}

impl<F, R, E> ResponseFuture<F, R, E> {
    pub(super) fn new(
        future: F,
        context: RequestContext,
        tokens: RequestTokens,
        repeats: Option<Repeats>,
        failing: Failing<E>,
    ) -> Self {
        Self { state: State::Handling { future }, context, tokens, repeats, failing }
    }
}

impl<F, R, E, S> Future for ResponseFuture<F, R, E>
where
    F: Future<Output = Result<Response<R>, S>>,
    E: ErrorResponse<R>,
{
    type Output = Result<Response<R>, S>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProjection::Handling { future } => {
                    // After an error the transaction stays in the context, whose drop rolls it back.
                    let response = ready!(future.poll(cx))?;
                    if let Some(repeats) = this.repeats {
                        repeats.warn(this.context.handle());
                    }
                    let finishing = finishing(this.context, is_success(response.status()));
                    this.state.set(State::Finishing { finishing, response: Some(response) });
                }
                StateProjection::Finishing { finishing, response } => {
                    let Finished { transaction, token } = match finishing {
                        Some(finishing) => ready!(finishing.as_mut().poll(cx)),
                        None => Finished { transaction: Ok(()), token: None },
                    };
                    let Some(response) = response.take() else {
                        unreachable!("a future is not polled again after it was ready")
                    };
                    let mut response = match transaction {
                        Ok(()) => response,
                        Err(error) => {
                            let Failing { on_error, parts } = this.failing;
                            on_error.respond(error, parts.take())
                        }
                    };
                    if let Some(token) = token {
                        this.tokens.write(token, response.headers_mut());
                    }
                    server_timing::write(&this.context.handle().timings(), response.headers_mut());
                    return Poll::Ready(Ok(response));
                }
            }
        }
    }
}

/// What was done between the handler's response and its client.
struct Finished {
    /// The error is for a handler whose response is a success.
    transaction: Result<(), LayerError>,
    token: Option<Token>,
}

/// Whether a response of this status commits the request's transaction.
fn is_success(status: StatusCode) -> bool {
    status.as_u16() < 400
}

/// Returns what is left to do after the handler, if anything.
fn finishing(context: &RequestContext, is_success: bool) -> Option<BoxFuture<'static, Finished>> {
    let transaction = context.close();
    let handle = context.handle();
    if matches!(transaction, AtResponse::NoTransaction) && !handle.owes_token() {
        return None;
    }
    Some(Box::pin(finish(handle.clone(), transaction, is_success)))
}

/// Ends the transaction, and only then makes the token, so that it covers the commit.
async fn finish(handle: Handle, transaction: AtResponse, is_success: bool) -> Finished {
    let transaction = match transaction {
        AtResponse::Transaction(transaction) if is_success => commit(*transaction).await,
        AtResponse::Transaction(transaction) => {
            roll_back(*transaction).await;
            Ok(())
        }
        AtResponse::StillHeld if is_success => {
            tracing::error!("{}", LayerError::StillHeld);
            Err(LayerError::StillHeld)
        }
        AtResponse::StillHeld | AtResponse::NoTransaction => Ok(()),
    };
    let token = if handle.owes_token() { handle.token().await } else { None };
    Finished { transaction, token }
}

async fn commit(transaction: Transaction) -> Result<(), LayerError> {
    transaction.commit().await.map_err(|error| {
        tracing::error!(%error, "the request's transaction was not committed; the response is an error");
        LayerError::NotCommitted(error)
    })
}

async fn roll_back(transaction: Transaction) {
    if let Err(error) = transaction.rollback().await {
        tracing::debug!(%error, "the rollback failed, so the connection is closed");
    }
}

impl<F, R, E> std::fmt::Debug for ResponseFuture<F, R, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
