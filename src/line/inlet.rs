//! A node's end of a feed ([`crate::cluster::feed`]): what a gateway sends becomes the work of a line.

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::{Begin, Begun, Feed, Fenced, Lines, Parting, Plan, Standing, StreamSettings};
use crate::{
    cluster::feed::{self, BEAT, CONFIGS, GATEWAY_SILENCE, Item, MEDIA, ROOM, Receiver, SILENCE, Sender, Silence},
    id::StreamId,
    media::{
        AudioConfig, Epoch, Message, VideoConfig,
        timeline::{Break, Warning},
    },
    time::now,
};

/// What a gateway says to a line.
pub type Control = feed::Control<StreamSettings, BeginWord, Plan, Warning>;
/// What a line says to a gateway.
pub type Told = feed::Told<Standing, BegunWord>;

/// [`Begin`] without its configs, which come before it.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct BeginWord {
    pub reason: Break,
    pub next: Option<(u64, i64)>,
}

/// [`Begun`].
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct BegunWord {
    pub epoch: Epoch,
    pub encode: bool,
    pub plan: Plan,
}

impl From<Begun> for BegunWord {
    fn from(Begun { epoch, encode, plan }: Begun) -> Self {
        Self { epoch, encode, plan }
    }
}

impl From<BegunWord> for Begun {
    fn from(BegunWord { epoch, encode, plan }: BegunWord) -> Self {
        Self { epoch, encode, plan }
    }
}

/// Answers of the line that may wait to be sent: there is one for each question.
const ANSWERS: usize = 8;

/// Serves one feed to its end.
pub async fn serve(io: impl AsyncRead + AsyncWrite, lines: Lines, stream: StreamId) {
    let (read, write) = tokio::io::split(io);
    tokio::pin!(read, write);
    let (mut from, mut to) = (Receiver::new(read), Sender::new(write));
    match open(&mut from, &lines, &stream).await {
        Ok((mut inlet, rest)) => {
            let ended = match inlet.take(rest).await {
                Ok(()) => inlet.run(&mut from, &mut to).await,
                Err(why) => why,
            };
            debug!(%stream, ended, "a feed ended");
        }
        Err(Refused::Fenced) => to.say(&Told::Fenced { by: lines.newest(&stream) }),
        Err(Refused::Why(why)) => {
            info!(%stream, why, "a feed is refused");
            to.say(&Told::Refused { why });
        }
    }
    to.close().await;
}

enum Refused {
    Fenced,
    Why(String),
}

struct Inlet {
    lines: Lines,
    feed: Feed,
    standing: tokio::sync::watch::Receiver<Standing>,
    stop: CancellationToken,
    /// The configs of the next epoch.
    configs: (Option<VideoConfig>, Option<AudioConfig>),
    /// The gateway has said that the publisher is gone.
    is_over: bool,
    answers: mpsc::Sender<Told>,
    answered: mpsc::Receiver<Told>,
}

async fn open<R: AsyncRead + Unpin>(
    from: &mut Receiver<R>,
    lines: &Lines,
    stream: &StreamId,
) -> Result<(Inlet, Vec<Item<Control>>), Refused> {
    let first = timeout(SILENCE, from.next::<Control>()).await;
    let why = |why: &str| Refused::Why(why.to_owned());
    let items = first.map_err(|_| why("silence"))?.map_err(|error| Refused::Why(error.to_string()))?;
    let mut items = items.unwrap_or_default().into_iter();
    let follow = match items.next() {
        Some(Item::Word(Control::Follow(follow))) => follow,
        Some(Item::Unknown(what)) => {
            return Err(Refused::Why(format!(
                "what the feed is of is not understood: {what}: update the older of the two"
            )));
        }
        _ => return Err(why("a feed begins by saying whose it is")),
    };
    let ours = lines.shared.config.chunk.as_millis() as u32;
    if follow.chunk_ms != ours {
        let gateway = follow.gateway;
        return Err(Refused::Why(format!("live.chunk differs: {} ms on {gateway}, {ours} ms here", follow.chunk_ms)));
    }
    let stop = CancellationToken::new();
    let taken = lines.follow(stream, follow.order, follow.settings, stop.clone()).await;
    let (feed, standing) = taken.map_err(|Fenced| match lines.closing.is_cancelled() {
        true => why("this node stops"),
        false => Refused::Fenced,
    })?;
    let (answers, answered) = mpsc::channel(ANSWERS);
    let inlet =
        Inlet { lines: lines.clone(), feed, standing, stop, configs: (None, None), is_over: false, answers, answered };
    // What came with the first word.
    Ok((inlet, items.collect()))
}

