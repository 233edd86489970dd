//! One publisher's session: tags in, marked packets out.

use std::fmt;

use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};

use crate::{
    id::StreamId,
    line::{Begin, Feed, Fenced},
    media::{
        AudioConfig, VideoConfig,
        timeline::{Config, Input, Output, Timeline},
    },
    rtmp::{Reason, flv::Tag, server},
};

/// Why a session ended.
#[derive(Debug)]
pub enum Ended {
    /// The encoder stopped or its connection was lost.
    Gone,
    /// A newer session took over, the key was changed, or the node stops.
    Fenced,
    /// Its media cannot be used; the text tells the streamer why.
    Refused(String),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Gone => f.write_str("the encoder is gone"),
            Ended::Fenced => {
                f.write_str("a newer session took over, the stream's key was changed, or the server is stopping")
            }
            Ended::Refused(why) => f.write_str(why),
        }
    }
}

/// Runs until the publisher is gone, is fenced, or sends what cannot be used.
pub async fn run(
    stream: &StreamId,
    feed: &Feed,
    chunk_ms: u32,
    mut tags: mpsc::Receiver<Tag>,
    connection: oneshot::Receiver<server::Ended>,
) -> Ended {
    let mut session = Session {
        stream,
        feed,
        // Whether to encode is known when the line has seen the video's size.
        timeline: Timeline::new(Config { chunk_ms, encode: true }),
        video: None,
        audio: None,
    };
    let ended = loop {
        let Some(tag) = tags.recv().await else {
            break match connection.await {
                Ok(server::Ended::Lost(Reason::Media(why))) => Ended::Refused(why.to_string()),
                _ => Ended::Gone,
            };
        };
        if let Err(ended) = session.tag(tag).await {
            break ended;
        }
    };
    if matches!(ended, Ended::Gone) {
        // The open chunk is ended where its media ends. What was refused before it began must not begin by its end.
        let _ = session.timeline.handle(Input::End);
    }
    if !matches!(ended, Ended::Fenced)
        && let Err(why) = session.forward().await
    {
        debug!(%stream, %why, "the line was gone before the session's end");
    }
    ended
}

struct Session<'a> {
    stream: &'a StreamId,
    feed: &'a Feed,
    timeline: Timeline,
    video: Option<VideoConfig>,
    audio: Option<AudioConfig>,
}

impl Session<'_> {
    async fn tag(&mut self, tag: Tag) -> Result<(), Ended> {
        let input = match tag {
            Tag::VideoConfig(avcc) => {
                let config = VideoConfig::parse(avcc).map_err(|why| Ended::Refused(why.to_string()))?;
                self.video = Some(config.clone());
                Input::VideoConfig(config)
            }
            Tag::AudioConfig(asc) => {
                let config = AudioConfig::parse(asc).map_err(|why| Ended::Refused(why.to_string()))?;
                self.audio = Some(config.clone());
                Input::AudioConfig(config)
            }
            Tag::Video { time_ms, composition_ms, payload } => Input::Video { time_ms, composition_ms, payload },
            Tag::Audio { time_ms, payload } => Input::Audio { time_ms, payload },
            Tag::Metadata(metadata) => {
                debug!(stream = %self.stream, ?metadata, "encoder's metadata");
                return Ok(());
            }
            Tag::VideoEnd => return Ok(()),
        };
        self.timeline.handle(input).map_err(|why| Ended::Refused(why.to_string()))?;
        self.forward().await
    }

    /// Sends what the timeline has to say.
    async fn forward(&mut self) -> Result<(), Ended> {
        while let Some(output) = self.timeline.poll() {
            match output {
                Output::Message(message) => self.feed.send(message).await?,
                Output::NeedEpoch { reason, next } => {
                    let begin = Begin { reason, next, video: self.video.clone(), audio: self.audio.clone() };
                    let begun = self.feed.begin(begin).await?;
                    self.timeline.set_encode(begun.encode);
                    self.timeline.begin(begun.epoch);
                }
                Output::Warning(warning) => {
                    warn!(stream = %self.stream, code = warning.code(), "{warning}");
                    self.feed.warn(warning).await?;
                }
            }
        }
        Ok(())
    }
}

impl From<Fenced> for Ended {
    fn from(_: Fenced) -> Self {
        Ended::Fenced
    }
}
