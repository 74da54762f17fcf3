//! Keys are changed while the app runs: at one instance after the other, and nobody's write is lost
//! from sight.

use flautino_lab::{App, settings};

use crate::browser::{Browser, get, headers};
use crate::common::{app, engine, prepared, replicas};

const OLD: &str = "the old key of the app";
const NEW: &str = "the new key of the app";

#[tokio::test]
async fn keys_are_changed_step_by_step_and_every_write_is_seen() {
    let cluster = prepared().await;
    let mut apps = Vec::new();
    for keys in [&[OLD][..], &[NEW, OLD], &[NEW]] {
        let engine = engine(&cluster, |config| {
            settings::frozen(config);
            config.routing.token_keys = keys.iter().map(|key| (*key).to_owned()).collect();
        })
        .await;
        apps.push(App::start(app(&engine), engine).await);
    }
    for replica in replicas(&cluster) {
        replica.pause_replay().await.unwrap();
    }
    let mut with_cookies = Browser::default();
    let mut token = None;
    let mut first_token = None;
    let mut value = 0;
    // Which keys the two instances have at each step, by their number above.
    for (one, other) in [(0, 0), (1, 0), (1, 1), (2, 1), (2, 2)] {
        for (writer, reader) in [(one, other), (other, one)] {
            let url = |instance: usize, path: &str| format!("{}/{path}", apps[instance].url);
            if value > 0 {
                // What was written in the step before.
                for instance in [writer, reader] {
                    with_cookies.get(&url(instance, "value/a")).await.assert_value(value);
                    let sent = headers(&[("flautino-token", token.as_deref().unwrap())]);
                    let answer = get(&with_cookies.client, &url(instance, "value/a"), sent).await;
                    answer.assert_value(value);
                }
            }
            value += 1;
            let written = with_cookies.get(&url(writer, &format!("set/a/{value}"))).await;
            token = written.token();
            first_token = first_token.or_else(|| token.clone());
            for instance in [reader, writer, reader] {
                let answer = with_cookies.get(&url(instance, "value/a")).await;
                answer.assert_value(value);
                assert_eq!(answer.served().0, "main");
            }
            // Replicas are in use all the time, and have nothing of this.
            let stranger = Browser::default().get(&url(reader, "value/a")).await;
            stranger.assert_value(0);
        }
    }
    // One who was away meanwhile.
    let sent = headers(&[("flautino-token", &first_token.unwrap())]);
    let answer = get(&with_cookies.client, &format!("{}/value/a", apps[2].url), sent).await;
    answer.assert_value(value);
    assert_eq!(answer.served(), ("main".into(), "foreign_token".into()));
    for app in apps {
        app.stop().await;
    }
}
