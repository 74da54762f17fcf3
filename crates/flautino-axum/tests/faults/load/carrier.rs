//! A client over HTTP, and how it brings back the token that it was given.

use reqwest::header::HeaderValue;
use reqwest::{Client, RequestBuilder};

use super::op::Failure;

pub(super) enum Carrier {
    Nothing(Client),
    /// As most programs do it.
    Header(Client, Option<HeaderValue>),
    /// As browsers do it. The client keeps them.
    Cookies(Client),
}

impl Carrier {
    pub(super) fn with_cookies() -> Self {
        Self::Cookies(Client::builder().cookie_store(true).build().unwrap())
    }

    pub(super) fn http(&self) -> &Client {
        let (Self::Nothing(http) | Self::Header(http, _) | Self::Cookies(http)) = self;
        http
    }

    pub(super) async fn send(&mut self, mut request: RequestBuilder) -> Result<String, Failure> {
        const TOKEN: &str = "flautino-token";
        if let Self::Header(_, Some(token)) = self {
            request = request.header(TOKEN, token.clone());
        }
        let response = request.send().await.map_err(Failure::Client)?;
        if let (Self::Header(_, token), Some(new)) = (self, response.headers().get(TOKEN)) {
            *token = Some(new.clone());
        }
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.text().await.map_err(Failure::Client)?;
        if status.is_success() {
            Ok(body)
        } else {
            Err(Failure::Status { status: status.as_u16(), headers, body })
        }
    }
}
