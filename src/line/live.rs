//! What a line shows to viewers: immutable snapshots, replaced as a whole at every change.

use std::{
    collections::BTreeMap,
    io::Write,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use hyper::header::HeaderValue;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::meter::Meter;
use crate::{
    cluster::feed::Places,
    id::{BroadcastId, Rendition, StreamId},
    media::{Mode, Pieces, timeline::Warning},
    package::{
        AudioVariant, Chunk, Extent, History, Part, Report, Variant, Window,
        playlist::{self, Kind, Listing},
    },
    store::RenditionRow,
    time::UnixMs,
};

/// A text as it goes over the wire: rendered once per version, compressed at most once, shared by all viewers.
#[derive(Debug)]
pub struct Text {
    pub body: Bytes,
    /// Strong entity tag of the text, quoted.
    pub etag: HeaderValue,
    /// The same of its compressed form.
    pub etag_gzip: HeaderValue,
    gzip: OnceLock<Bytes>,
}

impl Text {
    pub fn new(body: String) -> Self {
        let hash = Sha256::digest(body.as_bytes());
        let hash = hash[..8].iter().map(|b| format!("{b:02x}")).collect::<String>();
        let tag = |kind: &str| HeaderValue::try_from(format!("\"{kind}{hash}\"")).expect("hex digits");
        Self { body: body.into(), etag: tag(""), etag_gzip: tag("z"), gzip: OnceLock::new() }
    }

    pub fn gzip(&self) -> &Bytes {
        self.gzip.get_or_init(|| {
            let mut encoder = GzEncoder::new(Vec::with_capacity(self.body.len() / 2), Compression::default());
            encoder.write_all(&self.body).expect("writing to memory cannot fail");
            encoder.finish().expect("writing to memory cannot fail").into()
        })
    }
}

/// Renders the multivariant playlist of these renditions. `prefix` leads to their folders.
pub fn multivariant(rows: &[RenditionRow], prefix: &str, extent: &Extent) -> Text {
    let (audio, video): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.name == Rendition::audio());
    let variants: Vec<_> = video.into_iter().map(Variant::from).collect();
    let audio = audio.first().map(|row| AudioVariant::from(*row));
    let file = if matches!(extent, Extent::Clip(_)) { "clip.m3u8" } else { "index.m3u8" };
    let uri = |name: &Rendition, listing| match listing {
        Listing::Media => format!("{prefix}{name}/{file}{extent}"),
        Listing::Iframes => format!("{prefix}{name}/iframes.m3u8{extent}"),
    };
    Text::new(playlist::multivariant(&variants, audio.as_ref(), uri))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// A publisher is connected and its media is being cut.
    Live,
    /// The publisher is gone and may come back within the reconnect window.
    Away,
    /// The broadcast is over.
    Ended,
}

/// One stream's running broadcast.
#[derive(Debug, Clone)]
pub struct Live {
    pub stream: StreamId,
    pub broadcast: BroadcastId,
    pub started: UnixMs,
    pub state: State,
    pub mode: Option<Mode>,
    pub epoch: u64,
    /// The first chunk number in memory, where the broadcast was taken up from the store: those before are there alone.
    pub restored: Option<u64>,
    /// The newest chunk number listed.
    pub k: Option<u64>,
    /// Absent until every rendition that is coming has its first chunk.
    pub multivariants: Option<Arc<Multivariants>>,
    /// Names of the renditions that the multivariant playlist offers.
    pub offered: Vec<Rendition>,
    pub renditions: BTreeMap<Rendition, Shown>,
    /// What the streamer should know.
    pub warnings: Vec<Warning>,
    /// Rungs that this node cannot afford now.
    pub shed: Vec<Rendition>,
    /// Which nodes its session is at, where others have to do with it.
    pub places: Option<Arc<Places>>,
    /// What comes in.
    pub meter: Arc<Meter>,
}

/// The multivariant playlist of one moment: with URIs relative to the stream's folder and to the broadcast's, of the window
/// and from the start.
#[derive(Debug)]
pub struct Multivariants([Text; 4]);

impl Multivariants {
    pub(super) fn new(rows: &[RenditionRow], broadcast: &BroadcastId) -> Self {
        let outside = format!("{broadcast}/");
        let text = |prefix: &str, extent| multivariant(rows, prefix, &extent);
        Self([
            text(&outside, Extent::Window),
            text(&outside, Extent::FromStart),
            text("", Extent::Window),
            text("", Extent::FromStart),
        ])
    }

    /// The one that lies in the broadcast's folder (`inside`) or in the stream's.
    pub fn get(&self, inside: bool, extent: &Extent) -> &Text {
        &self.0[usize::from(inside) * 2 + usize::from(*extent == Extent::FromStart)]
    }
}

/// One rendition of a running broadcast, as it changes.
#[derive(Debug, Clone)]
pub struct Shown(pub(super) watch::Receiver<Arc<LiveRendition>>);

impl Shown {
    pub fn now(&self) -> Arc<LiveRendition> {
        self.0.borrow().clone()
    }

    /// Waits until the rendition is as wished; gives its last state when the broadcast goes away before. Costs nothing
    /// but memory meanwhile: each change of this rendition alone wakes.
    pub async fn when(&self, wish: impl FnMut(&Arc<LiveRendition>) -> bool) -> Arc<LiveRendition> {
        let mut changes = self.0.clone();
        match changes.wait_for(wish).await {
            Ok(shown) => shown.clone(),
            Err(_) => self.now(),
        }
    }
}

