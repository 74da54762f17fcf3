//! Patroni's REST interface, as far as a cluster asks it.

use std::time::Duration;

use serde::Deserialize;

use super::member::Member;
use crate::error::{ClusterError, Step};

/// How long an answer may take that needs no waiting.
const PATIENCE: Duration = Duration::from_secs(10);

/// A member, as Patroni's `/cluster` lists it.
#[derive(Debug, Clone, Deserialize)]
#[non_exhaustive]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// `leader`, `replica`, `sync_standby`….
    pub role: String,
    /// `running`, `streaming`, `stopped`, `creating replica`….
    #[serde(default)]
    pub state: String,
}

#[derive(Deserialize)]
struct Answer {
    members: Vec<Listed>,
}

#[derive(Debug)]
pub(super) struct Rest(reqwest::Client);

impl Rest {
    pub(super) fn new() -> Result<Self, ClusterError> {
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build();
        let client = client.map_err(std::io::Error::other);
        client.step(|| "prepare questions over HTTP".to_owned()).map(Self)
    }

    pub(super) async fn list(&self, member: &Member) -> Result<Vec<Listed>, ClusterError> {
        let request = self.0.get(format!("{}/cluster", member.api()));
        let text = send(member, "list the members", request).await?;
        let answer: Answer = serde_json::from_str(&text)
            .map_err(|error| failed(member, "list the members", &error))?;
        Ok(answer.members)
    }

    pub(super) async fn is_leader(&self, member: &Member) -> bool {
        member.is_running()
            && send(member, "ask", self.0.get(format!("{}/leader", member.api()))).await.is_ok()
    }

    /// Returns when it is done.
    pub(super) async fn switchover(
        &self,
        from: &Member,
        to: Option<&str>,
    ) -> Result<(), ClusterError> {
        let request = self.0.post(format!("{}/switchover", from.api()));
        let body = serde_json::json!({"leader": from.name(), "candidate": to});
        let request = request.timeout(from.timeout()).body(body.to_string());
        send(from, "switch over", request).await.map(drop)
    }

    pub(super) async fn change_settings(
        &self,
        member: &Member,
        settings: &str,
    ) -> Result<(), ClusterError> {
        let request = self.0.patch(format!("{}/config", member.api())).body(settings.to_owned());
        send(member, "change the settings", request).await.map(drop)
    }
}

async fn send(
    member: &Member,
    step: &str,
    request: reqwest::RequestBuilder,
) -> Result<String, ClusterError> {
    let response = request.send().await.map_err(|error| failed(member, step, &error))?;
    let status = response.status();
    let text = response.text().await.map_err(|error| failed(member, step, &error))?;
    if status.is_success() {
        Ok(text)
    } else {
        Err(refused(member, step, format!("{status}: {text}")))
    }
}

fn failed(member: &Member, step: &str, error: &dyn std::error::Error) -> ClusterError {
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    refused(member, step, format!("{error}{cause}"))
}

fn refused(member: &Member, step: &str, why: String) -> ClusterError {
    ClusterError::Rest { member: member.name().to_owned(), step: step.to_owned(), why }
}
