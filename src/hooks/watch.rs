//! Looks at what the node's lines show and how its store is, and tells what has changed.
//!
//! One task looks again and again; what it says of the changes is `Watch`'s to decide, which is pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    Hooks,
    event::{Event, Kind},
};
use crate::{
    id::{BroadcastId, StreamId},
    line::{Lines, Live, State},
    recording::Library,
    store::{BroadcastRow, Meta, health::Health},
    time::{Timestamp, UnixMs, now, unix_now},
};

/// Between two looks: what a broadcast goes through lasts longer, its first chunk, and what is shown of its end.
const LOOK: Duration = Duration::from_millis(250);
/// A store is well when it was for so long: one that takes every other write does not tell of each.
const WELL: Duration = Duration::from_secs(10);
/// Broadcasts that have ended and whose end is not stored yet, and as many that wait to be looked for; one more is given up.
const ENDING: usize = 1024;
/// And for how long one is looked for.
const ENDING_FOR: Duration = Duration::from_secs(3600);
/// Between two looks for it, after the first ones.
const ENDING_LOOK: Duration = Duration::from_secs(5);
/// Looks at [`LOOK`]'s pace before.
const ENDING_SOON: Duration = Duration::from_secs(10);

/// One stream's broadcast, as much as matters here.
#[derive(Debug, Clone, PartialEq)]
struct Sight {
    stream: StreamId,
    broadcast: BroadcastId,
    started: UnixMs,
    ended: bool,
    /// Players can play it.
    playable: bool,
    /// It was taken up from the store, or from another node.
    restored: bool,
    renditions: Vec<String>,
    /// Code, text and what to do.
    warnings: Vec<(&'static str, String, String)>,
}

impl From<&Live> for Sight {
    fn from(live: &Live) -> Self {
        Self {
            stream: live.stream.clone(),
            broadcast: live.broadcast.clone(),
            started: live.started,
            ended: live.state == State::Ended,
            playable: live.multivariants.is_some(),
            restored: live.restored.is_some(),
            renditions: live.offered.iter().map(ToString::to_string).collect(),
            warnings: live.warnings.iter().map(|warning| (warning.code(), warning.text(), warning.fix())).collect(),
        }
    }
}

/// What was told of a broadcast.
struct Show {
    broadcast: BroadcastId,
    /// It was seen before anybody could play it: no other node can have told that it is live.
    is_ours: bool,
    live: bool,
    ended: bool,
    warned: BTreeSet<&'static str>,
}

/// A trouble of the node that is told when it begins and when it is over.
#[derive(Default)]
struct Trouble {
    /// When it began, as it was told.
    since: Option<UnixMs>,
    /// When it was there last.
    seen: Timestamp,
}

/// Says what has changed. Drives nothing.
struct Watch {
    node: String,
    shows: BTreeMap<StreamId, Show>,
    troubles: BTreeMap<&'static str, Trouble>,
}

impl Watch {
    fn new(node: &str) -> Self {
        Self { node: node.into(), shows: BTreeMap::new(), troubles: BTreeMap::new() }
    }

    /// Compares all that is shown now with what was shown before.
    fn look(&mut self, today: UnixMs, all: &[Sight]) -> Vec<Event> {
        let mut events = Vec::new();
        self.shows.retain(|stream, _| all.iter().any(|sight| sight.stream == *stream));
        for sight in all {
            let new = || Show {
                broadcast: sight.broadcast.clone(),
                is_ours: !sight.playable && !sight.restored,
                live: false,
                ended: false,
                warned: BTreeSet::new(),
            };
            let show = self.shows.entry(sight.stream.clone()).or_insert_with(new);
            if show.broadcast != sight.broadcast {
                *show = new();
            }
            let event = |kind| {
                let event = Event::of(kind, today, sight.stream.clone(), sight.broadcast.clone());
                event.with("started", sight.started.to_string())
            };
            if sight.playable && !show.live {
                show.live = true;
                if show.is_ours && !sight.ended {
                    events.push(event(Kind::StreamLive).with("renditions", sight.renditions.clone()));
                }
            }
            for (code, text, fix) in sight.warnings.iter().filter(|(code, ..)| show.warned.insert(code)) {
                let told = event(Kind::HealthWarning).detailed(code).with("code", *code);
                events.push(told.with("text", text.as_str()).with("fix", fix.as_str()));
            }
            if sight.ended && !show.ended {
                show.ended = true;
                if show.live {
                    events.push(event(Kind::StreamEnded).with("ended", today.to_string()));
                }
            }
        }
        events
    }

