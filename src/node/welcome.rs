//! What a node says when it is up: where to publish and where to watch. The first start makes a stream to try.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};

use crate::{
    auth,
    config::{Config, Publish},
    id::StreamId,
    store::{Error, Meta, StreamRow},
    time::unix_now,
};

/// The stream that the first start makes.
const DEMO: &str = "demo";

/// Prints the addresses; makes [`DEMO`] when there is no stream yet.
pub async fn welcome(meta: &Arc<dyn Meta>, config: &Config, rtmp: Option<SocketAddr>, http: SocketAddr) -> Result<()> {
    let first = meta.streams(None, 1).await.context("cannot read the streams")?.pop();
    let site = format!("http://{}", reachable(http));
    println!("\nWeir {} is up.\n", env!("CARGO_PKG_VERSION"));
    let Some(rtmp) = rtmp else {
        println!("  It takes no publishers (node.roles has no \"gateway\").\n\n  Watch         {site}/\n");
        return Ok(());
    };
    let server = format!("rtmp://{}/live", reachable(rtmp));
    println!("  OBS: Settings > Stream > Service: Custom...");
    println!("    Server      {server}");
    if config.auth.publish_url.is_some() {
        println!("    Stream Key  whatever your backend lets in (auth.publish_url)");
        println!("\n  Watch         {site}/watch/<name>\n");
        return Ok(());
    }
    if config.auth.publish == Publish::Open {
        println!("    Stream Key  any name, such as  {DEMO}");
        println!("\n  Watch         {site}/watch/<name>\n");
        println!("  WARNING: auth.publish = \"open\": whoever reaches this address can publish under any name.\n");
        tracing::warn!("auth.publish is \"open\": whoever reaches rtmp.listen can publish under any name");
        return Ok(());
    }
    match first {
        None => {
            let id = StreamId::new(DEMO).expect("a legal name");
            let secret = auth::Secret::generate();
            let key_hash = auth::keys::hash(&secret);
            let row = StreamRow { id, key_hash, created: unix_now(), settings: serde_json::Value::Null };
            match meta.create_stream(row).await {
                // Another node that started in this moment made it, and printed the key.
                Err(Error::Exists) => {
                    println!("    Stream Key  as another node printed it.\n\n  Watch         {site}/watch/{DEMO}\n");
                    return Ok(());
                }
                made => made.context("cannot make the first stream")?,
            }
            println!("    Stream Key  {DEMO}?key={}", secret.expose());
            println!("\n  Watch         {site}/watch/{DEMO}\n");
            println!("  The key is shown once. `weir stream rotate-key {DEMO}` makes a new one.\n");
        }
        Some(stream) => {
            println!("    Stream Key  as printed when the stream was made; only its hash is kept.");
            println!(
                "                `weir stream list` names the streams, `weir stream rotate-key {}` makes and prints a new key.",
                stream.id
            );
            println!("\n  Watch         {site}/watch/{}\n", stream.id);
        }
    }
    Ok(())
}

/// An address a person on this machine can use.
fn reachable(address: SocketAddr) -> String {
    if address.ip().is_unspecified() { format!("localhost:{}", address.port()) } else { address.to_string() }
}