/// One rendition of a running broadcast at one moment.
#[derive(Debug)]
pub struct LiveRendition {
    pub row: RenditionRow,
    pub window: Window,
    /// All that was listed here, the window's entries too.
    pub history: History,
    /// How far the others are.
    pub(super) reports: Vec<Report>,
    /// Chunks that are in memory.
    pub(super) chunks: Arc<Vec<Chunk>>,
    /// The chunk that is being made.
    pub(super) open: Option<Progress>,
    /// Init segments in use, by hash.
    pub(super) inits: Vec<(Arc<str>, Bytes)>,
    pub(super) texts: Texts,
}

/// The playlists of one moment, written when someone asks.
#[derive(Debug, Default)]
pub struct Texts {
    whole: OnceLock<Text>,
    delta: OnceLock<Option<Text>>,
    from_start: OnceLock<Text>,
    from_start_delta: OnceLock<Option<Text>>,
    iframes: OnceLock<Text>,
    iframes_from_start: OnceLock<Text>,
}

/// The parts of a chunk that is being made.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    pub k: u64,
    pub epoch: u64,
    pub init: Arc<str>,
    pub parts: Vec<Part>,
}

impl LiveRendition {
    /// The media playlist; nothing before the first chunk. With `skip`, the delta update where there can be one.
    pub fn playlist(&self, skip: bool) -> Option<&Text> {
        self.window.next_k()?;
        let (window, reports) = (&self.window, &self.reports);
        let delta = || self.texts.delta.get_or_init(|| playlist::delta(window, reports).map(Text::new)).as_ref();
        let whole = || self.texts.whole.get_or_init(|| Text::new(playlist::media(window, reports)));
        if skip { delta() } else { None }.or_else(|| Some(whole()))
    }

    /// The same from the broadcast's start. `before` is what was listed before this node had it.
    pub fn from_start(&self, skip: bool, before: &[History]) -> Option<&Text> {
        self.window.next_k()?;
        let (window, reports, texts) = (&self.window, &self.reports, &self.texts);
        let until = window.media_sequence();
        let past: Vec<_> = before.iter().chain([&self.history]).map(|history| history.slice(0, until)).collect();
        let delta = || playlist::from_start_delta(&past, window, reports).map(Text::new);
        let delta = || texts.from_start_delta.get_or_init(delta).as_ref();
        let whole = || texts.from_start.get_or_init(|| Text::new(playlist::from_start(&past, window, reports)));
        if skip { delta() } else { None }.or_else(|| Some(whole()))
    }

    /// The I-frame playlist of what the window lists, or with `before` from the broadcast's start; nothing of audio, or before
    /// the first chunk.
    pub fn iframes(&self, before: Option<&[History]>) -> Option<&Text> {
        let window = &self.window;
        window.next_k().filter(|_| self.row.iframe_bps > 0)?;
        let (texts, target, ended) = (&self.texts, window.target(), window.ended());
        let Some(before) = before else {
            let listed = [self.history.slice(window.media_sequence(), u64::MAX)];
            return Some(
                texts.iframes.get_or_init(|| Text::new(playlist::iframes(Kind::Live, &listed, target, ended))),
            );
        };
        let listed: Vec<_> = before.iter().chain([&self.history]).map(History::all).collect();
        let whole = || Text::new(playlist::iframes(Kind::FromStart, &listed, target, ended));
        Some(texts.iframes_from_start.get_or_init(whole))
    }

    /// The bytes of chunk `k` as `epoch` wrote it, or as the valid epoch did when that one is not here.
    pub fn chunk(&self, k: u64, epoch: u64) -> Option<Pieces> {
        // Of some only the parts are here, and the store has the whole.
        let mut of_k = self.chunks.iter().filter(|c| c.k == k && !c.bytes.is_empty());
        let exact = of_k.clone().find(|c| c.epoch == epoch);
        // Only names that were given out once: each other one would be one more copy in every cache.
        exact.or_else(|| of_k.next_back().filter(|valid| epoch < valid.epoch)).map(|c| c.bytes.clone())
    }

    /// The bytes of a part, also by the name that an owner before gave it: it has the same frames.
    pub fn part(&self, k: u64, epoch: u64, part: usize) -> Option<Pieces> {
        let is_it = |number, valid| number == k && epoch <= valid;
        let done = self.chunks.iter().rfind(|c| is_it(c.k, c.epoch)).map(|c| &c.parts[..]);
        let open = self.open.as_ref().filter(|open| is_it(open.k, open.epoch)).map(|open| &open.parts[..]);
        done.or(open)?.get(part).map(|part| part.bytes.clone())
    }

    /// Whether this part is the one that the playlist hints at.
    pub fn is_hinted(&self, k: u64, epoch: u64, part: usize) -> bool {
        self.window.open().is_some_and(|open| (open.k, open.parts.len()) == (k, part) && epoch <= open.epoch)
    }

    pub fn init(&self, hash: &str) -> Option<Bytes> {
        self.inits.iter().find(|(name, _)| &**name == hash).map(|(_, bytes)| bytes.clone())
    }
}
