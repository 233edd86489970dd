//! Tells other nodes what a pushed stream lists, so that they fetch it before their viewers ask.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::broadcast;

use super::Live;
use crate::id::{BroadcastId, Rendition};

/// Announcements that a slow listener may be behind; what is older it misses, and fetches when it is asked.
pub const BACKLOG: usize = 1024;

/// Paths of new objects, `/hls/...`.
pub type Announcements = broadcast::Sender<Arc<str>>;

/// What was told of one stream.
#[derive(Default)]
pub struct Announcer {
    broadcast: Option<BroadcastId>,
    /// The newest chunk and the init segment, by rendition.
    told: BTreeMap<Rendition, (u64, Arc<str>)>,
}

impl Announcer {
    /// Announces what `live` lists and did not list before: of a rendition that is new, the newest chunk only.
    pub fn announce(&mut self, live: &Live, to: &Announcements) {
        if self.broadcast.as_ref() != Some(&live.broadcast) {
            *self = Self { broadcast: Some(live.broadcast.clone()), ..Self::default() };
        }
        for (rendition, shown) in &live.renditions {
            let folder = format!("/hls/{}/{}/{rendition}", live.stream, live.broadcast);
            let shown = shown.now();
            let entries = shown.window.entries();
            let Some(newest) = entries.last() else { continue };
            let (told, init) = match self.told.get(rendition) {
                Some((k, init)) => (k + 1, init.clone()),
                None => (newest.k, "".into()),
            };
            // Nobody listens any more between two looks at the count: nothing to mend.
            let tell = |name: String| _ = to.send(format!("{folder}/{name}").into());
            if newest.init != init && !newest.gap {
                tell(format!("init-{}.mp4", newest.init));
            }
            for entry in entries.iter().filter(|entry| entry.k >= told && !entry.gap) {
                tell(format!("{}.{}.m4s", entry.k, entry.epoch));
            }
            let init = if newest.gap { init } else { newest.init.clone() };
            self.told.insert(rendition.clone(), (newest.k, init));
        }
    }
}
