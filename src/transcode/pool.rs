//! What the lines of a node share of encoding: the family that works here, and the budget of cores.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;

use super::{
    Config, Event, Granted, Rung, Transcoder,
    budget::{Budget, Load},
    description::{self, Source},
    probe,
    supervisor::Settings,
};
use crate::media::{VideoConfig, ring::Ring};

/// Frame rate that counts when the encoder does not tell one.
const FPS: (u32, u32) = (30, 1);

/// Says why nothing can be encoded on this node.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Probe(#[from] probe::Error),
    #[error(transparent)]
    Description(#[from] description::Error),
    #[error("the path of this program is not known: {0}")]
    Program(std::io::Error),
}

/// Makes transcoders, as many as the node can carry.
#[derive(Clone)]
pub struct Pool {
    settings: Settings,
}

impl Pool {
    /// Finds out what encodes here. `chunk` is the chunks' nominal length.
    pub async fn start(config: &Config, chunk: Duration) -> Result<Self, Error> {
        let exe = std::env::current_exe().map_err(Error::Program)?;
        let family = probe::pick_family(&exe, config.family).await?;
        let description = Arc::from(description::load(family, config.pipelines.as_deref())?);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let budget = Budget::new(cores, config.cpu_share);
        Ok(Self { settings: Settings { exe, description, nice: config.nice, chunk, budget } })
    }

    /// Reserves what it takes to encode `wanted` from `video`, or as much of it as fits.
    pub fn admit(&self, wanted: &[Rung], video: &VideoConfig) -> Granted {
        let source = source(video);
        let fps = f64::from(source.fps.0) / f64::from(source.fps.1.max(1));
        self.settings.budget.admit(wanted, Load { width: source.width, height: source.height, fps })
    }

    /// Starts encoding what was granted, from `start_k` of the ring's feed on, the first chunk of `epoch`.
    ///
    /// # Errors
    /// The description does not fill in.
    pub fn spawn(
        &self,
        granted: Granted,
        video: &VideoConfig,
        ring: Arc<Ring>,
        epoch: u64,
        start_k: u64,
    ) -> Result<(Transcoder, mpsc::Receiver<Event>), description::Error> {
        Transcoder::spawn(self.settings.clone(), granted, source(video), ring, epoch, start_k)
    }
}

fn source(video: &VideoConfig) -> Source {
    let fps = video.fps.filter(|(n, d)| *n > 0 && *d > 0).unwrap_or(FPS);
    Source { width: video.width.into(), height: video.height.into(), fps }
}
