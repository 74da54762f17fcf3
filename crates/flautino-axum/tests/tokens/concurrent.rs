//! Two responses under way at once reach the client in either order.

use flautino_lab::settings;

use crate::browser::Browser;
use crate::common::Pair;

#[tokio::test]
async fn of_two_writes_under_way_at_once_the_next_request_sees_both() {
    let pair = Pair::start(settings::frozen).await;
    pair.pause().await;
    for round in 1..=60_i64 {
        let instance = usize::try_from(round).unwrap();
        let mut browser = Browser::default();
        if round % 3 == 0 {
            browser.get(&pair.url(0, "set/c/1")).await;
        }
        let before = browser.clone();
        // Both are sent with the cookies of before, and the second one is later at the server.
        let one = before.send(&pair.url(instance, &format!("set/a/{round}"))).await;
        let other = before.send(&pair.url(instance / 2, &format!("set/b/{round}"))).await;
        let [first, second] = if round % 2 == 0 { [&one, &other] } else { [&other, &one] };
        browser.take(first);
        browser.take(second);
        for instance in 0..2 {
            for key in ["a", "b"] {
                let answer = browser.get(&pair.url(instance, &format!("value/{key}"))).await;
                answer.assert_value(round);
                assert_eq!(answer.served().0, "main");
            }
        }
    }
    pair.stop().await;
}

/// Without the copies the furthest token would be lost here, which shows that they are needed.
#[tokio::test]
async fn the_copies_carry_the_token_that_the_cookie_lost() {
    let pair = Pair::start(settings::frozen).await;
    let before = Browser::default();
    let one = before.send(&pair.url(0, "set/a/1")).await;
    let other = before.send(&pair.url(1, "set/b/1")).await;
    let mut browser = before;
    browser.take(&other);
    browser.take(&one);
    let value = |wanted: &str| {
        let found = browser.cookies.iter().find(|(name, _)| name == wanted);
        found.map(|(_, value)| value.clone()).unwrap()
    };
    assert_eq!(value("flautino_token"), one.token().unwrap());
    let copies: Vec<_> = browser
        .cookies
        .iter()
        .filter(|(name, _)| name.starts_with("flautino_token_"))
        .map(|(_, value)| value.clone())
        .collect();
    assert_eq!(copies, [other.token().unwrap(), one.token().unwrap()]);
    pair.stop().await;
}

/// A write that knows of another's token, and one that does not, in both orders.
#[tokio::test]
async fn a_write_removes_only_copies_that_its_own_token_covers() {
    let pair = Pair::start(settings::frozen).await;
    pair.pause().await;
    for knows_last in [false, true] {
        let mut browser = Browser::default();
        browser.get(&pair.url(0, "set/a/1")).await;
        let before = browser.clone();
        // Knows nothing of what follows.
        let late = before.send(&pair.url(0, "set/b/2")).await;
        let mut knowing = browser.clone();
        knowing.get(&pair.url(1, "set/c/3")).await;
        let removing = knowing.send(&pair.url(0, "set/d/4")).await;
        browser.cookies = knowing.cookies;
        let order = if knows_last { [&late, &removing] } else { [&removing, &late] };
        for answer in order {
            browser.take(answer);
        }
        for (key, value) in [("a", 1), ("b", 2), ("c", 3), ("d", 4)] {
            let answer = browser.get(&pair.url(1, &format!("value/{key}"))).await;
            answer.assert_value(value);
        }
    }
    pair.stop().await;
}
