//! One viewer's WebSocket: what is told in the room goes out, what the viewer does comes in.
//!
//! Every message from here is a JSON array of objects with a `type`; every message to here one object. README, "Chat", has them
//! all.

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tungstenite::protocol::frame::coding::CloseCode;

use super::{
    Act, Acted, Refusal, Settings, Who,
    event::Role,
    frames::{self, Assembler, Broken, Received},
    hub::{After, Taken, Told, array},
    known::Emotes,
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
const READ: usize = 2048;

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
        #[serde(skip_serializing_if = "Emotes::is_empty")]
        emotes: &'a Emotes,
        /// Messages lie between the id that was asked for and the first that follows.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        gap: bool,
    },
    /// It is said, and stored.
    Ack {
        #[serde(skip_serializing_if = "Option::is_none")]
        nonce: Option<&'a str>,
        #[serde(flatten)]
        acted: Acted,
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
    /// There once the viewer has asked for something: most only read.
    asks: Option<Asks>,
    /// Messages within the running second.
    flood: (Timestamp, u32),
}

/// What a viewer asks for.
struct Asks {
    answers: mpsc::Sender<Bytes>,
    answered: mpsc::Receiver<Bytes>,
    /// Those that are being judged.
    acting: Arc<Semaphore>,
}

impl Asks {
    fn new() -> Self {
        let (answers, answered) = mpsc::channel(ANSWERS);
        Self { answers, answered, acting: Arc::new(Semaphore::new(ACTS)) }
    }
}

impl<'a> Socket<'a> {
    fn new(room: &'a Arc<Handle>, who: Option<Who>) -> Self {
        Self { room, who: who.map(Arc::new), assembler: Assembler::default(), asks: None, flood: (now(), 0) }
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
        // Made once: to wait for one of these anew with each lot would cost as much as to write it.
        let (mut sent_away, mut stopped) = (pin!(leaves.told()), pin!(stop.cancelled()));
        let (mut heard, mut pinged) = (now(), false);
        let mut alarm = pin!(sleep(PING));
        loop {
            let (assembler, asks) = (&mut self.assembler, &mut self.asks);
            tokio::select! {
                read = poll_fn(|cx| poll_read(assembler, cx, io)) => {
                    if read.is_err() {
                        return Ended::Gone;
                    }
                    (heard, pinged) = (now(), false);
                    if let Some(ended) = self.take(io).await {
                        return ended;
                    }
                }
                () = cursor.ready() => {
                    let taken = cursor.take();
                    hub.delivered(taken.messages());
                    if let Err(ended) = send(io, &taken).await {
                        return ended;
                    }
                }
                Some(answer) = next(asks) => {
                    if let Err(ended) = write(io, &[answer]).await {
                        return ended;
                    }
                }
                () = &mut alarm => {
                    let due = heard + PING * (1 + u32::from(pinged));
                    if now() >= due {
                        if pinged {
                            return Ended::Gone;
                        }
                        pinged = true;
                        if let Err(ended) = write(io, &[frames::ping()]).await {
                            return ended;
                        }
                    }
                    alarm.set(sleep((heard + PING * (1 + u32::from(pinged)) - now()).max(Duration::from_millis(1))));
                }
                leave = &mut sent_away => {
                    let within_ms = super::rooms::COME_BACK.as_millis() as u64;
                    let said = match leave {
                        Leave::Stopping => Word::Retry { within_ms },
                        Leave::Crowded => Word::Poll { within_ms: 0 },
                    };
                    let _ = write(io, &[word(&[said], &[])]).await;
                    return Ended::Leave;
                }
                () = &mut stopped => {
                    let within_ms = super::rooms::COME_BACK.as_millis() as u64;
                    let _ = write(io, &[word(&[Word::Retry { within_ms }], &[])]).await;
                    return Ended::Leave;
                }
            }
        }
    }

