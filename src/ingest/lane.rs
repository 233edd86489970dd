//! The gateway's end of a feed to one node: the session's ring flows out, what the node says comes back.

use std::{io, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, timeout},
};

use super::Route;
use crate::{
    cluster::{
        failover::Node,
        feed::{BEAT, CONFIGS, Follow, Item, MEDIA, Places, Receiver, SILENCE, Sender, Silence},
        names::Names,
    },
    id::StreamId,
    line::{
        Begin, Begun, Plan, Standing, StreamSettings,
        inlet::{BeginWord, Control, Told},
    },
    media::{
        Message,
        ring::{self, Reader},
        timeline::Warning,
    },
    time::now,
};

/// A connection to a node.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// What a lane is told to do.
#[derive(Debug, Clone)]
pub enum Order {
    Lead {
        turn: u32,
        listed: Option<u64>,
        names: Names,
    },
    Begin(Begin),
    Warn(Warning),
    Places(Places),
    /// Another node leads.
    Leave,
    /// The publisher is gone: send what is left, and end.
    End,
}

/// What a lane tells.
#[derive(Debug)]
pub enum Event {
    Standing {
        line: Standing,
        draining: bool,
    },
    Led,
    Begun(Begun),
    /// By a session of this order.
    Fenced {
        by: u64,
    },
    /// It has ended.
    Lost(String),
}

/// What every lane of a session knows.
#[derive(Clone)]
pub struct Hello {
    pub stream: StreamId,
    pub order: u64,
    pub settings: StreamSettings,
    pub chunk_ms: u32,
    /// The number of the newest epoch, and how it is made.
    pub plan: watch::Receiver<Option<(u64, Plan)>>,
}

/// Runs a lane to its end, which is always told.
pub async fn run(
    route: Arc<dyn Route>,
    node: Node,
    hello: Hello,
    reader: Reader,
    orders: mpsc::Receiver<Order>,
    events: mpsc::Sender<Event>,
) {
    let why = match timeout(SILENCE, route.connect(&node, &hello.stream)).await {
        Ok(Ok(io)) => {
            let (read, write) = tokio::io::split(io);
            let lane = Lane { hello, reader, orders, events: events.clone(), to: Sender::new(write) };
            lane.drive(&route, Receiver::new(read)).await
        }
        Ok(Err(why)) => why.to_string(),
        Err(_) => "no answer".to_owned(),
    };
    // The session may be over.
    let _ = events.send(Event::Lost(why)).await;
}

struct Lane<W> {
    hello: Hello,
    reader: Reader,
    orders: mpsc::Receiver<Order>,
    events: mpsc::Sender<Event>,
    to: Sender<W>,
}

/// Why a lane ends.
enum End {
    /// It was told to.
    Told,
    Why(String),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        End::Why(error.to_string())
    }
}

impl<W: AsyncWrite + Unpin> Lane<W> {
    async fn drive<R: AsyncRead + Unpin>(mut self, route: &Arc<dyn Route>, mut from: Receiver<R>) -> String {
        let Hello { order, settings, chunk_ms, .. } = self.hello.clone();
        let gateway = route.me().to_string();
        self.to.say(&Control::Follow(Follow { order, settings, chunk_ms, gateway }));
        let why = match self.flow(&mut from).await {
            Err(End::Told) | Ok(()) => "it was told to end".to_owned(),
            Err(End::Why(why)) => why,
        };
        self.to.close().await;
        why
    }

    async fn flow<R: AsyncRead + Unpin>(&mut self, from: &mut Receiver<R>) -> Result<(), End> {
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silence = Silence::after(SILENCE, now());
        let mut flows = true;
        loop {
            tokio::select! {
                message = self.reader.next(), if flows => match message {
                    Ok(message) => {
                        self.message(message)?;
                        self.rest()?;
                    }
                    // Its end is ordered as well.
                    Err(ring::Error::Closed) => flows = false,
                    Err(why @ ring::Error::Lagged { .. }) => return Err(End::Why(why.to_string())),
                },
                items = from.next::<Told>() => {
                    silence.hear(now());
                    match items? {
                        Some(items) => self.hear(items).await?,
                        None => return Err(End::Why("it closed".into())),
                    }
                }
                order = self.orders.recv() => match order {
                    Some(order) => self.order(order).await?,
                    // Whoever gave orders is gone: so is the session.
                    None => return Err(End::Told),
                },
                _ = beat.tick() => {
                    if silence.is_over(now()) {
                        return Err(End::Why("silence".into()));
                    }
                    self.to.say(&Control::Beat);
                }
            }
            self.to.flush().await?;
        }
    }

    /// Adds what else is there, as much as is written at once.
    fn rest(&mut self) -> Result<(), End> {
        while !self.to.is_full() {
            match self.reader.try_next() {
                Ok(Some(message)) => self.message(message)?,
                Ok(None) | Err(_) => break,
            }
        }
        Ok(())
    }

    fn message(&mut self, message: Message) -> Result<(), End> {
        if let Message::Epoch(epoch) = &message {
            let plan =
                self.hello.plan.borrow().as_ref().filter(|(number, _)| *number == epoch.number).map(|(_, plan)| *plan);
            if let Some(plan) = plan {
                self.to.say(&Control::Plan(plan));
            }
        }
        Ok(self.to.message(MEDIA, message)?)
    }

    /// Sends all that the session has sent so far.
    async fn catch_up(&mut self) -> Result<(), End> {
        while let Ok(Some(message)) = self.reader.try_next() {
            self.message(message)?;
            if self.to.is_full() {
                self.to.flush().await?;
            }
        }
        Ok(())
    }

    async fn order(&mut self, order: Order) -> Result<(), End> {
        match order {
            Order::Lead { turn, listed, names } => {
                // A node that has just come leads with all that is kept.
                self.catch_up().await?;
                self.to.say(&Control::Lead { turn, listed, names });
            }
            Order::Begin(Begin { reason, next, video, audio }) => {
                // What came before belongs to the epoch before.
                self.catch_up().await?;
                for config in video.map(Message::Video).into_iter().chain(audio.map(Message::Audio)) {
                    self.to.message(CONFIGS, config)?;
                }
                self.to.say(&Control::Begin(BeginWord { reason, next }));
            }
            Order::Warn(warning) => self.to.say(&Control::Warning(warning)),
            Order::Places(places) => self.to.say(&Control::Places(places)),
            Order::Leave => {
                self.to.say(&Control::Leave);
                return Err(End::Told);
            }
            Order::End => {
                self.catch_up().await?;
                self.to.say(&Control::End);
                return Err(End::Told);
            }
        }
        Ok(())
    }

    async fn hear(&mut self, items: Vec<Item<Told>>) -> Result<(), End> {
        for item in items {
            let Item::Word(word) = item else { continue };
            let event = match word {
                Told::Standing { line, draining } => Event::Standing { line, draining },
                Told::Led => Event::Led,
                Told::Begun(begun) => Event::Begun(begun.into()),
                Told::Fenced { by } => Event::Fenced { by },
                Told::Refused { why } => return Err(End::Why(why)),
            };
            self.events.send(event).await.map_err(|_| End::Told)?;
        }
        Ok(())
    }
}
