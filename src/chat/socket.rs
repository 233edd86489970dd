//! One viewer's WebSocket: what is told in the room goes out, what the viewer does comes in.
//!
//! Every message from here is a JSON array of objects with a `type`; every message to here one object. README, "Chat", has them
//! all.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tungstenite::protocol::frame::coding::CloseCode;

use super::{
    Act, Refusal, Who,
    event::Role,
    frames::{self, Assembler, Broken, Received},
    hub::{After, Told, array},
    room::Settings,
    rooms::Handle,
};
use crate::{
    id::{EventId, UserId},
    time::{Timestamp, now},
};

/// A viewer who says nothing for so long is asked whether he is there, and closed when he does not say so in as long again.
const PING: Duration = Duration::from_secs(25);
/// A viewer who has not taken a lot by then is closed: he comes back with the id that he saw last.
const LATE: Duration = Duration::from_secs(10);
/// Answers that wait to be sent.
const ANSWERS: usize = 16;
/// Requests of one socket that are being judged; one more is refused.
const ACTS: usize = 8;
/// Messages that one socket may send in a second, beyond which it is closed: a person writes none of that.
const FLOOD: u32 = 50;
/// Bytes that are read at a time.
const READ: usize = 1024;

/// What a socket is told besides events.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Word<'a> {
    /// The first one.
    Hello {
        /// Who this is, if he may write.
        #[serde(skip_serializing_if = "Option::is_none")]
        you: Option<You<'a>>,
        settings: &'a Settings,
        /// Messages lie between the id that was asked for and the first that follows.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        gap: bool,
    },
    /// It is said, and stored.
    Ack {
        #[serde(skip_serializing_if = "Option::is_none")]
        nonce: Option<&'a str>,
        id: EventId,
    },
    Refused {
        #[serde(skip_serializing_if = "Option::is_none")]
        nonce: Option<&'a str>,
        #[serde(flatten)]
        why: &'a Refusal,
    },
    /// So many messages are left out: they came faster than they were taken.
    Skipped { count: u64 },
    /// Come back, within so long, by chance: at once would be all at once.
    Retry { within_ms: u64 },
    /// Poll instead: there are too many sockets.
    Poll { within_ms: u64 },
}

#[derive(Debug, Serialize)]
pub struct You<'a> {
    pub user: &'a UserId,
    pub name: &'a str,
    #[serde(skip_serializing_if = "<[Role]>::is_empty")]
    pub roles: &'a [Role],
}

/// What a viewer sends.
#[derive(Debug, Deserialize)]
struct Request {
    #[serde(default)]
    nonce: Option<String>,
    #[serde(flatten)]
    act: Act,
}

/// Why sockets are told to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// To another node: this one stops.
    Stopping,
    /// To polling.
    Crowded,
}

/// Serves a socket to its end. `after`: the newest event that the viewer knows; nothing: he comes anew. `early`: what has come
/// of him already.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut io: S,
    room: Arc<Handle>,
    who: Option<Who>,
    after: Option<EventId>,
    early: Bytes,
    stop: CancellationToken,
) {
    let mut socket = Socket::new(&room, who);
    socket.assembler.push(&early);
    drop(early);
    let ended = socket.run(&mut io, after, stop).await;
    let (code, why) = match ended {
        Ended::Gone => return,
        Ended::Broken(Broken { code, why }) => {
            metrics::counter!("weir_chat_refused_sockets_total").increment(1);
            (code, why)
        }
        Ended::Late => {
            metrics::counter!("weir_chat_late_sockets_total").increment(1);
            // Whoever does not read gets no reason either.
            return;
        }
        Ended::Leave => (CloseCode::Restart, "come back"),
        Ended::Closed => (CloseCode::Normal, ""),
    };
    let goodbye = async {
        io.write_all(&frames::close(code, why)).await?;
        io.shutdown().await
    };
    let _ = timeout(Duration::from_secs(1), goodbye).await;
}

enum Ended {
    /// The connection is lost.
    Gone,
    Broken(Broken),
    /// It took nothing for too long.
    Late,
    /// The node stops, or has too many.
    Leave,
    /// By its own wish.
    Closed,
}

