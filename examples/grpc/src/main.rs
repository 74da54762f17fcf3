//! Calls a gRPC service whose reads go to a replica, and sees what it wrote.
//!
//! Run with `cargo run -p grpc`. It starts a throwaway cluster with one replica, and is its own client. A client
//! sends the metadata `flautino-token` back that it was given last, as another service would.

use std::{error::Error, time::Duration};

use flautino::{Engine, EngineConfig, NodeConfig};
use flautino_cluster::Cluster;
use grpc::{NotesClient, app};
use tokio::{net::TcpListener, sync::oneshot};
use tonic::{Request, metadata::AsciiMetadataValue, transport::Channel};

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let cluster = Cluster::builder().replicas(1).start().await?;
    let (primary, replica) = (cluster.primary(), cluster.replica(0));
    primary.execute("CREATE TABLE notes (id bigserial PRIMARY KEY, title text UNIQUE)").await?;
    replica.catch_up_with(primary).await?;
    let mut config = EngineConfig::from_url(&primary.url())?;
    let node = NodeConfig { url: Some(replica.url()), ..NodeConfig::default() };
    config.extra_nodes.insert("read_replica_1".into(), node);
    let engine = Engine::new(config)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let (stop, stopped) = oneshot::channel::<()>();
    let serve = flautino_axum::serve(listener, app(&engine), engine.clone());
    let served = tokio::spawn(serve.with_shutdown(async { drop(stopped.await) }).into_future());

    let mut client = NotesClient::connect(url).await?;
    replica.pause_replay().await?;
    let added = client.add("flute".to_owned()).await?;
    let token = added.metadata().get("flautino-token").ok_or("no token")?;
    let id = added.get_ref().id;
    println!("the replica is paused: {}", get(&mut client, id, token).await?);
    replica.resume_replay().await?;
    let mut note = get(&mut client, id, token).await?;
    while note.contains("main") {
        tokio::time::sleep(Duration::from_millis(50)).await; // until the engine has seen it
        note = get(&mut client, id, token).await?;
    }
    println!("it has caught up: {note}");
    drop((client, stop));
    served.await??;
    cluster.stop().await;
    Ok(())
}

/// Reads a note by the token of what the client wrote; says which node served it.
async fn get(
    client: &mut NotesClient<Channel>,
    id: i64,
    token: &AsciiMetadataValue,
) -> Result<String, Failure> {
    let mut request = Request::new(id);
    request.metadata_mut().insert("flautino-token", token.clone());
    let note = client.get(request).await?;
    let by = note.metadata().get("server-timing").ok_or("no timing")?.to_str()?;
    Ok(format!("{:?}, {by}", note.get_ref().title))
}
