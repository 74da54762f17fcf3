//! Texts of quotes, backslashes, comments and dollars in any order, read by the server and by the
//! classifier: both must find the same calls of a function in them. `fuzz/` has the same.

use flautino_lab::lexical::{FUNCTION, calls, complain, text};
use sqlx::{AssertSqlSafe, Connection, Executor};

use super::{none, start};

#[tokio::test]
async fn a_text_of_quotes_and_comments_calls_what_the_server_calls() {
    const TEXTS: usize = 6_000;
    let lab = start("lexical").await;
    let mut primary = lab.cluster.primary().connect().await.unwrap();
    primary.execute(FUNCTION).await.unwrap();
    let seed = std::env::var("SEED").map_or_else(|_| fastrand::u64(..), |it| it.parse().unwrap());
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut called, mut plain, mut wrong) = (0, 0, Vec::new());
    for setting in ["on", "off"] {
        let set = format!("SET standard_conforming_strings = {setting}");
        primary.execute(AssertSqlSafe(set)).await.unwrap();
        for _ in 0..TEXTS {
            let sql = text(|below| random.usize(..below));
            let Some(is_called) = calls(&mut primary, &sql).await else { continue };
            *(if is_called { &mut called } else { &mut plain }) += 1;
            wrong.extend(complain(&lab.engine, &sql, is_called));
        }
    }
    primary.close().await.unwrap();
    lab.engine.close().await;
    none(&format!("read otherwise than by the server (again with SEED={seed})"), &wrong);
    assert!(called > 500 && plain > 500, "{called} called, {plain} plain: too few to tell");
}
