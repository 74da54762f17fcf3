//! A client with a cookie jar of the test's own, so that a test can say in which order responses
//! reach it.

use axum::http::{HeaderMap, HeaderValue};
use reqwest::Client;

/// A client that keeps cookies as browsers do: in the order in which they were first set.
#[derive(Debug, Clone, Default)]
pub(crate) struct Browser {
    pub(crate) client: Client,
    pub(crate) cookies: Vec<(String, String)>,
}

/// A whole response.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

/// One `Set-Cookie`.
#[derive(Debug, Clone)]
pub(crate) struct SetCookie {
    pub(crate) name: String,
    pub(crate) value: String,
    /// In lower case, sorted.
    pub(crate) attributes: Vec<String>,
}

impl SetCookie {
    fn parse(text: &str) -> Self {
        let (pair, attributes) = text.split_once(';').unwrap_or((text, ""));
        let (name, value) = pair.split_once('=').unwrap();
        let mut attributes: Vec<_> =
            attributes.split(';').map(|text| text.trim().to_ascii_lowercase()).collect();
        attributes.sort();
        Self { name: name.to_owned(), value: value.to_owned(), attributes }
    }

    pub(crate) fn deletes(&self) -> bool {
        self.attributes.iter().any(|attribute| attribute == "max-age=0")
    }
}

/// Sends a GET.
pub(crate) async fn get(client: &Client, url: &str, headers: HeaderMap) -> Answer {
    let response = client.get(url).headers(headers).send().await.unwrap();
    Answer {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: response.text().await.unwrap(),
    }
}

/// Headers of these names and values.
pub(crate) fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

impl Browser {
    /// What it would send as `Cookie` now.
    pub(crate) fn cookie_headers(&self) -> HeaderMap {
        let pairs: Vec<_> =
            self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if pairs.is_empty() { HeaderMap::new() } else { headers(&[("cookie", &pairs.join("; "))]) }
    }

    /// Sends a GET with its cookies, and does not look at those of the response yet.
    pub(crate) async fn send(&self, url: &str) -> Answer {
        get(&self.client, url, self.cookie_headers()).await
    }

    /// Takes the cookies of a response.
    pub(crate) fn take(&mut self, answer: &Answer) {
        for cookie in answer.set_cookies() {
            let known = self.cookies.iter().position(|(name, _)| *name == cookie.name);
            match (known, cookie.deletes()) {
                (Some(at), true) => drop(self.cookies.remove(at)),
                (Some(at), false) => self.cookies[at].1 = cookie.value,
                (None, true) => {}
                (None, false) => self.cookies.push((cookie.name, cookie.value)),
            }
        }
    }

    /// Sends a GET, and takes the cookies of its response.
    pub(crate) async fn get(&mut self, url: &str) -> Answer {
        let answer = self.send(url).await;
        self.take(&answer);
        answer
    }
}

impl Answer {
    /// The header's token.
    pub(crate) fn token(&self) -> Option<String> {
        let mut values = self.headers.get_all("flautino-token").iter();
        let token = values.next().map(|value| value.to_str().unwrap().to_owned());
        assert!(values.next().is_none(), "two tokens: {:?}", self.headers);
        token
    }

    pub(crate) fn set_cookies(&self) -> Vec<SetCookie> {
        let values = self.headers.get_all("set-cookie").iter();
        values.map(|value| SetCookie::parse(value.to_str().unwrap())).collect()
    }

    /// Node and reason of its statements, as `Server-Timing` says.
    pub(crate) fn statements(&self) -> Vec<(String, String)> {
        let Some(header) = self.headers.get("server-timing") else { return Vec::new() };
        let entry = |entry: &str| {
            let (_, description) = entry.split_once("desc=\"").unwrap();
            let (node, reason) = description.trim_end_matches('"').split_once(' ').unwrap();
            (node.to_owned(), reason.to_owned())
        };
        header.to_str().unwrap().split(", ").map(entry).collect()
    }

    /// The node that ran its only statement, and why.
    #[track_caller]
    pub(crate) fn served(&self) -> (String, String) {
        let statements = self.statements();
        assert_eq!(statements.len(), 1, "{self:?}");
        statements[0].clone()
    }

    #[track_caller]
    pub(crate) fn assert_value(&self, value: i64) {
        assert_eq!((self.status, &*self.body), (200, &*value.to_string()), "{self:?}");
    }

    pub(crate) fn by_replica(&self) -> bool {
        self.served().0.starts_with("read_replica")
    }
}