    fn hello(&self, found: &After, is_new: bool) -> Bytes {
        let (settings, known) = (self.room.settings(), self.room.known());
        let roles = self.who.as_ref().map(|who| self.room.roles(who)).unwrap_or_default();
        let you = self.who.as_ref().map(|who| You { user: &who.user, name: &who.name, roles: &roles });
        let hello = Word::Hello { you, settings: &settings, emotes: &known.emotes, gap: !found.is_whole && !is_new };
        word(&[hello], &found.events)
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
    fn request(&mut self, text: &str) {
        let Asks { answers, acting, .. } = self.asks.get_or_insert_with(Asks::new);
        let answer = |nonce: Option<&str>, done: &Result<Acted, Refusal>| match done {
            Ok(acted) => word(&[Word::Ack { nonce, acted: *acted }], &[]),
            Err(why) => word(&[Word::Refused { nonce, why }], &[]),
        };
        // A viewer who does not take his answers loses them: he asks again under the same nonce.
        let refuse = |nonce: Option<&str>, why: Refusal| _ = answers.try_send(answer(nonce, &Err(why)));
        let Request { nonce, act } = match serde_json::from_str(text) {
            Ok(request) => request,
            Err(why) => return refuse(None, Refusal::new("bad_request", format!("not understood: {why}"))),
        };
        let Some(who) = self.who.clone() else {
            return refuse(nonce.as_deref(), Refusal::new("no_name", "choose a name first"));
        };
        if let Err(why) = act.is_open() {
            return refuse(nonce.as_deref(), why);
        }
        let Ok(permit) = acting.clone().try_acquire_owned() else {
            let why = Refusal::new("too_fast", "too many requests at once").again_in(Duration::from_secs(1));
            return refuse(nonce.as_deref(), why);
        };
        let (room, answers) = (self.room.clone(), answers.clone());
        tokio::spawn(async move {
            let done = room.act(&who, nonce.clone(), act).await;
            let _ = answers.send(answer(nonce.as_deref(), &done)).await;
            drop(permit);
        });
    }
}

/// Reads what is there. The bytes have no place of their own while there are none.
fn poll_read(
    assembler: &mut Assembler,
    cx: &mut Context<'_>,
    io: &mut (impl AsyncRead + Unpin),
) -> Poll<io::Result<()>> {
    let mut place = [MaybeUninit::uninit(); READ];
    let mut bytes = ReadBuf::uninit(&mut place);
    ready!(Pin::new(io).poll_read(cx, &mut bytes))?;
    match bytes.filled() {
        [] => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
        filled => {
            assembler.push(filled);
            Poll::Ready(Ok(()))
        }
    }
}

/// The next answer; never, where nothing was asked for.
async fn next(asks: &mut Option<Asks>) -> Option<Bytes> {
    match asks {
        Some(asks) => asks.answered.recv().await,
        None => std::future::pending().await,
    }
}

/// Writes lots, and before them what is left out.
async fn send<S: AsyncWrite + Unpin>(io: &mut S, taken: &Taken) -> Result<(), Ended> {
    if let ([lot], 0) = (&taken.lots[..], taken.skipped) {
        return write(io, std::slice::from_ref(&lot.frame)).await;
    }
    let mut frames = Vec::with_capacity(taken.lots.len() + 1);
    if taken.skipped > 0 {
        metrics::counter!("weir_chat_skipped_total").increment(taken.skipped);
        frames.push(word(&[Word::Skipped { count: taken.skipped }], &taken.deeds));
    }
    frames.extend(taken.lots.iter().map(|lot| lot.frame.clone()));
    write(io, &frames).await
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::rooms::{Alone, Rooms};

    /// The memory of a socket that idles is this, its buffers being empty, and what the system and the runtime keep.
    #[tokio::test]
    async fn a_socket_is_small() {
        let dir = tempfile::tempdir().unwrap();
        let meta = Arc::new(crate::store::embedded::Embedded::open(dir.path()).unwrap());
        let stop = CancellationToken::new();
        let rooms = Rooms::new(meta, Arc::new(Alone::default()), None, 10, stop.clone());
        let room = rooms.room(&"alice".parse().unwrap());
        let (io, _other) = tokio::io::duplex(64);
        let serving = serve(io, room, None, None, Bytes::new(), stop);
        assert!(size_of_val(&serving) <= 1536, "{}", size_of_val(&serving));
    }
}
