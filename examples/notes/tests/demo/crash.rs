//! What a demo that was killed leaves behind is gone at the next start (trap 56).

use flautino_lab::wait_until;
use nix::sys::signal::Signal;

use crate::child::{Demo, Place};
use crate::processes::alive;

#[tokio::test]
async fn the_next_start_sweeps_up_after_sigkill_and_spares_a_demo_that_lives() {
    let place = Place::new();
    let mut killed = Demo::start(&mut place.command()).await;
    let orphans = killed.family();
    let mut living = Demo::start(&mut place.command()).await;
    let folders = place.left();
    assert_eq!(folders.len(), 2);
    killed.send(Signal::SIGKILL);
    killed.ended().await;
    assert_eq!(place.left().len(), 2);
    assert!(!alive(&orphans).is_empty(), "a server survives its owner");

    let mut next = Demo::start(&mut place.command()).await;
    wait_until("the orphans have ended", async || alive(&orphans).is_empty()).await;
    assert_eq!(place.left().len(), 2);
    for demo in [&living, &next] {
        let notes = reqwest::get(format!("{}/notes", demo.url)).await.unwrap();
        assert_eq!(notes.status(), 200);
    }
    for demo in [&mut living, &mut next] {
        demo.send(Signal::SIGTERM);
        assert!(demo.ended().await.success());
    }
    place.assert_clean();
}
