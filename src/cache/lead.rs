//! The task that fills one object: it drives a [`Plan`], reads from the attempts that the plan starts, and ends the fill.

use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::BoxStream};

use super::{
    Object,
    policy::{Attempt, Failure, Input, Output, Plan, Rules, Why},
    pull::{Answer, Done, Entry, Flight, Head, Key, Room, Shared, State, Way, busy},
};
use crate::{
    line::Text,
    time::{Timestamp, now},
};

/// The task that fills one object.
pub(super) struct Lead {
    shared: Arc<Shared>,
    object: Object,
    way: Way,
    key: Key,
    flight: Flight,
    attempts: Vec<(Attempt, Step)>,
    room: Option<Room>,
}

enum Step {
    Asking(Timestamp, BoxFuture<'static, Result<Answer, Failure>>),
    Reading(BoxStream<'static, Result<Bytes, Failure>>),
}

enum Event {
    Head(Answer, Duration),
    Bytes(Bytes),
    End,
    Failed(Failure),
}

impl Lead {
    pub fn new(shared: Arc<Shared>, object: Object, way: Way, key: Key, flight: Flight) -> Self {
        Self { shared, object, way, key, flight, attempts: Vec::new(), room: None }
    }

    /// Fills the object, or fails it with what all who wait for it are told.
    pub async fn run(mut self) {
        let rules = Rules { chunk: self.shared.limits.chunk, hold: self.shared.hold(&self.object) };
        let mut states = self.shared.upstreams.subscribe();
        let mut plan = Plan::new(rules, &self.shared.order(&self.object.stream, self.way), now());
        let path = self.object.to_string();
        let (mut head, mut got): (Option<Head>, usize) = (None, 0);
        loop {
            while let Some(output) = plan.poll() {
                match output {
                    // Two nodes' playlists of one name may differ: no half of one is continued by the other.
                    Output::Start(_) if got > 0 && self.object.is_playlist() => {
                        return self.fail(Failure::new(Why::Broken, "a playlist broke off"));
                    }
                    Output::Start(attempt) => {
                        let asking = self.shared.source.fetch(attempt.upstream, self.way, &path, got);
                        self.attempts.push((attempt, Step::Asking(now(), asking)));
                    }
                    Output::Stop(id) => self.attempts.retain(|(attempt, _)| attempt.id != id),
                    Output::GiveUp(failure) => return self.fail(failure),
                }
            }
            let due = plan.deadline().map_or(Duration::from_secs(60), |deadline| deadline - now());
            let (attempt, event) = tokio::select! {
                event = next(&mut self.attempts) => event,
                () = tokio::time::sleep(due) => {
                    plan.expire(now());
                    continue;
                }
                Ok(()) = states.changed() => {
                    let gone: Vec<usize> =
                        states.borrow().iter().enumerate().filter(|(_, state)| **state == State::Gone).map(|(i, _)| i).collect();
                    gone.into_iter().for_each(|upstream| plan.handle(now(), Input::Down(upstream)));
                    continue;
                }
            };
            let failed = |failure| Input::Failed(attempt.id, failure);
            let broken = |detail: &'static str| failed(Failure::new(Why::Broken, detail));
            let input = match event {
                Event::Head(answer, asked) => {
                    metrics::histogram!("weir_upstream_seconds").record(asked.as_secs_f64());
                    if head.as_ref().is_some_and(|head| head.len != answer.head.len) {
                        broken("two upstreams have different objects of one name")
                    } else if head.is_none() && !self.reserve(answer.head.len) {
                        failed(busy("too many bytes are on their way here"))
                    } else {
                        if head.is_none() {
                            self.flight.writer.as_ref().expect("not ended").begin(answer.head.clone());
                            head = Some(answer.head);
                        }
                        if self.way == Way::Straight {
                            self.shared.holders.insert(self.object.stream.clone(), attempt.upstream);
                        }
                        for (other, step) in &mut self.attempts {
                            if other.id == attempt.id {
                                *step = Step::Reading(answer.body);
                                break;
                            }
                        }
                        Input::Head(attempt.id)
                    }
                }
                Event::Bytes(bytes) => {
                    let count = bytes.len();
                    got += count;
                    if head.as_ref().is_none_or(|head| got > head.len) {
                        return self.fail(Failure::new(Why::Broken, "the upstream sent more than it said"));
                    }
                    self.flight.writer.as_ref().expect("not ended").append(bytes);
                    Input::Bytes(attempt.id, count)
                }
                Event::End => broken("the upstream sent less than it said"),
                Event::Failed(failure) => failed(failure),
            };
            if let Some(head) = head.as_ref().filter(|head| head.len == got) {
                return self.complete(head.clone());
            }
            if let Input::Failed(id, _) = &input {
                self.attempts.retain(|(attempt, _)| attempt.id != *id);
            }
            plan.handle(now(), input);
        }
    }

    /// Takes room for an object on its way.
    fn reserve(&mut self, len: usize) -> bool {
        let (room, fits) = Room::take(&self.shared, len);
        self.room = Some(room);
        fits
    }

    fn complete(mut self, head: Head) {
        metrics::counter!("weir_cache_fills_total", "result" => "ok").increment(1);
        let writer = self.flight.writer.take().expect("not ended");
        let fill = writer.fill().clone();
        let is_playlist = self.object.is_playlist();
        writer.complete(|whole| {
            let text = is_playlist.then(|| Text::new(String::from_utf8_lossy(whole).into_owned()));
            Done { at: now(), bytes: whole.clone(), text }
        });
        let done = fill.end().and_then(Result::ok).expect("just completed");
        self.shared.keep(&self.object, &self.key, &head, &fill, done.text.as_ref());
    }

    fn fail(mut self, failure: Failure) {
        metrics::counter!("weir_cache_fills_total", "result" => failure.why.code()).increment(1);
        let writer = self.flight.writer.take().expect("not ended");
        let (fill, keep) = (writer.fill().clone(), failure.keep(self.object.is_made_live(), rand::random()));
        writer.fail(failure);
        if !keep.is_zero() {
            let kept = Entry { fill, until: Some(now() + keep), bytes: 0 };
            self.shared.failed.insert(self.key.clone(), kept);
        }
    }
}

/// What the attempts bring next.
async fn next(attempts: &mut [(Attempt, Step)]) -> (Attempt, Event) {
    poll_fn(|cx| {
        for (attempt, step) in attempts.iter_mut() {
            let event = match step {
                Step::Asking(since, asking) => asking.poll_unpin(cx).map(|answer| match answer {
                    Ok(answer) => Event::Head(answer, now() - *since),
                    Err(failure) => Event::Failed(failure),
                }),
                Step::Reading(body) => body.poll_next_unpin(cx).map(|piece| match piece {
                    Some(Ok(bytes)) => Event::Bytes(bytes),
                    Some(Err(failure)) => Event::Failed(failure),
                    None => Event::End,
                }),
            };
            if let Poll::Ready(event) = event {
                return Poll::Ready((*attempt, event));
            }
        }
        Poll::Pending
    })
    .await
}