impl Inlet {
    /// Runs until one side has enough of it; says why.
    async fn run<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        from: &mut Receiver<R>,
        to: &mut Sender<W>,
    ) -> &'static str {
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silence = Silence::after(GATEWAY_SILENCE, now());
        loop {
            tokio::select! {
                items = from.next::<Control>() => {
                    silence.hear(now());
                    let ended = match items {
                        Ok(Some(items)) => self.take(items).await.err(),
                        Ok(None) => Some("the gateway closed it"),
                        Err(_) => Some("the gateway is gone"),
                    };
                    if let Some(why) = ended {
                        let parting = if self.is_over { Parting::Over } else { Parting::Closed };
                        self.feed.detach(parting).await;
                        return why;
                    }
                }
                Some(told) = self.answered.recv() => to.say(&told),
                Ok(()) = self.standing.changed() => self.stand(to),
                _ = beat.tick() => {
                    if silence.is_over(now()) {
                        self.feed.detach(Parting::Silent).await;
                        return "silence";
                    }
                    self.stand(to);
                }
                () = self.stop.cancelled() => {
                    // A node that stops has no say in whether the publisher may go on.
                    if self.lines.closing.is_cancelled() {
                        return "this node stops";
                    }
                    to.say(&Told::Fenced { by: self.standing.borrow().newest });
                    return "a newer session has the stream";
                }
            }
            if to.flush().await.is_err() {
                self.feed.detach(Parting::Silent).await;
                return "the gateway takes nothing";
            }
        }
    }

    fn stand<W: AsyncWrite + Unpin>(&mut self, to: &mut Sender<W>) {
        let line = self.standing.borrow_and_update().clone();
        to.say(&Told::Standing { line, draining: self.lines.is_draining() });
    }

    /// Hands to the line what came. An error is the end of the feed.
    async fn take(&mut self, items: Vec<Item<Control>>) -> Result<(), &'static str> {
        let mut messages = Vec::new();
        for item in items {
            let word = match item {
                Item::Message { channel: MEDIA, message } => {
                    messages.push(message);
                    continue;
                }
                Item::Message { channel: CONFIGS, message } => {
                    match message {
                        Message::Video(config) => self.configs.0 = Some(config),
                        Message::Audio(config) => self.configs.1 = Some(config),
                        _ => {}
                    }
                    continue;
                }
                Item::Message { .. } | Item::Unknown(_) => continue,
                Item::Word(word) => word,
            };
            if !messages.is_empty() {
                self.feed.send(std::mem::take(&mut messages)).await.map_err(|Fenced| FENCED)?;
            }
            self.word(word).await?;
        }
        if messages.is_empty() {
            return Ok(());
        }
        self.feed.send(messages).await.map_err(|Fenced| FENCED)
    }

    async fn word(&mut self, word: Control) -> Result<(), &'static str> {
        match word {
            Control::Beat | Control::Follow(_) => {}
            Control::Plan(plan) => self.feed.plan(plan).await.map_err(|Fenced| FENCED)?,
            Control::Warning(warning) => self.feed.warn(warning).await.map_err(|Fenced| FENCED)?,
            // The line answers when the store has: the feed goes on meanwhile.
            Control::Lead { turn, listed, names } => {
                let (feed, answers) = (self.feed.clone(), self.answers.clone());
                tokio::spawn(async move {
                    // A line that is gone, or has a newer session, says so where the feed ends.
                    if feed.lead(turn, listed, names).await.is_ok() {
                        let _ = answers.send(Told::Led).await;
                    }
                });
            }
            Control::Begin(BeginWord { reason, next }) => {
                let (video, audio) = std::mem::take(&mut self.configs);
                let (feed, answers) = (self.feed.clone(), self.answers.clone());
                tokio::spawn(async move {
                    if let Ok(begun) = feed.begin(Begin { reason, next, video, audio }).await {
                        let _ = answers.send(Told::Begun(begun.into())).await;
                    }
                });
            }
            Control::Places(places) => self.feed.places(places).await.map_err(|Fenced| FENCED)?,
            Control::Leave => {
                self.feed.leave().await;
                return Err("another node publishes the stream");
            }
            Control::End => {
                self.is_over = true;
                return Err("the publisher is gone");
            }
        }
        Ok(())
    }
}

const FENCED: &str = "the line is gone";

impl Lines {
    /// Takes a feed of this very node.
    pub fn inlet(&self, stream: &StreamId) -> tokio::io::DuplexStream {
        let (ours, theirs) = tokio::io::duplex(ROOM);
        tokio::spawn(serve(theirs, self.clone(), stream.clone()));
        ours
    }
}

#[cfg(test)]
#[path = "inlet_tests.rs"]
mod tests;
