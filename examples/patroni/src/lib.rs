//! The members of a Patroni cluster as flautino's nodes, for [`flautino::Engine::resolve_with`]: to be copied.

use std::{collections::HashMap, io, io::Error, net::SocketAddr, time::Duration};

use futures_util::future::{select_ok, try_join_all};
use reqwest::{Client, Response, Url};
use serde::Deserialize;
use serde_json::Value;

/// flautino takes a question that is older than five seconds for unanswered.
const PATIENCE: Duration = Duration::from_secs(3);

/// What `GET /cluster` answers, as far as it matters here.
#[derive(Deserialize)]
struct Cluster {
    members: Vec<Member>,
}

#[derive(Deserialize)]
struct Member {
    role: String,
    /// Missing while a member is being made.
    host: Option<String>,
    port: Option<u16>,
    #[serde(default)]
    tags: HashMap<String, Value>,
}

impl Member {
    /// Not what is tagged `noloadbalance`, unless it leads. The state is not looked at: flautino itself finds out
    /// which node is up, within half a second, and a member that is down and stays listed may be back any moment.
    fn address(self) -> Option<(String, u16)> {
        let leads = matches!(&*self.role, "leader" | "standby_leader" | "master");
        let tagged = self.tags.get("noloadbalance").is_some_and(|tag| *tag == Value::Bool(true));
        if tagged && !leads { None } else { self.host.zip(self.port) }
    }
}

/// A Patroni cluster, by where some of its members answer: `http://10.0.0.1:8008`.
#[derive(Debug, Clone)]
pub struct Members {
    http: Client,
    apis: Vec<Url>,
}

impl Members {
    /// # Errors
    ///
    /// When one of these, separated by commas, is no URL.
    pub fn new(apis: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let parse = |api: &str| Url::parse(api.trim()).and_then(|api| api.join("/cluster"));
        let parse = |api| parse(api).map_err(|error| format!("Patroni's URL {api:?}: {error}"));
        let apis = apis.split(',').map(parse).collect::<Result<_, _>>()?;
        Ok(Self { http: Client::builder().no_proxy().timeout(PATIENCE).build()?, apis })
    }

    /// The addresses of all members but `main`, which flautino knows, from whoever answers first.
    ///
    /// # Errors
    ///
    /// When nobody answers, or none with a list of members: flautino then keeps the nodes that it has.
    pub async fn nodes(&self, main: SocketAddr) -> io::Result<Vec<SocketAddr>> {
        let (nodes, _) = select_ok(self.apis.iter().map(|api| Box::pin(self.ask(api)))).await?;
        let others: Vec<_> = nodes.iter().copied().filter(|node| *node != main).collect();
        Ok(if others.is_empty() { nodes } else { others })
    }

    async fn ask(&self, api: &Url) -> io::Result<Vec<SocketAddr>> {
        let failed = |why: &dyn std::fmt::Display| Error::other(format!("{api}: {why}"));
        let answer = self.http.get(api.clone()).send().await.and_then(Response::error_for_status);
        let answer = answer.map_err(|error| failed(&error))?;
        let cluster: Cluster = answer.json().await.map_err(|error| failed(&error))?;
        let listed = cluster.members.into_iter().filter_map(Member::address);
        let found = try_join_all(listed.map(tokio::net::lookup_host)).await?;
        let nodes: Vec<_> = found.into_iter().filter_map(|mut all| all.next()).collect();
        if nodes.is_empty() { Err(failed(&"no member has an address")) } else { Ok(nodes) }
    }
}