struct Socket<'a> {
    room: &'a Arc<Handle>,
    who: Option<Arc<Who>>,
    assembler: Assembler,
    answers: mpsc::Sender<Bytes>,
    answered: mpsc::Receiver<Bytes>,
    acting: Arc<tokio::sync::Semaphore>,
    /// Messages within the running second.
    flood: (Timestamp, u32),
    pinged: bool,
}

impl<'a> Socket<'a> {
    fn new(room: &'a Arc<Handle>, who: Option<Who>) -> Self {
        let (answers, answered) = mpsc::channel(ANSWERS);
        let acting = Arc::new(tokio::sync::Semaphore::new(ACTS));
        let flood = (now(), 0);
        let (who, assembler) = (who.map(Arc::new), Assembler::default());
        Self { room, who, assembler, answers, answered, acting, flood, pinged: false }
    }

    async fn run<S: AsyncRead + AsyncWrite + Unpin>(
        mut self,
        io: &mut S,
        after: Option<EventId>,
        stop: CancellationToken,
    ) -> Ended {
        let hub = self.room.hub();
        let _counted = hub.enter();
        let (leaves, is_new) = (self.room.leaves(), after.is_none());
        let after = after.unwrap_or_else(|| hub.before_last(super::rooms::FIRST_PAGE));
        let (known, mut cursor) = hub.join(after);
        if let Err(ended) = write(io, &[self.hello(&known, is_new)]).await {
            return ended;
        }
        if let Some(ended) = self.take(io).await {
            return ended;
        }
        let mut bytes = [0; READ];
        let mut heard = now();
        loop {
            tokio::select! {
                read = io.read(&mut bytes) => match read {
                    Ok(0) | Err(_) => return Ended::Gone,
                    Ok(count) => {
                        heard = now();
                        self.pinged = false;
                        self.assembler.push(&bytes[..count]);
                        if let Some(ended) = self.take(io).await {
                            return ended;
                        }
                    }
                },
                () = cursor.ready() => {
                    let taken = cursor.take();
                    let mut frames = Vec::with_capacity(taken.lots.len() + 1);
                    if taken.skipped > 0 {
                        metrics::counter!("weir_chat_skipped_total").increment(taken.skipped);
                        frames.push(word(&[Word::Skipped { count: taken.skipped }], &taken.deeds));
                    }
                    metrics::counter!("weir_chat_deliveries_total").increment(taken.messages());
                    frames.extend(taken.lots.iter().map(|lot| lot.frame.clone()));
                    if let Err(ended) = write(io, &frames).await {
                        return ended;
                    }
                }
                Some(answer) = self.answered.recv() => {
                    if let Err(ended) = write(io, &[answer]).await {
                        return ended;
                    }
                }
                () = sleep(heard + PING * (1 + u32::from(self.pinged)) - now()) => {
                    if self.pinged {
                        return Ended::Gone;
                    }
                    self.pinged = true;
                    if let Err(ended) = write(io, &[frames::ping()]).await {
                        return ended;
                    }
                }
                leave = leaves.told() => {
                    let within_ms = super::rooms::COME_BACK.as_millis() as u64;
                    let said = match leave {
                        Leave::Stopping => Word::Retry { within_ms },
                        Leave::Crowded => Word::Poll { within_ms: 0 },
                    };
                    let _ = write(io, &[word(&[said], &[])]).await;
                    return Ended::Leave;
                }
                () = stop.cancelled() => {
                    let within_ms = super::rooms::COME_BACK.as_millis() as u64;
                    let _ = write(io, &[word(&[Word::Retry { within_ms }], &[])]).await;
                    return Ended::Leave;
                }
            }
        }
    }

    fn hello(&self, known: &After, is_new: bool) -> Bytes {
        let settings = self.room.settings();
        let roles = self.who.as_ref().map(|who| self.room.roles(who)).unwrap_or_default();
        let you = self.who.as_ref().map(|who| You { user: &who.user, name: &who.name, roles: &roles });
        let hello = Word::Hello { you, settings: &settings, gap: !known.is_whole && !is_new };
        word(&[hello], &known.events)
    }

