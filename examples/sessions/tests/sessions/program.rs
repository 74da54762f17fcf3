//! The program: starts, is asked, and stops in order.

use flautino_lab::Served;
use reqwest::Client;

#[tokio::test]
async fn the_example_greets_who_has_logged_in_and_stops_in_order() {
    let program = Served::start(env!("CARGO_BIN_EXE_sessions"));
    let client = Client::builder().cookie_store(true).build().unwrap();
    let greeting = async || client.get(&program.url).send().await.unwrap().text().await.unwrap();
    assert!(greeting().await.starts_with("hello stranger, "));
    let login = client.post(format!("{}/login/ada", program.url)).send().await.unwrap();
    assert_eq!(login.status(), 200);
    assert!(greeting().await.starts_with("hello ada, "));
    assert!(program.stop().success());
}
