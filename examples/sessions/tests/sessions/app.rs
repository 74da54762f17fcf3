//! The app: a login is seen by the next request, whichever node answers that.

use flautino_lab::{App, Lab, LabBuilder, ask, wait_until};
use reqwest::Client;
use reqwest::header::COOKIE;
use sessions::{TABLE, app};

fn lab() -> LabBuilder<'static> {
    Lab::named("sessions").sql(TABLE).replicas(1)
}

/// A browser, and the app that it asks.
struct Visit {
    app: App,
    browser: Client,
}

impl Visit {
    async fn start(lab: &Lab) -> Self {
        lab.until_served_by(&["read_replica_1"]).await;
        let app = App::start(app(&lab.engine), lab.engine.clone()).await;
        Self { app, browser: Client::builder().cookie_store(true).build().unwrap() }
    }

    /// Posts, and returns the cookies of the answer.
    async fn post(&self, path: &str) -> Vec<String> {
        let answer = self.browser.post(format!("{}/{path}", self.app.url)).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.cookies().map(|cookie| format!("{}={}", cookie.name(), cookie.value())).collect()
    }

    async fn greeting(&self) -> String {
        let answer = self.browser.get(&self.app.url).send().await.unwrap();
        answer.text().await.unwrap()
    }
}

#[tokio::test]
async fn while_the_replica_lags_the_next_request_reads_its_session_from_the_primary() {
    let lab = lab().frozen().start().await;
    let visit = Visit::start(&lab).await;
    lab.cluster.replica(0).pause_replay().await.unwrap();
    let cookies = visit.post("login/ada").await;
    for _ in 0..20 {
        assert_eq!(visit.greeting().await, "hello ada, says main\n");
    }
    // Without the token the replica answers, which has no such session yet: the browser is told to forget it.
    let id = cookies.iter().find(|cookie| cookie.starts_with("id=")).unwrap();
    let bare = Client::new().get(&visit.app.url).header(COOKIE, id).send().await.unwrap();
    assert!(bare.cookies().any(|cookie| cookie.name() == "id" && cookie.value().is_empty()));
    assert_eq!(bare.text().await.unwrap(), "hello stranger, says read_replica_1\n");

    visit.post("logout").await;
    assert_eq!(visit.greeting().await, "hello stranger, says no node\n");
    assert_eq!(ask::<i64>(lab.primary(), "SELECT count(*) FROM sessions").await, 0);
    visit.app.stop().await;
}

#[tokio::test]
async fn the_replica_takes_over_once_it_has_the_session_which_is_never_lost_meanwhile() {
    let lab = lab().patient_probes().start().await;
    let visit = Visit::start(&lab).await;
    lab.cluster.replica(0).pause_replay().await.unwrap();
    visit.post("login/ada").await;
    assert_eq!(visit.greeting().await, "hello ada, says main\n");
    lab.cluster.replica(0).resume_replay().await.unwrap();
    wait_until("the replica serves the session", async || {
        let greeting = visit.greeting().await;
        assert!(greeting.starts_with("hello ada, "), "{greeting}");
        greeting.ends_with("says read_replica_1\n")
    })
    .await;
    visit.app.stop().await;
}

#[tokio::test]
async fn a_login_gives_the_session_a_new_id_and_the_old_one_is_worth_nothing() {
    let lab = lab().start().await;
    let visit = Visit::start(&lab).await;
    let before = visit.post("login/eve").await;
    let after = visit.post("login/ada").await;
    let id = |cookies: &[String]| cookies.iter().find(|c| c.starts_with("id=")).unwrap().clone();
    assert_ne!(id(&before), id(&after));
    assert!(visit.greeting().await.starts_with("hello ada, "));
    assert_eq!(ask::<i64>(lab.primary(), "SELECT count(*) FROM sessions").await, 1);
    visit.app.stop().await;
}