    /// Takes what the viewer has sent.
    async fn take<S: AsyncWrite + Unpin>(&mut self, io: &mut S) -> Option<Ended> {
        loop {
            match self.assembler.poll() {
                Ok(None) => return None,
                Ok(Some(Received::Text(text))) => {
                    if let Some(broken) = self.is_flood() {
                        return Some(Ended::Broken(broken));
                    }
                    self.request(&text);
                }
                Ok(Some(Received::Ping(payload))) => {
                    if let Err(ended) = write(io, &[frames::pong(&payload)]).await {
                        return Some(ended);
                    }
                    if let Some(broken) = self.is_flood() {
                        return Some(Ended::Broken(broken));
                    }
                }
                Ok(Some(Received::Pong)) => {}
                Ok(Some(Received::Close)) => return Some(Ended::Closed),
                Err(broken) => return Some(Ended::Broken(broken)),
            }
        }
    }

    fn is_flood(&mut self) -> Option<Broken> {
        let now = now();
        if now - self.flood.0 >= Duration::from_secs(1) {
            self.flood = (now, 0);
        }
        self.flood.1 += 1;
        (self.flood.1 > FLOOD).then_some(Broken { code: CloseCode::Policy, why: "too many messages" })
    }

    /// Has judged what the viewer asks for. The answer comes when it is stored; others may come before it.
    fn request(&self, text: &str) {
        let answer = |nonce: Option<&str>, done: &Result<EventId, Refusal>| match done {
            Ok(id) => word(&[Word::Ack { nonce, id: *id }], &[]),
            Err(why) => word(&[Word::Refused { nonce, why }], &[]),
        };
        // A viewer who does not take his answers loses them: he asks again under the same nonce.
        let refuse = |nonce: Option<&str>, why: Refusal| _ = self.answers.try_send(answer(nonce, &Err(why)));
        let Request { nonce, act } = match serde_json::from_str(text) {
            Ok(request) => request,
            Err(why) => return refuse(None, Refusal::new("bad_request", format!("not understood: {why}"))),
        };
        let Some(who) = self.who.clone() else {
            return refuse(nonce.as_deref(), Refusal::new("no_name", "choose a name first"));
        };
        let Ok(permit) = self.acting.clone().try_acquire_owned() else {
            let why = Refusal::new("too_fast", "too many requests at once").again_in(Duration::from_secs(1));
            return refuse(nonce.as_deref(), why);
        };
        let (room, answers) = (self.room.clone(), self.answers.clone());
        tokio::spawn(async move {
            let done = room.act(&who, nonce.clone(), act).await;
            let _ = answers.send(answer(nonce.as_deref(), &done)).await;
            drop(permit);
        });
    }
}

/// A message of words and events.
fn word(words: &[Word], events: &[Told]) -> Bytes {
    let words = serde_json::to_string(words).expect("plain data");
    let events = array(events.iter());
    let text = match (words.as_str(), events.as_str()) {
        (_, "[]") => words,
        _ => format!("{},{}", &words[..words.len() - 1], &events[1..]),
    };
    frames::text(text.as_bytes())
}

/// Writes all of these, in one go where the socket takes them.
async fn write<S: AsyncWrite + Unpin>(io: &mut S, frames: &[Bytes]) -> Result<(), Ended> {
    let all = async {
        match frames {
            [one] => io.write_all(one).await?,
            many => {
                let mut slices: Vec<_> = many.iter().map(|frame| std::io::IoSlice::new(frame)).collect();
                let mut left = &mut slices[..];
                while !left.is_empty() {
                    let written = io.write_vectored(left).await?;
                    if written == 0 {
                        return Err(std::io::ErrorKind::WriteZero.into());
                    }
                    std::io::IoSlice::advance_slices(&mut left, written);
                }
            }
        }
        io.flush().await
    };
    match timeout(LATE, all).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Ended::Gone),
        Err(_) => Err(Ended::Late),
    }
}