    /// Compares a trouble of the node with how it was before.
    fn trouble(&mut self, now: Timestamp, today: UnixMs, code: &'static str, why: Option<String>) -> Option<Event> {
        let trouble = self.troubles.entry(code).or_default();
        let event = |state: &str, since: UnixMs| {
            let detail = format!("{}_{code}_{}_{state}", self.node, since.0);
            Event::of_node(Kind::HealthWarning, today, &detail).with("code", code).with("state", state)
        };
        match (why, trouble.since) {
            (Some(why), since) => {
                trouble.seen = now;
                trouble.since = since.or(Some(today));
                since.is_none().then(|| event("begins", today).with("text", why))
            }
            (None, Some(since)) if now - trouble.seen >= WELL => {
                trouble.since = None;
                Some(event("ends", since).with("since", since.to_string()))
            }
            (None, _) => None,
        }
    }
}

/// A broadcast whose end is to be found in the store.
struct Ending {
    stream: StreamId,
    broadcast: BroadcastId,
    since: Timestamp,
    /// Nobody saw it end: it was found open when the node started.
    unseen: bool,
}

/// What the task looks at.
pub struct Watcher {
    pub hooks: Hooks,
    pub lines: Lines,
    pub library: Library,
    pub meta: Arc<dyn Meta>,
    pub health: Arc<Health>,
    pub node: String,
    /// The broadcasts that the store says had not ended when the node started, before any was taken up.
    pub open: Vec<BroadcastRow>,
}

impl Watcher {
    /// Looks until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let (ended, endings) = mpsc::channel(ENDING);
        // To count a long recording takes a while, in which a broadcast may begin.
        let both = async { tokio::join!(self.look(ended), self.find(endings)) };
        let _: Option<_> = stop.run_until_cancelled(both).await;
    }

