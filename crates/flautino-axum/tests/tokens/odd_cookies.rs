//! What else a browser sends as `Cookie`, beside the token.

use axum::http::HeaderMap;
use flautino_lab::settings;

use crate::browser::{Browser, get, headers};
use crate::common::Pair;

/// The answer's value at the other instance, with replicas that lack the write.
async fn read_with(pair: &Pair, sent: HeaderMap) -> (u16, String) {
    let answer = get(&reqwest::Client::new(), &pair.url(1, "value/a"), sent).await;
    (answer.status, answer.body)
}

#[tokio::test]
async fn cookies_of_others_leave_the_token_alone() {
    let pair = Pair::start(settings::frozen).await;
    pair.pause().await;
    let token = Browser::default().get(&pair.url(0, "set/a/1")).await.token().unwrap();
    for cookies in [
        format!("theme=dark; flautino_token={token}"),
        format!("flautino_token={token}; theme=dark"),
        format!("flautino_token={token};theme=dark"),
        format!("a; b=; =c; ; flautino_token={token}"),
        format!("q=\"a b\"; flautino_token={token}"),
        format!("flautino_tokens=x; xflautino_token=y; flautino_token={token}"),
        format!("flautino_token-x=z; flautino_token={token}"),
        format!("json={{\"a\":1}}; flautino_token={token}"),
        // A browser with cookies of two paths sends both.
        format!("flautino_token={token}; flautino_token={token}"),
        format!("flautino_token={token}; flautino_token=garbage"),
        format!("flautino_token=garbage; flautino_token={token}"),
    ] {
        let answer = read_with(&pair, headers(&[("cookie", &cookies)])).await;
        assert_eq!(answer, (200, "1".to_owned()), "{cookies}");
    }
    pair.stop().await;
}

/// `document.cookie = "name=Zoë"` sends those bytes, with every request to the site.
#[tokio::test]
async fn a_cookie_beside_it_that_is_not_ascii_leaves_the_token_alone() {
    let pair = Pair::start(settings::frozen).await;
    pair.pause().await;
    let token = Browser::default().get(&pair.url(0, "set/a/1")).await.token().unwrap();
    for cookies in [
        format!("name=Zoë; flautino_token={token}"),
        format!("flautino_token={token}; name=Zoë"),
        format!("name=\u{1F3B6}; flautino_token_1={token}"),
    ] {
        let answer = read_with(&pair, headers(&[("cookie", &cookies)])).await;
        assert_eq!(answer, (200, "1".to_owned()), "{cookies}");
    }
    pair.stop().await;
}

#[tokio::test]
async fn a_token_that_is_not_ascii_is_a_bad_token() {
    let pair = Pair::start(settings::frozen).await;
    pair.pause().await;
    Browser::default().get(&pair.url(0, "set/a/1")).await;
    for text in ["ä.ö.ü", "1.2.3.ß"] {
        for sent in [
            headers(&[("flautino-token", text)]),
            headers(&[("cookie", &format!("flautino_token={text}"))]),
            headers(&[("cookie", &format!("theme=dark; flautino_token_1={text}"))]),
        ] {
            let shown = format!("{sent:?}");
            assert_eq!(read_with(&pair, sent).await, (200, "1".to_owned()), "{shown}");
        }
    }
    pair.stop().await;
}

#[tokio::test]
async fn several_cookie_headers_and_several_token_headers_all_count() {
    let pair = Pair::start(settings::frozen).await;
    pair.pause().await;
    let token = Browser::default().get(&pair.url(0, "set/a/1")).await.token().unwrap();
    let (head, _) = flautino_lab::bare(&token).rsplit_once('.').unwrap();
    let old = flautino_lab::summed(&format!("{head}.1"));
    let cookie = format!("flautino_token={token}");
    for sent in [
        headers(&[("cookie", "theme=dark"), ("cookie", &cookie)]),
        headers(&[("cookie", &cookie), ("cookie", "theme=dark")]),
        headers(&[("flautino-token", &old), ("flautino-token", &token)]),
        headers(&[("flautino-token", &token), ("flautino-token", &old)]),
        headers(&[("flautino-token", &format!("  {token} "))]),
        // Joined by a proxy on the way.
        headers(&[("flautino-token", &format!("{old}, {token}"))]),
        headers(&[("flautino-token", &old), ("cookie", &cookie)]),
    ] {
        let shown = format!("{sent:?}");
        assert_eq!(read_with(&pair, sent).await, (200, "1".to_owned()), "{shown}");
    }
    pair.stop().await;
}
