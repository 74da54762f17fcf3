//! The front page and the status page in a real browser.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::child::{Demo, Place};
use crate::driver::Browser;

/// What is cut off, overlaps or makes the page wider than the screen.
const FAULTS: &str = r#"
    const faults = [];
    const width = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth > width) faults.push(`the page is ${document.documentElement.scrollWidth} wide`);
    const shown = (element) => element.getClientRects().length > 0;
    for (const element of document.body.querySelectorAll("h1, h2, h3, p, dt, dd, button, input, span, strong, .card, summary")) {
      if (!shown(element) || element.closest(".said")) continue;
      const box = element.getBoundingClientRect();
      const scrolls = element.closest(".wide, ul, ol");
      if (!scrolls && (box.left < -1 || box.right > width + 1)) faults.push(`${element.tagName} ${element.textContent.slice(0, 40)} leaves the page`);
      if (element.tagName !== "INPUT" && getComputedStyle(element).display !== "inline" && element.scrollWidth > element.clientWidth + 1)
        faults.push(`${element.tagName} ${element.textContent.slice(0, 40)} is cut off`);
    }
    const cards = [...document.querySelectorAll(".card")].filter(shown);
    for (const one of cards) for (const other of cards) {
      if (one === other || one.contains(other) || other.contains(one)) continue;
      const [a, b] = [one.getBoundingClientRect(), other.getBoundingClientRect()];
      if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1)
        faults.push(`${one.textContent.slice(0, 30)} overlaps ${other.textContent.slice(0, 30)}`);
    }
    return faults;
"#;

/// A browser, and a demo for it; `None` where there is no browser.
async fn start(place: &Place) -> Option<(Browser, Demo)> {
    let browser = Browser::start().await?;
    browser.screen(1400, false).await;
    Some((browser, Demo::start(&mut place.command()).await))
}

async fn assert_fits(browser: &Browser, name: &str) {
    for (width, is_dark) in [(360, false), (360, true), (1400, false), (1400, true)] {
        browser.screen(width, is_dark).await;
        let scheme = if is_dark { "dark" } else { "light" };
        assert_eq!(browser.run(FAULTS).await, json!([]), "{name} at {width}, {scheme}");
        let back = browser.run("return getComputedStyle(document.body).backgroundColor").await;
        let expected = if is_dark { "rgb(18, 21, 27)" } else { "rgb(246, 247, 249)" };
        assert_eq!(back, expected, "{name}: {scheme}");
        browser.picture(&format!("{name}-{width}-{scheme}")).await;
    }
    browser.screen(1400, false).await;
}

#[tokio::test]
async fn the_status_page_shows_faults_and_a_promotion_and_that_it_hears_nothing() {
    let place = Place::new();
    let Some((browser, demo)) = start(&place).await else { return };
    browser.client.goto(&format!("{}/status", demo.url)).await.unwrap();
    browser.until_says("#live", "live").await;
    browser.until_says("[data-node=main]", "♛ primary").await;
    browser.click("summary").await;
    browser.until_says("#settings tbody", "routing.max_lag").await;
    browser.click("summary").await;
    post(&demo, "/demo/load/on").await;
    browser.until_says("#reasons tbody", "floor_met").await;
    browser.until_says("#statements tbody", "SELECT n FROM load WHERE id = $1").await;
    assert_fits(&browser, "status").await;

    post(&demo, "/demo/nodes/read_replica_1/pause").await;
    browser.until_says("[data-node=read_replica_1]", "not used for reads").await;
    browser.until_says("#events", "read_replica_1").await;
    browser.picture("status-paused").await;
    post(&demo, "/demo/nodes/read_replica_1/replay").await;
    browser.until_says("[data-node=read_replica_1] .top", "up").await;

    post(&demo, "/demo/nodes/read_replica_2/promote").await;
    browser.until_says("[data-node=read_replica_2]", "♛ primary").await;
    browser.until_says("[data-node=main]", "down").await;
    browser.picture("status-failover").await;
    post(&demo, "/demo/nodes/main/return").await;
    browser.until_says("[data-node=main] .top", "up").await;
    browser.until_says("[data-node=main]", "replica").await;
    assert_eq!(browser.console().await, [""; 0]);

    // The process is stopped, not ended: nothing tells the browser.
    demo.send(Signal::SIGSTOP);
    browser.until_says("#live", "last heard").await;
    browser.picture("status-stale").await;
    demo.send(Signal::SIGCONT);
    browser.until_says("#live", "live").await;
}