    async fn look(&self, ended: mpsc::Sender<Ending>) {
        let mut watch = Watch::new(&self.node);
        loop {
            let (stamp, today) = (now(), unix_now());
            let all: Vec<_> = self.lines.all().iter().map(|live| Sight::from(&**live)).collect();
            let mut events = watch.look(today, &all);
            let delay = self.health.delay().map(|delay| delay.to_string());
            events.extend(watch.trouble(stamp, today, "store", self.health.trouble()));
            events.extend(watch.trouble(stamp, today, "store_delay", delay));
            for event in events {
                if event.kind == Kind::StreamEnded
                    && let (Some(stream), Some(broadcast)) = (event.stream.clone(), event.broadcast.clone())
                    && ended.try_send(Ending { stream, broadcast, since: stamp, unseen: false }).is_err()
                {
                    warn!(
                        "more broadcasts have ended than can be looked after: of one it is not told that it is stored"
                    );
                }
                self.hooks.tell(event);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Looks whether what has ended is stored.
    async fn find(&self, mut ended: mpsc::Receiver<Ending>) {
        let unseen = |row: &BroadcastRow| Ending {
            stream: row.stream.clone(),
            broadcast: row.id.clone(),
            since: now(),
            unseen: true,
        };
        let mut endings: Vec<_> = self.open.iter().map(unseen).collect();
        loop {
            let mut left = Vec::new();
            for ending in endings {
                if !self.found(&ending).await && now() - ending.since < ENDING_FOR {
                    left.push(ending);
                }
            }
            endings = left;
            let room = ENDING.saturating_sub(endings.len());
            if endings.is_empty() {
                endings.extend(ended.recv().await);
            } else if room > 0 {
                let soon = endings.iter().any(|ending| now() - ending.since < ENDING_SOON);
                let pause = if soon { LOOK } else { ENDING_LOOK };
                let next = tokio::time::timeout(pause, ended.recv()).await;
                endings.extend(next.ok().flatten());
            } else {
                tokio::time::sleep(ENDING_LOOK).await;
            }
        }
    }

    /// Tells that a broadcast is stored; `false` when it is to be looked for again.
    async fn found(&self, ending: &Ending) -> bool {
        let row = match self.meta.broadcast(&ending.stream, &ending.broadcast).await {
            Ok(Some(row)) => row,
            // It is not there, or deleted already.
            Ok(None) => return true,
            Err(_) => return false,
        };
        // What was taken up is seen when it ends, here or where it is.
        let Some(ended) = row.ended else { return ending.unseen };
        if row.deleted.is_some() || row.renditions.is_empty() {
            return true;
        }
        let (stream, broadcast, started) = (row.stream.clone(), row.id.clone(), row.started);
        let event = |kind| {
            let event = Event::of(kind, unix_now(), stream.clone(), broadcast.clone());
            event.with("started", started.to_string()).with("ended", ended.to_string())
        };
        let summary = match self.library.broadcast(row).await {
            Ok(shown) => shown.summary,
            Err(why) => {
                debug!(%stream, %broadcast, %why, "it cannot be told yet that a broadcast is stored");
                return false;
            }
        };
        if ending.unseen {
            self.hooks.tell(event(Kind::StreamEnded));
        }
        // Where nothing was kept nothing is stored.
        if let Some(summary) = summary {
            let stored = event(Kind::BroadcastStored).with("duration_s", summary.duration_ms as f64 / 1000.0);
            self.hooks.tell(stored.with("bytes", summary.bytes).with("gaps", summary.gaps));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(broadcast: &str) -> Sight {
        Sight {
            stream: "alice".parse().unwrap(),
            broadcast: broadcast.parse().unwrap(),
            started: UnixMs(0),
            ended: false,
            playable: false,
            restored: false,
            renditions: vec!["source".into()],
            warnings: Vec::new(),
        }
    }

    fn ids(watch: &mut Watch, sights: &[Sight]) -> Vec<String> {
        watch.look(UnixMs(0), sights).iter().map(Event::id).collect()
    }

    #[test]
    fn a_broadcast_is_live_once_and_ends_once() {
        let mut watch = Watch::new("n");
        assert!(ids(&mut watch, &[sight("a")]).is_empty());
        let playable = Sight { playable: true, ..sight("a") };
        assert_eq!(ids(&mut watch, std::slice::from_ref(&playable)), ["stream_live_a"]);
        // The encoder comes back within the broadcast.
        assert!(ids(&mut watch, std::slice::from_ref(&playable)).is_empty());
        let ended = Sight { ended: true, ..playable };
        assert_eq!(ids(&mut watch, std::slice::from_ref(&ended)), ["stream_ended_a"]);
        assert!(ids(&mut watch, &[ended]).is_empty());
        // The next show comes at once.
        assert!(ids(&mut watch, &[sight("b")]).is_empty());
        assert_eq!(ids(&mut watch, &[Sight { playable: true, ..sight("b") }]), ["stream_live_b"]);
        assert!(watch.look(UnixMs(0), &[]).is_empty() && watch.shows.is_empty());
    }

    #[test]
    fn what_another_node_has_told_is_not_told_again() {
        // Taken up from the store, or from a node that is gone.
        for first in [
            Sight { playable: true, restored: true, ..sight("a") },
            Sight { playable: true, ..sight("a") },
            Sight { restored: true, ..sight("a") },
        ] {
            let mut watch = Watch::new("n");
            assert!(ids(&mut watch, std::slice::from_ref(&first)).is_empty());
            let playable = Sight { playable: true, ..first };
            assert!(ids(&mut watch, std::slice::from_ref(&playable)).is_empty());
            assert_eq!(ids(&mut watch, &[Sight { ended: true, ..playable }]), ["stream_ended_a"]);
        }
        // What nobody could play did not end either.
        let mut watch = Watch::new("n");
        assert!(ids(&mut watch, &[sight("a")]).is_empty());
        assert!(ids(&mut watch, &[Sight { ended: true, ..sight("a") }]).is_empty());
    }

    #[test]
    fn each_warning_of_a_broadcast_is_told_once() {
        let mut watch = Watch::new("n");
        let warned = |code| Sight { warnings: vec![(code, "text".into(), "fix".into())], ..sight("a") };
        assert_eq!(ids(&mut watch, &[warned("open_gop")]), ["health_warning_a_open_gop"]);
        assert!(ids(&mut watch, &[warned("open_gop")]).is_empty());
        assert_eq!(ids(&mut watch, &[warned("audio_back")]), ["health_warning_a_audio_back"]);
        assert!(ids(&mut watch, &[warned("open_gop")]).is_empty());
    }

    #[test]
    fn a_trouble_that_comes_and_goes_is_told_as_one() {
        let mut watch = Watch::new("n");
        let mut at = |second: u64, why: Option<&str>| {
            let (now, today) = (Timestamp(second * 1_000_000), UnixMs(second as i64 * 1000));
            watch.trouble(now, today, "store", why.map(str::to_owned)).map(|event| event.id())
        };
        assert_eq!(at(1, None), None);
        assert_eq!(at(2, Some("full")).as_deref(), Some("health_warning_n_store_2000_begins"));
        assert_eq!(at(3, Some("full")), None);
        assert_eq!(at(4, None), None);
        assert_eq!(at(12, Some("full")), None);
        assert_eq!(at(21, None), None);
        assert_eq!(at(22, None).as_deref(), Some("health_warning_n_store_2000_ends"));
        assert_eq!(at(23, None), None);
        assert_eq!(at(24, Some("full")).as_deref(), Some("health_warning_n_store_24000_begins"));
    }
}
