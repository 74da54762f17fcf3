//! Two apps under one host name, whose browsers send each the other's cookies.

use axum::http::HeaderName;
use flautino::Engine;
use flautino_axum::EngineLayer;
use flautino_lab::{App, Lab, wait_until};

use crate::browser::Browser;
use crate::common::routes;

async fn lab(name: &str) -> Lab {
    let lab = Lab::named(name).replicas(1).table("entries (key text PRIMARY KEY, value bigint)");
    let lab = lab.patient_probes().start().await;
    lab.until_served_by(&["read_replica_1"]).await;
    lab
}

fn layer(engine: &Engine) -> EngineLayer {
    EngineLayer::new(engine.clone()).server_timing(true)
}

#[tokio::test]
async fn with_names_of_their_own_each_keeps_its_tokens_and_reads_from_its_replica() {
    let (notes, shop) = (lab("notes").await, lab("shop").await);
    let name = HeaderName::from_static("shop-token");
    let layers = [layer(&notes.engine), layer(&shop.engine).token_name(name)];
    let [notes_layer, shop_layer] = layers;
    let apps = [
        App::start(routes().layer(notes_layer), notes.engine.clone()).await,
        App::start(routes().layer(shop_layer), shop.engine.clone()).await,
    ];
    let mut browser = Browser::default();
    for n in 1..=5 {
        for (app, prefix) in apps.iter().zip(["flautino_token", "shop_token"]) {
            let answer = browser.get(&format!("{}/set/a/{n}", app.url)).await;
            let header = prefix.replace('_', "-");
            assert!(answer.headers.contains_key(&header), "{answer:?}");
            let cookies = answer.set_cookies();
            assert!(cookies.iter().all(|cookie| cookie.name.starts_with(prefix)), "{cookies:?}");
        }
        for app in &apps {
            wait_until("its replica has the write", async || {
                let answer = browser.get(&format!("{}/value/a", app.url)).await;
                answer.assert_value(n);
                assert_eq!(answer.set_cookies().len(), 0, "a read needs no token: {answer:?}");
                answer.by_replica()
            })
            .await;
        }
    }
    for app in apps {
        app.stop().await;
    }
}

#[tokio::test]
async fn a_path_of_its_own_is_that_of_its_cookies_and_a_bad_one_is_refused() {
    let lab = lab("shop").await;
    let below = layer(&lab.engine).token_path("/shop").unwrap();
    let app = axum::Router::new().nest("/shop", routes()).layer(below);
    let app = App::start(app, lab.engine.clone()).await;
    let answer = Browser::default().get(&format!("{}/shop/set/a/1", app.url)).await;
    let cookies = answer.set_cookies();
    assert_eq!(cookies.len(), 2, "{answer:?}");
    for cookie in cookies {
        assert!(cookie.attributes.contains(&"path=/shop".to_owned()), "{cookie:?}");
    }
    for bad in ["", "shop", "/a; domain=elsewhere", "/a b", "/ä", "/a\r\nset-cookie: x=y"] {
        let error = layer(&lab.engine).token_path(bad).map(drop).unwrap_err();
        assert!(error.to_string().contains("token_path"), "{error}");
    }
    app.stop().await;
}
