//! The classifier finds the calls in a text that the server finds there, with both settings of
//! `standard_conforming_strings`. Needs PostgreSQL's server binaries: it starts a cluster.
#![no_main]

use std::sync::{LazyLock, Mutex};

use flautino::Engine;
use flautino_lab::Lab;
use flautino_lab::lexical::{FUNCTION, calls, complain, text};
use libfuzzer_sys::fuzz_target;
use sqlx::{Connection, Executor, PgConnection};
use tokio::runtime::Runtime;

struct World {
    runtime: Runtime,
    engine: Engine,
    /// With the setting on, and off.
    sessions: [PgConnection; 2],
    /// Keeps the cluster.
    _lab: Lab,
}

static WORLD: LazyLock<Mutex<World>> = LazyLock::new(|| {
    let runtime = Runtime::new().expect("a runtime");
    let (lab, sessions) = runtime.block_on(async {
        let lab = Lab::named("fuzz").replicas(1).sql(FUNCTION).start().await;
        let url = lab.cluster.primary().url();
        let mut sessions = Vec::new();
        for set in ["SET standard_conforming_strings = on", "SET standard_conforming_strings = off"]
        {
            let mut session = PgConnection::connect(&url).await.expect("a session");
            session.execute(set).await.expect("a setting");
            sessions.push(session);
        }
        (lab, sessions)
    });
    let sessions = sessions.try_into().expect("two sessions");
    Mutex::new(World { runtime, engine: lab.engine.clone(), sessions, _lab: lab })
});

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.iter();
    let sql = text(|below| usize::from(bytes.next().copied().unwrap_or_default()) % below);
    let mut world = WORLD.lock().expect("no input before this one failed");
    let World { runtime, engine, sessions, .. } = &mut *world;
    for session in sessions {
        if let Some(is_called) = runtime.block_on(calls(session, &sql)) {
            assert_eq!(complain(engine, &sql, is_called), None);
        }
    }
});
