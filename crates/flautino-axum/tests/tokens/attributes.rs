//! The cookie's attributes.

use std::time::Duration;

use flautino_lab::settings;

use crate::browser::{Answer, get, headers};
use crate::common::Pair;

/// The name of the cookie, and of the copies.
#[track_caller]
fn assert_cookies(answer: &Answer, secure: bool, max_age: u64) {
    let token = answer.token().unwrap();
    let cookies = answer.set_cookies();
    let names: Vec<_> = cookies.iter().map(|cookie| &*cookie.name).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(names[0], "flautino_token");
    assert!(names[1].starts_with("flautino_token_"), "{names:?}");
    // A copy matters only while another response may be under way.
    for (cookie, age) in cookies.iter().zip([max_age, max_age.min(15)]) {
        let age = format!("max-age={age}");
        let mut expected = vec!["httponly", &age, "path=/", "samesite=lax"];
        if secure {
            expected.push("secure");
        }
        assert_eq!(cookie.value, token);
        assert_eq!(cookie.attributes, expected, "{}", cookie.name);
    }
}

#[tokio::test]
async fn a_cookie_is_for_the_whole_site_and_for_no_script() {
    let pair = Pair::start(settings::lively).await;
    let answer = get(&reqwest::Client::new(), &pair.url(0, "set/a/1"), headers(&[])).await;
    assert_cookies(&answer, false, 600);
    pair.stop().await;
}

#[tokio::test]
async fn it_lives_as_long_as_the_settings_say() {
    let pair = Pair::start(|config| {
        settings::lively(config);
        config.routing.token_max_age = Duration::from_secs(77);
    })
    .await;
    let answer = get(&reqwest::Client::new(), &pair.url(1, "set/a/1"), headers(&[])).await;
    assert_cookies(&answer, false, 77);
    pair.stop().await;
}

#[tokio::test]
async fn it_is_secure_exactly_when_the_request_came_by_https() {
    let pair = Pair::start(settings::lively).await;
    let client = reqwest::Client::new();
    for (name, value, secure) in [
        ("x-forwarded-proto", "https", true),
        ("x-forwarded-proto", "HTTPS", true),
        ("x-forwarded-proto", "http", false),
        ("x-forwarded-proto", "", false),
        ("x-forwarded-host", "https", false),
        ("referer", "https://example.org/", false),
        ("forwarded", "for=192.0.2.1;proto=https", true),
        ("forwarded", "for=192.0.2.1;Proto=\"https\";host=a", true),
        ("forwarded", "for=192.0.2.1;proto=http", false),
    ] {
        let url = pair.url(0, "set/a/1");
        let answer = get(&client, &url, headers(&[(name, value)])).await;
        println!("{name}: {value}");
        assert_cookies(&answer, secure, 600);
    }
    pair.stop().await;
}

/// A browser refuses a `Secure` cookie that comes over plain HTTP, and the client would lose its
/// token. Of several proxies the first one spoke with the client.
#[tokio::test]
async fn of_several_proxies_the_one_next_to_the_client_tells() {
    let pair = Pair::start(settings::lively).await;
    let client = reqwest::Client::new();
    for (name, value, secure) in [
        ("x-forwarded-proto", "https, http", true),
        ("x-forwarded-proto", "http, https", false),
        ("forwarded", "for=192.0.2.1;proto=https, for=10.0.0.1;proto=http", true),
        ("forwarded", "for=192.0.2.1;proto=http, for=10.0.0.1;proto=https", false),
    ] {
        let url = pair.url(0, "set/a/1");
        let answer = get(&client, &url, headers(&[(name, value)])).await;
        println!("{name}: {value}");
        assert_cookies(&answer, secure, 600);
    }
    pair.stop().await;
}