#[tokio::test]
async fn the_status_page_is_right_with_64_nodes_and_with_none_of_them_up() {
    let place = Place::new();
    let Some((browser, demo)) = start(&place).await else { return };
    browser.client.goto(&format!("{}/status", demo.url)).await.unwrap();
    browser.until_says("#live", "live").await;
    let status = reqwest::get(format!("{}/status.json", demo.url)).await.unwrap();
    let mut status: Value = status.json().await.unwrap();
    let replica = status["nodes"][1].clone();
    let nodes = status["nodes"].as_array_mut().unwrap();
    for number in nodes.len()..64 {
        let mut node = replica.clone();
        node["name"] = json!(format!("read_replica_in_a_far_region_{number}"));
        node["host"] = json!("postgres-7d4f9c-replica.databases.svc.cluster.local");
        if number % 3 == 0 {
            node["health"] = json!("down");
            node["reason"] = json!("connection refused (os error 111), as at every try so far");
            node["pool"] = Value::Null;
            node["lag_ms"] = Value::Null;
        }
        nodes.push(node);
    }
    let feed = async |status: &Value| {
        // The page's own stream would show the demo's nodes again.
        let script = "window.shows ??= show; window.show = () => {}; shows(arguments[0])";
        browser.client.execute(script, vec![status.clone()]).await.unwrap();
        browser.run("return document.querySelectorAll('.card').length").await
    };
    assert_eq!(feed(&status).await, 64);
    assert_fits(&browser, "status-64").await;
    status["primary"] = Value::Null;
    for node in status["nodes"].as_array_mut().unwrap() {
        node["health"] = json!("down");
    }
    assert_eq!(feed(&status).await, 64);
    browser.until_says("#summary", "primary: none").await;
}

#[tokio::test]
async fn the_front_page_adds_edits_and_deletes_and_shows_where_each_went() {
    let place = Place::new();
    let Some((browser, demo)) = start(&place).await else { return };
    browser.client.goto(&demo.url).await.unwrap();
    browser.until_says("#faults", "read_replica_2").await;
    browser.type_into("#add input", "bread").await;
    browser.click("#add button").await;
    browser.until_says("#log", "POST /notes: 201, main write").await;
    let value = "return document.querySelector('#notes input')?.value ?? ''";
    flautino_lab::wait_until("the note is there", async || browser.run(value).await == "bread")
        .await;
    // The read at once, and the one a second later.
    browser.until_says("#log", "floor_met").await;
    browser.type_into("#notes input", " and butter").await;
    browser.click("#notes button").await;
    browser.until_says("#log", "PUT /notes/1: 200").await;
    browser.click("#load").await;
    browser.until_says("#figures", "(0 failed, 0 missed an own write)").await;
    assert_fits(&browser, "front").await;

    browser.click("[data-node=read_replica_1] [data-action=kill]").await;
    browser.until_says("#said", "Kill: read_replica_1, done").await;
    browser.click("[data-node=read_replica_2] [data-action=promote]").await;
    browser.until_says("#said", "Promote: read_replica_2, done").await;
    // All that was read until then, and a hundred more.
    let load = async || {
        let state = reqwest::get(format!("{}/demo", demo.url)).await.unwrap();
        state.json::<Value>().await.unwrap()["load"].clone()
    };
    let before = load().await["reads"].as_u64().unwrap();
    flautino_lab::wait_until("a hundred reads more", async || {
        load().await["reads"].as_u64().unwrap() > before + 100
    })
    .await;
    let load = load().await;
    assert_eq!((&load["failed_reads"], &load["stale_reads"]), (&json!(0), &json!(0)), "{load}");
    browser.click("[data-node=read_replica_2] [data-action=promote]").await;
    browser.until_says("#said", "it is a primary already").await;
    browser.click("#notes button[type=button]").await;
    browser.until_says("#log", "DELETE /notes/1: 204").await;
    // The refusal above is one.
    let console = browser.console().await;
    assert!(console.iter().all(|line| line.contains("409")), "{console:?}");
}

async fn post(demo: &Demo, path: &str) {
    let answer = demo.client.post(format!("{}{path}", demo.url)).send().await.unwrap();
    let status = answer.status();
    assert!(status.is_success(), "{path}: {status} {:?}", answer.text().await);
}
