//! How a session keeps track of its writes, without a server.

use super::*;

#[test]
fn writes_that_end_together_do_not_move_the_latest_end_back() {
    let session = Arc::new(Session::new(Duration::ZERO));
    let write = session.write_begins();
    let mut state = session.state.lock();
    let ending = std::thread::spawn(move || write.end());
    // Let the other thread reach the lock.
    std::thread::sleep(Duration::from_millis(100));
    let latest = Instant::now();
    state.uncovered_write = Some(latest);
    drop(state);
    ending.join().unwrap();
    assert!(session.state.lock().uncovered_write.unwrap() >= latest);
}
