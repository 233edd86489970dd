//! One publisher's session: tags in, marked packets out.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{debug, info, warn};

use super::{Hears, relay};
use crate::{
    id::StreamId,
    line::{Begin, Begun, Feed, Fenced, Parting},
    media::{
        AudioConfig, Message, VideoConfig,
        timeline::{Config, Input, Output, Timeline, Warning},
    },
    rtmp::{
        Code, Reason, Refusal,
        flv::Tag,
        server::{self, Sink},
    },
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

/// Where a session's packets go.
pub enum Way {
    /// To the line of this process.
    Line(Feed),
    /// To the nodes that make the stream's chunks.
    Relay(relay::Way),
}

impl Way {
    async fn begin(&self, begin: Begin) -> Result<Begun, Fenced> {
        match self {
            Way::Line(feed) => feed.begin(begin).await,
            Way::Relay(way) => way.begin(begin).await,
        }
    }

    async fn send(&self, messages: Vec<Message>) -> Result<(), Fenced> {
        match self {
            Way::Line(feed) => feed.send(messages).await,
            Way::Relay(way) => way.send(messages),
        }
    }

    async fn warn(&self, warning: Warning) -> Result<(), Fenced> {
        match self {
            Way::Line(feed) => feed.warn(warning).await,
            Way::Relay(way) => way.warn(warning).await,
        }
    }

    async fn detach(&self) {
        match self {
            Way::Line(feed) => feed.detach(Parting::Over).await,
            Way::Relay(way) => way.detach().await,
        }
    }
}

/// From the accepted publish to its end.
pub struct Session {
    stream: StreamId,
    feed: Way,
    timeline: Timeline,
    video: Option<VideoConfig>,
    audio: Option<AudioConfig>,
    /// Why the session's media are taken no more.
    over: Option<Ended>,
    hears: Arc<dyn Hears>,
    _running: TaskTrackerToken,
}

#[async_trait]
impl Sink for Session {
    async fn take(&mut self, tags: Vec<Tag>) -> Result<(), Refusal> {
        let taken = self.tags(tags).await;
        taken.map_err(|ended| {
            let words = Refusal::new(Code::Rejected, ended.to_string());
            self.over = Some(ended);
            words
        })
    }

    async fn end(mut self: Box<Self>, ended: server::Ended) {
        let ended = self.over.take().unwrap_or(match ended {
            server::Ended::Lost(Reason::Media(why)) => Ended::Refused(why.to_string()),
            server::Ended::Lost(Reason::Stopped) => Ended::Fenced,
            _ => Ended::Gone,
        });
        if matches!(ended, Ended::Gone) {
            // The open chunk is ended where its media ends. What was refused before it began must not begin by its end.
            let _ = self.timeline.handle(Input::End);
        }
        if !matches!(ended, Ended::Fenced)
            && let Err(why) = self.finish().await
        {
            debug!(stream = %self.stream, %why, "the line was gone before the session's end");
        }
        info!(stream = %self.stream, %ended, "publisher gone");
        self.feed.detach().await;
    }
}

impl Session {
    /// Begins a session of `stream`. `running` is held to its end.
    pub fn new(stream: StreamId, feed: Way, chunk_ms: u32, hears: Arc<dyn Hears>, running: TaskTrackerToken) -> Self {
        // Whether to encode is known when the line has seen the video's size.
        let timeline = Timeline::new(Config { chunk_ms, encode: true });
        Self { stream, feed, timeline, video: None, audio: None, over: None, hears, _running: running }
    }

    async fn tags(&mut self, tags: Vec<Tag>) -> Result<(), Ended> {
        let mut messages = Vec::with_capacity(tags.len());
        let mut taken = Ok(());
        for tag in tags {
            taken = self.tag(tag);
            if taken.is_err() {
                break;
            }
            self.forward(&mut messages).await?;
        }
        // What came before a tag that cannot be used counts.
        self.send(&mut messages).await?;
        taken
    }

    /// Gives a tag to the timeline.
    fn tag(&mut self, tag: Tag) -> Result<(), Ended> {
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
                self.hears.metadata(&self.stream, &metadata);
                return Ok(());
            }
            Tag::VideoEnd => return Ok(()),
        };
        self.timeline.handle(input).map_err(|why| Ended::Refused(why.to_string()))
    }

    async fn finish(&mut self) -> Result<(), Ended> {
        let mut messages = Vec::new();
        self.forward(&mut messages).await?;
        self.send(&mut messages).await
    }

    /// Does what the timeline has to say; messages are collected, and sent before all else.
    async fn forward(&mut self, messages: &mut Vec<Message>) -> Result<(), Ended> {
        while let Some(output) = self.timeline.poll() {
            match output {
                Output::Message(message) => messages.push(message),
                Output::NeedEpoch { reason, next } => {
                    self.send(messages).await?;
                    let begin = Begin { reason, next, video: self.video.clone(), audio: self.audio.clone() };
                    let begun = self.feed.begin(begin).await?;
                    self.timeline.set_encode(begun.encode);
                    self.timeline.begin(begun.epoch);
                }
                Output::Warning(warning) => {
                    self.send(messages).await?;
                    warn!(stream = %self.stream, code = warning.code(), "{warning}");
                    self.feed.warn(warning).await?;
                }
            }
        }
        Ok(())
    }

    async fn send(&self, messages: &mut Vec<Message>) -> Result<(), Ended> {
        if !messages.is_empty() {
            self.feed.send(std::mem::take(messages)).await?;
        }
        Ok(())
    }
}

impl From<Fenced> for Ended {
    fn from(_: Fenced) -> Self {
        Ended::Fenced
    }
}
