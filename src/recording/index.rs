//! What of a broadcast can be watched again: one index, of which the whole recording, a rewind and a clip are different
//! bounds. It comes from the memory of a line while the broadcast is live, and from the store's rows.

use std::sync::{Arc, OnceLock};

use crate::{
    id::{BroadcastId, Rendition, StreamId},
    line::{Live, Text, live::multivariant},
    package::{
        Clip, Extent, History, Slice,
        history::Place,
        playlist::{self, Kind},
    },
    store::{RenditionRow, Summary},
    time::UnixMs,
};

/// Ticks of the broadcast's timeline in a millisecond.
const MS: i64 = 90;

/// A broadcast as far as it is recorded. Never changes.
#[derive(Debug)]
pub struct Recording {
    pub stream: StreamId,
    pub id: BroadcastId,
    pub started: UnixMs,
    pub ended: Option<UnixMs>,
    /// EXT-X-TARGETDURATION, seconds.
    pub target: u32,
    /// Start of the first chunk on the broadcast's timeline, 90 kHz: where its time is zero for people.
    pub zero: i64,
    /// Those that have a chunk; never empty.
    tracks: Vec<Track>,
}

/// One rendition of it.
#[derive(Debug)]
pub struct Track {
    pub row: RenditionRow,
    /// In order, without a break between: what was stored before a restart, and what was listed since.
    histories: Vec<History>,
    /// The playlists of all of it.
    text: OnceLock<Arc<Text>>,
    iframes: OnceLock<Arc<Text>>,
}

/// The chunks of a rendition that hold something of a clip.
#[derive(Debug)]
pub struct Cut<'a> {
    pub slices: Vec<Slice<'a>>,
    /// The clip on the broadcast's timeline, 90 kHz; nothing where all is wanted.
    pub bounds: Option<(i64, i64)>,
}

impl Track {
    pub fn new(row: RenditionRow, histories: Vec<History>) -> Self {
        let histories = histories.into_iter().filter(|history| !history.is_empty()).collect();
        Self { row, histories, text: OnceLock::new(), iframes: OnceLock::new() }
    }

    /// What there is; while its encoder stays away, gaps are listed that are none of a recording.
    fn all(&self) -> Vec<Slice<'_>> {
        let mut slices: Vec<_> = self.histories.iter().map(History::all).collect();
        if let Some(last) = slices.last_mut() {
            *last = last.without_last_gaps();
        }
        slices
    }

    /// Every number with the hash of its init segment.
    pub fn listed(&self) -> impl DoubleEndedIterator<Item = (Place, &str)> {
        self.all().into_iter().flat_map(|slice| slice.listed())
    }

    fn places(&self) -> impl DoubleEndedIterator<Item = Place> {
        self.all().into_iter().flat_map(|slice| slice.places())
    }
}

impl Cut<'_> {
    /// Its chunks and gaps in order.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        self.slices.iter().flat_map(Slice::places)
    }

    fn has_chunks(&self) -> bool {
        self.places().any(|place| !place.gap)
    }
}

impl Recording {
    /// Puts tracks together; those that never had a chunk are left out. Nothing where none has.
    pub fn new(
        stream: StreamId,
        id: BroadcastId,
        (started, ended): (UnixMs, Option<UnixMs>),
        target: u32,
        mut tracks: Vec<Track>,
    ) -> Option<Self> {
        tracks.retain(|track| track.places().next().is_some());
        let zero = tracks.iter().filter_map(|track| Some(track.places().next()?.at)).min()?;
        Some(Self { stream, id, started, ended, target, zero, tracks })
    }

    /// What a running broadcast has so far. `before` is what was recorded before this node had it.
    pub fn of_live(live: &Live, before: Option<&Recording>) -> Option<Self> {
        let mut target = 0;
        let tracks = live.renditions.iter().map(|(name, shown)| {
            let shown = shown.now();
            target = target.max(shown.window.target());
            let earlier = before.map(|before| before.histories(name).to_vec()).unwrap_or_default();
            Track::new(shown.row.clone(), earlier.into_iter().chain([shown.history.clone()]).collect())
        });
        let tracks = tracks.collect();
        Self::new(live.stream.clone(), live.broadcast.clone(), (live.started, None), target, tracks)
    }

    pub fn tracks(&self) -> &[Track] {
        &self.tracks
    }

    /// Where it ends so far on the broadcast's timeline, 90 kHz.
    pub fn end(&self) -> i64 {
        self.tracks.iter().filter_map(|track| Some(track.places().next_back()?.end())).max().unwrap_or(self.zero)
    }

    pub fn renditions(&self) -> impl Iterator<Item = &RenditionRow> {
        self.tracks.iter().map(|track| &track.row)
    }

    /// The best rendition: the largest picture, or the audio where there is none.
    pub fn best(&self) -> Option<&Rendition> {
        let best = self.renditions().max_by_key(|row| (u64::from(row.width) * u64::from(row.height), row.mean_bps));
        best.map(|row| &row.name)
    }

    /// How many chunk numbers it has, of all renditions: tells two states of a running broadcast from each other.
    pub fn chunks(&self) -> usize {
        self.tracks.iter().flat_map(|track| &track.histories).map(History::len).sum()
    }

