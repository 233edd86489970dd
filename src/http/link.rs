//! This node's end of the links that edges open to it ([`crate::cache::link`]), and the door of the internal port.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde_json::Value;
use tokio::{
    sync::{
        broadcast::{self, error::RecvError},
        watch,
    },
    time::{Interval, MissedTickBehavior, interval},
};

use super::{App, Shared, problem::Problem};
use crate::{
    audience::now::Now,
    auth,
    cache::link::{Access, BEAT, Message, News},
    id::StreamId,
    time::{Timestamp, now},
};

/// How often the number of viewers is told.
const COUNTED: Duration = Duration::from_secs(1);

/// What anyone on the internal port may ask: load balancers and monitors know no secret.
const OPEN: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// Lets only nodes in that know the secret, where there is one, and no request that was here before.
pub fn admit(app: &App, path: &str, headers: &HeaderMap) -> Result<(), Problem> {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let knows = app.internal_secret.as_ref().is_none_or(|secret| auth::admin::verify(secret, given));
    if !knows && !OPEN.contains(&path) {
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "the internal port is for nodes that know internal.secret"));
    }
    let mut passed = headers.get_all(header::VIA).iter().filter_map(|via| via.to_str().ok());
    match passed.any(|via| via.contains(&app.via)) {
        true => Err(Problem::new(StatusCode::LOOP_DETECTED, "edges have each other as upstream in a ring")),
        false => Ok(()),
    }
}

/// What of so many streams a reader is told at once of what they play.
const TOLD: usize = 100;

impl App {
    /// Takes what an upstream says on its link.
    pub fn hear(&self, news: News) {
        match news {
            News::Access => self.join_access(),
            News::Listed(object) if self.lines.live(&object.stream).is_none() => {
                if let Some(cache) = &self.cache {
                    cache.prefetch(object);
                }
                // To the edges that have this one as upstream, if there are any.
                if !self.is_origin {
                    let _ = self.announcements.send(object.to_string().into());
                }
            }
            News::Listed(_) | News::Alive => {}
            News::Now(stream, now) => self.playing.hear(stream, now),
            News::Stream(stream, view) => {
                if let Some(epoch) = view["epoch"].as_u64() {
                    self.lines.superseded(stream, epoch);
                }
            }
        }
    }
}

/// The link: messages until the reader leaves or this node stops. A reader that is slow gets fewer of them.
pub async fn link(State(app): Shared) -> Response {
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let telling = Telling {
        access: app.access.subscribe(),
        announced: app.announcements.subscribe(),
        played: app.playing.board().changes(),
        untold: Vec::new(),
        shown: BTreeMap::new(),
        viewers: BTreeMap::new(),
        counted: Timestamp::default(),
        begun: false,
        beat,
        app,
    };
    let lines = futures::stream::unfold(telling, |mut telling| async {
        let lines = telling.next().await?;
        Some((Ok::<_, Infallible>(lines), telling))
    });
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(lines)).into_response()
}

struct Telling {
    app: Arc<App>,
    access: watch::Receiver<Access>,
    announced: broadcast::Receiver<Arc<str>>,
    played: broadcast::Receiver<(StreamId, Arc<Now>)>,
    /// What streams play, as far as the reader was not told it: the next one last, and of one stream the newest first.
    untold: Vec<(StreamId, Arc<Now>)>,
    /// Streams as the reader knows them.
    shown: BTreeMap<StreamId, Value>,
    viewers: BTreeMap<StreamId, u64>,
    counted: Timestamp,
    begun: bool,
    beat: Interval,
}

impl Telling {
    /// The next lines; none when this node stops.
    async fn next(&mut self) -> Option<Bytes> {
        let mut lines = Vec::new();
        if !std::mem::replace(&mut self.begun, true) {
            let mut names = vec![self.app.via.clone()];
            // A node that makes chunks itself asks nobody on behalf of another.
            names.extend(self.app.links.iter().filter(|_| !self.app.is_origin).flat_map(|links| links.behind()));
            write(&mut lines, &Message::Behind { names });
            write(&mut lines, &Message::Access(self.access.borrow_and_update().clone()));
            self.tell_streams(&mut lines);
            self.untold = self.app.playing.board().all();
            return Some(lines.into());
        }
        let stopping = self.app.stopping.clone();
        tokio::select! {
            () = stopping.cancelled() => return None,
            Ok(()) = self.access.changed() => {
                let access = self.access.borrow_and_update().clone();
                write(&mut lines, &Message::Access(access));
            }
            path = self.announced.recv() => match path {
                Ok(path) => write(&mut lines, &Message::Listed { path: path.to_string() }),
                Err(RecvError::Lagged(missed)) => {
                    metrics::counter!("weir_announcements_dropped_total").increment(missed);
                    write(&mut lines, &Message::Beat);
                }
                Err(RecvError::Closed) => return None,
            },
            played = self.played.recv() => match played {
                Ok((id, now)) => write_now(&mut lines, id, &now),
                // Changes that were missed are told with all the others.
                Err(RecvError::Lagged(_)) => {
                    self.untold = self.app.playing.board().all();
                    write(&mut lines, &Message::Beat);
                }
                Err(RecvError::Closed) => return None,
            },
            () = std::future::ready(()), if !self.untold.is_empty() => {
                let rest = self.untold.len().saturating_sub(TOLD);
                for (id, now) in self.untold.split_off(rest).into_iter().rev() {
                    write_now(&mut lines, id, &now);
                }
            }
            _ = self.beat.tick() => {
                self.tell_streams(&mut lines);
                self.tell_viewers(&mut lines);
                if lines.is_empty() {
                    write(&mut lines, &Message::Beat);
                }
            }
        }
        Some(lines.into())
    }

    /// Tells what changed of the streams that this node shows.
    fn tell_streams(&mut self, lines: &mut Vec<u8>) {
        let views = if self.app.is_origin { self.app.own_streams() } else { self.app.shown_streams() };
        self.shown.retain(|id, _| {
            let stays = views.contains_key(id);
            if !stays {
                write(lines, &Message::Gone { id: id.clone() });
                self.viewers.remove(id);
            }
            stays
        });
        for (id, view) in views {
            if self.shown.get(&id) != Some(&view) {
                write(lines, &Message::Stream { id: id.clone(), view: view.clone() });
                self.shown.insert(id, view);
            }
        }
    }
}

impl Telling {
    /// Tells how many viewers streams have, where that has changed, once a second.
    fn tell_viewers(&mut self, lines: &mut Vec<u8>) {
        if now() - self.counted < COUNTED {
            return;
        }
        self.counted = now();
        let mut counts = BTreeMap::new();
        for id in self.shown.keys() {
            let viewers = self.app.watching(id).unwrap_or(0);
            if self.viewers.insert(id.clone(), viewers) != Some(viewers) {
                counts.insert(id.clone(), viewers);
            }
        }
        if !counts.is_empty() {
            write(lines, &Message::Viewers { counts });
        }
    }
}

fn write_now(lines: &mut Vec<u8>, id: StreamId, now: &Now) {
    write(lines, &Message::Now { id, now: serde_json::to_value(now).expect("plain data") });
}

fn write(lines: &mut Vec<u8>, message: &Message) {
    serde_json::to_writer(&mut *lines, message).expect("messages are plain data");
    lines.push(b'\n');
}
