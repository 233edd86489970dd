//! Opens the stores that the configuration names.

use std::{path::Path, sync::Arc};

use anyhow::{Context, Result};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, stores::Kind},
    line::Stores,
    store::{
        blobs::Folder,
        embedded::Embedded,
        health::Health,
        objects::Objects,
        remote::{Remote, RemoteBlobs, RemoteMeta},
        scylla::Scylla,
    },
};

/// Stores that are open.
pub struct Opened {
    pub stores: Stores,
    /// Where rows lie in `data.dir`.
    embedded: Option<Arc<Embedded>>,
    /// Where anything lies elsewhere.
    remote: Option<Arc<Remote>>,
}

impl Opened {
    /// Opens what a node of this configuration keeps its things in.
    pub async fn open(config: &Config) -> Result<Self> {
        let dir = &config.data.dir;
        let health = Arc::new(Health::default());
        let embedded = match config.store.kind {
            Kind::Embedded => Some(Arc::new(Embedded::open(&dir.join("meta")).with_context(|| in_dir(dir))?)),
            Kind::Scylla => None,
        };
        let meta: Arc<dyn crate::store::Meta> = match &embedded {
            Some(embedded) => embedded.clone(),
            None => {
                let settings =
                    config.store.scylla(config.chat.keep, config.audience.keep).map_err(anyhow::Error::msg)?;
                let what = || format!("cannot use the database at {}", config.store.nodes.join(", "));
                Arc::new(Scylla::open(settings).await.with_context(what)?)
            }
        };
        let objects = config.blobs.objects();
        let blobs: Arc<dyn crate::store::Blobs> = match &objects {
            Some(settings) => {
                let what = || "cannot use the bucket of blobs.url".to_owned();
                Arc::new(Objects::open(settings).await.with_context(what)?)
            }
            None => Arc::new(Folder::open(&dir.join("blobs")).with_context(|| in_dir(dir))?),
        };
        if embedded.is_some() && objects.is_none() {
            return Ok(Self { stores: Stores { meta, blobs, health }, embedded, remote: None });
        }
        let bytes_max = u64::from(config.spool.disk_mb) << 20;
        let remote = Remote::open(meta, blobs, health.clone(), &dir.join("spool"), bytes_max).await;
        let remote = remote.with_context(|| format!("cannot open the spool in data.dir {}", dir.display()))?;
        let (meta, blobs) = (Arc::new(RemoteMeta(remote.clone())), Arc::new(RemoteBlobs(remote.clone())));
        Ok(Self { stores: Stores { meta, blobs, health }, embedded, remote: Some(remote) })
    }

    /// Writes out what waits in the spool, until `stop`.
    pub async fn run(remote: Option<Arc<Remote>>, stop: CancellationToken) {
        if let Some(remote) = remote {
            remote.run(stop).await;
        }
    }

    pub fn remote(&self) -> Option<Arc<Remote>> {
        self.remote.clone()
    }

    /// Waits until what was written is as safe as it gets.
    pub async fn flush(&self) -> crate::store::Result<()> {
        match &self.embedded {
            Some(embedded) => embedded.flush().await,
            None => Ok(()),
        }
    }
}

fn in_dir(dir: &Path) -> String {
    format!("cannot open the store in data.dir {}", dir.display())
}