    fn track(&self, rendition: &Rendition) -> Option<&Track> {
        self.tracks.iter().find(|track| track.row.name == *rendition)
    }

    /// All that a rendition lists; empty where there is no such rendition.
    pub fn histories(&self, rendition: &Rendition) -> &[History] {
        self.track(rendition).map_or(&[], |track| &track.histories)
    }

    /// Milliseconds from the broadcast's start to a time of the wall clock. Nothing before the start.
    pub fn ms_at(&self, wall: UnixMs) -> Option<u64> {
        let earlier = self.tracks.iter().flat_map(Track::places).filter(|place| place.wall <= wall);
        let last = earlier.max_by_key(|place| place.at)?;
        u64::try_from((last.at - self.zero) / MS + (wall.0 - last.wall.0)).ok()
    }

    /// The numbers of the first and last chunk that hold something of a clip. Nothing where no rendition has one.
    pub fn chunks_of(&self, clip: Clip) -> Option<(u64, u64)> {
        let extent = Extent::Clip(clip);
        let cuts = self.renditions().filter_map(|row| self.cut(&row.name, &extent));
        let places: Vec<_> = cuts.flat_map(|cut| cut.places().filter(|place| !place.gap).collect::<Vec<_>>()).collect();
        Some((places.iter().map(|place| place.k).min()?, places.iter().map(|place| place.k).max()?))
    }

    /// The chunks of a rendition that hold something of `extent`. Nothing where there is no such rendition.
    pub fn cut(&self, rendition: &Rendition, extent: &Extent) -> Option<Cut<'_>> {
        let track = self.track(rendition)?;
        let Extent::Clip(Clip { from_ms, to_ms }) = extent else {
            return Some(Cut { slices: track.all(), bounds: None });
        };
        let ticks = |ms: &u64| self.zero + *ms as i64 * MS;
        let (from, to) = (ticks(from_ms), ticks(to_ms));
        let slices = track.histories.iter().map(|history| history.between(from, to).without_last_gaps());
        Some(Cut { slices: slices.filter(|slice| !slice.is_empty()).collect(), bounds: Some((from, to)) })
    }

    /// The multivariant playlist. Nothing where no rendition has a chunk of `extent`.
    pub fn multivariant(&self, extent: &Extent) -> Option<Text> {
        let has = |row: &&RenditionRow| self.cut(&row.name, extent).is_some_and(|cut| cut.has_chunks());
        let rows: Vec<_> = self.renditions().filter(has).cloned().collect();
        (!rows.is_empty()).then(|| multivariant(&rows, "", extent))
    }

    /// A media playlist. Nothing where the rendition has no chunk of `extent`.
    pub fn playlist(&self, rendition: &Rendition, extent: &Extent) -> Option<Arc<Text>> {
        let cut = self.cut(rendition, extent).filter(Cut::has_chunks)?;
        if let Some((from, _)) = cut.bounds {
            let first = cut.places().next()?;
            let start_us = (from - first.at).max(0) as u64 * 1000 / MS as u64;
            return Some(Arc::new(Text::new(playlist::recording(&cut.slices, self.target, Some(start_us)))));
        }
        let whole = || match self.ended {
            Some(_) => playlist::recording(&cut.slices, self.target, None),
            // It may go on: only its end makes it a recording.
            None => playlist::unfinished(&cut.slices, self.target),
        };
        Some(self.track(rendition)?.text.get_or_init(|| Arc::new(Text::new(whole()))).clone())
    }

    /// An I-frame playlist. Nothing where the rendition has no picture of `extent`.
    pub fn iframes(&self, rendition: &Rendition, extent: &Extent) -> Option<Arc<Text>> {
        let track = self.track(rendition).filter(|track| track.row.iframe_bps > 0)?;
        let cut = self.cut(rendition, extent).filter(Cut::has_chunks)?;
        let is_clip = cut.bounds.is_some();
        // One that may go on is neither a recording nor at its end.
        let ended = is_clip || self.ended.is_some();
        let kind = if ended { Kind::Recording } else { Kind::Live };
        let text = || Arc::new(Text::new(playlist::iframes(kind, &cut.slices, self.target, ended)));
        Some(if is_clip { text() } else { track.iframes.get_or_init(text).clone() })
    }

    pub fn summary(&self) -> Summary {
        let mut summary = Summary { zero: self.zero, ..Summary::default() };
        let mut fewest = None;
        for track in &self.tracks {
            let (mut gaps, mut gaps_us, mut end) = (0, 0, 0);
            for place in track.places() {
                summary.bytes += u64::from(place.size.bytes);
                gaps += u64::from(place.gap);
                gaps_us += if place.gap { place.duration_us } else { 0 };
                end = place.end();
            }
            summary.duration_ms = summary.duration_ms.max((end - self.zero).max(0) as u64 / MS as u64);
            fewest = fewest.into_iter().chain([(gaps, gaps_us / 1000)]).min();
        }
        (summary.gaps, summary.gaps_ms) = fewest.unwrap_or_default();
        summary
    }

    /// About how much memory it takes, bytes: the index, and playlists that are about as long each.
    pub fn weight(&self) -> u64 {
        let histories = self.tracks.iter().flat_map(|track| &track.histories);
        1000 + 3 * histories.map(History::weight).sum::<usize>() as u64
    }
}
