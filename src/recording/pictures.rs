//! Pictures of a broadcast: its poster, and the tiles of its storyboard. They are made of recorded chunks' key frames when someone
//! asks, of the smallest rendition that will do, and kept in memory; caches and edges keep them, too. So a stream that nobody
//! looks at costs nothing, and there is nothing to store, move or delete.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use quick_cache::{Weighter, sync::Cache};
use tracing::warn;

use super::{Archive, Recording, Refused, Track};
use crate::{
    id::{BroadcastId, Rendition, StreamId},
    line::{Lines, Stores, Text},
    media::VideoConfig,
    package::{
        history::Place,
        progressive::{InitInfo, first_sample},
        storyboard::{self, COLUMNS, Sheet, Size, TILES, Tile},
    },
    store::{self, blob_name},
    time::{UnixMs, unix_now},
    transcode::{Stills, still},
};

/// How long a picture of what is live stands for it, seconds of the wall clock.
const LIVE_SECONDS: u64 = 30;
/// The longer side of a poster, pixels, and the least height of what it is made from.
const POSTER_SIDE: u32 = 640;
const POSTER_LINES: u32 = 360;
/// Where in a recording its poster is looked for: of these the picture with most to see, which takes most bytes, is taken. At
/// its ends most broadcasts say that they begin or are over.
const POSTER_AT: [(i64, i64); 4] = [(1, 3), (1, 4), (1, 2), (2, 3)];
/// The newest chunks of which one is tried after the other while it is live: the very last may not be all there.
const NEWEST: usize = 3;
/// Key frames that are read at the same time.
const READS: usize = 8;
/// Memory for pictures: some thousand sheets.
const KEPT_BYTES: u64 = 64 << 20;
const KEPT: usize = 2000;

/// A picture, or what tells of pictures, as a URL names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Picture {
    /// `poster.jpg`.
    Poster,
    /// `storyboard.vtt`.
    Storyboard,
    /// `storyboard-{index}.{tiles}.jpg`.
    Sheet(Sheet),
}

impl Picture {
    /// Reads a file's name; none of other names.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "poster.jpg" => Some(Self::Poster),
            "storyboard.vtt" => Some(Self::Storyboard),
            sheet => Sheet::parse(sheet).map(Self::Sheet),
        }
    }
}

impl fmt::Display for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Poster => f.write_str("poster.jpg"),
            Self::Storyboard => f.write_str("storyboard.vtt"),
            Self::Sheet(sheet) => write!(f, "{sheet}"),
        }
    }
}

/// What a picture is of: a broadcast, and of one that goes on as far as it was.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key(StreamId, BroadcastId, Picture, u64);

#[derive(Debug, Clone)]
enum Kept {
    Jpeg(Bytes),
    Text(Arc<Text>),
}

#[derive(Clone)]
struct Weights;

impl Weighter<Key, Kept> for Weights {
    fn weight(&self, _: &Key, kept: &Kept) -> u64 {
        200 + match kept {
            Kept::Jpeg(bytes) => bytes.len() as u64,
            // With its compressed form.
            Kept::Text(text) => text.body.len() as u64 * 5 / 4,
        }
    }
}

/// Makes and keeps pictures. Cheap to clone.
#[derive(Clone)]
pub struct Pictures {
    stores: Stores,
    lines: Lines,
    archive: Arc<Archive>,
    stills: Stills,
    kept: Arc<Cache<Key, Kept, Weights>>,
}

impl Pictures {
    pub fn new(stores: Stores, lines: Lines, archive: Arc<Archive>, stills: Stills) -> Self {
        Self { stores, lines, archive, stills, kept: Arc::new(super::cache(KEPT, KEPT_BYTES, Weights)) }
    }

    /// The poster: of what is live a picture of now, of a recording always the same.
    pub async fn poster(&self, recording: &Recording) -> Result<Bytes, Refused> {
        let at = match recording.ended {
            Some(_) => u64::MAX,
            None => live_turn(unix_now()),
        };
        self.jpeg(recording, Picture::Poster, at, self.make_poster(recording)).await
    }

    /// The text of a storyboard: which tile of which sheet is of which time.
    pub async fn storyboard(&self, recording: &Recording) -> Result<Arc<Text>, Refused> {
        let (count, duration) = tiles(recording);
        let make = async {
            let size = tile_size(recording).ok_or(Refused::Nothing)?;
            let text = storyboard::render(&chosen(recording, count), size, duration);
            Ok::<_, Refused>(Kept::Text(Arc::new(Text::new(text))))
        };
        let version = if recording.ended.is_some() { u64::MAX } else { count as u64 };
        match self.kept.get_or_insert_async(&key(recording, Picture::Storyboard, version), make).await? {
            Kept::Text(text) => Ok(text),
            Kept::Jpeg(_) => Err(Refused::Nothing),
        }
    }

    /// A sheet of a storyboard's tiles.
    pub async fn sheet(&self, recording: &Recording, sheet: Sheet) -> Result<Bytes, Refused> {
        let (count, _) = tiles(recording);
        let range = sheet.range();
        // A sheet that is not whole is the last one, as it is or was.
        let whole = range.start + TILES as usize;
        if range.end > count
            || (sheet.tiles < TILES && (whole <= count || recording.ended.is_some() && range.end != count))
        {
            return Err(Refused::Nothing);
        }
        let make = async {
            let Size { width, height } = tile_size(recording).ok_or(Refused::Nothing)?;
            let rows = sheet.tiles.div_ceil(COLUMNS);
            let tiles = chosen(recording, count).into_iter().skip(range.start).take(range.len()).enumerate();
            let tiles = tiles.filter_map(|(cell, tile)| Some((cell as u32, tile?)));
            self.make(recording, still::Layout { width, height, columns: COLUMNS, rows }, tiles.collect()).await
        };
        self.jpeg(recording, Picture::Sheet(sheet), 0, make).await
    }

    async fn jpeg(
        &self,
        recording: &Recording,
        picture: Picture,
        version: u64,
        make: impl Future<Output = Result<Bytes, Refused>>,
    ) -> Result<Bytes, Refused> {
        let make = async { Ok::<_, Refused>(Kept::Jpeg(make.await?)) };
        match self.kept.get_or_insert_async(&key(recording, picture, version), make).await? {
            Kept::Jpeg(bytes) => Ok(bytes),
            Kept::Text(_) => Err(Refused::Nothing),
        }
    }

    async fn make_poster(&self, recording: &Recording) -> Result<Bytes, Refused> {
        let track = poster_track(recording).ok_or(Refused::Nothing)?;
        let Size { width, height } = Size::within(POSTER_SIDE, track.row.width, track.row.height);
        let layout = still::Layout { width, height, columns: 1, rows: 1 };
        let mut last = Refused::Nothing;
        for tile in poster_tiles(recording, track) {
            match self.make(recording, layout, vec![(0, tile)]).await {
                Err(why @ (Refused::Nothing | Refused::NoPicture(_))) => last = why,
                made => return made,
            }
        }
        Err(last)
    }

    /// Makes a JPEG of chunks' first pictures, each with its cell. What cannot be read is left black.
    async fn make(
        &self,
        recording: &Recording,
        layout: still::Layout,
        tiles: Vec<(u32, Tile)>,
    ) -> Result<Bytes, Refused> {
        let place = self.stills.place().map_err(|_| Refused::NoTime)?;
        let read = stream::iter(tiles).map(|(cell, tile)| async move {
            match self.picture(recording, &tile).await {
                Ok((config, payload)) => Ok(Some(still::Picture { cell, config, payload })),
                // It is there, and a later try shows it.
                Err(why @ (store::Error::Unavailable(_) | store::Error::Unfit(_))) => Err(Refused::Store(why)),
                Err(why) => {
                    let Tile { rendition, place, .. } = tile;
                    warn!(stream = %recording.stream, broadcast = %recording.id, %rendition, k = place.k, %why, "a chunk has no picture");
                    Ok(None)
                }
            }
        });
        let pictures: Vec<_> =
            read.buffered(READS).try_filter_map(|picture| async { Ok(picture) }).try_collect().await?;
        if pictures.is_empty() {
            return Err(Refused::Nothing);
        }
        self.stills.make(place, layout, pictures).await.map_err(|why| match why {
            still::Error::Busy => Refused::NoTime,
            still::Error::Failed(why) => Refused::NoPicture(why),
        })
    }

    /// A chunk's first picture, from memory while it is there.
    async fn picture(&self, recording: &Recording, tile: &Tile) -> store::Result<(VideoConfig, Bytes)> {
        let Recording { stream, id, .. } = recording;
        let Tile { rendition, place, init } = tile;
        let Place { k, epoch, size, .. } = *place;
        let live = self.lines.live(stream).filter(|live| live.broadcast == *id);
        let shown = live.and_then(|live| live.renditions.get(rendition).map(|shown| shown.now()));
        let (chunk, init_bytes) = shown.map_or((None, None), |shown| (shown.chunk(k, epoch), shown.init(init)));
        let head = match chunk.filter(|chunk| chunk.len() >= size.iframe as usize) {
            Some(chunk) => chunk.slice(0..size.iframe as usize).joined(),
            None => {
                let name = blob_name(stream, id, rendition, k, epoch);
                self.stores.blobs.get_range(&name, 0..size.iframe.into()).await?
            }
        };
        let init_bytes = match init_bytes {
            Some(bytes) => bytes,
            None => self.archive.init(stream, id, rendition, init).await?,
        };
        let damaged = |why: &dyn fmt::Display| store::Error::Damaged(why.to_string());
        let info = Arc::new(InitInfo::parse(&init_bytes).map_err(|why| damaged(&why))?);
        let avcc = info.avcc().ok_or_else(|| damaged(&"the init segment holds no H.264"))?;
        let config = VideoConfig::parse(avcc).map_err(|why| damaged(&why))?;
        let payload = first_sample(&head, &info, size.bytes.into()).map_err(|why| damaged(&why))?;
        Ok((config, payload))
    }
}

/// The turn of pictures of what is live, the same for everyone.
fn live_turn(now: UnixMs) -> u64 {
    now.0.max(0) as u64 / (LIVE_SECONDS * 1000)
}

/// Seconds until the next turn begins.
pub fn live_left(now: UnixMs) -> u64 {
    LIVE_SECONDS - (now.0.max(0) as u64 / 1000) % LIVE_SECONDS
}

fn key(recording: &Recording, picture: Picture, version: u64) -> Key {
    Key(recording.stream.clone(), recording.id.clone(), picture, version)
}

/// How many tiles there are, and how long the broadcast is, 90 kHz.
fn tiles(recording: &Recording) -> (usize, i64) {
    let duration = recording.end() - recording.zero;
    (storyboard::count(duration, recording.ended.is_some()), duration)
}

/// The renditions with pictures, the smallest first.
fn with_pictures(recording: &Recording) -> Vec<&Track> {
    let mut tracks: Vec<_> = recording.tracks().iter().filter(|track| track.row.width > 0).collect();
    tracks.sort_by_key(|track| u64::from(track.row.width) * u64::from(track.row.height));
    tracks
}

/// The shape of tiles is that of the smallest rendition; what is shaped otherwise gets borders.
fn tile_size(recording: &Recording) -> Option<Size> {
    let row = &with_pictures(recording).first()?.row;
    Some(Size::of_tile(row.width, row.height))
}

fn chosen(recording: &Recording, count: usize) -> Vec<Option<Tile>> {
    let tracks = with_pictures(recording);
    storyboard::choose(tracks.iter().map(|track| (&track.row.name, track.listed())), recording.zero, count)
}

/// The smallest rendition that fills a poster, or the largest.
fn poster_track(recording: &Recording) -> Option<&Track> {
    let tracks = with_pictures(recording);
    let fills = |track: &&&Track| track.row.width.min(track.row.height) >= POSTER_LINES;
    tracks.iter().find(fills).or(tracks.last()).copied()
}

/// The chunks whose first picture may be the poster, the best first.
fn poster_tiles(recording: &Recording, track: &Track) -> Vec<Tile> {
    let tile = |(place, init): (Place, &str)| {
        let rendition: Rendition = track.row.name.clone();
        Tile { rendition, place, init: init.to_owned() }
    };
    let has_picture = |(place, _): &(Place, &str)| !place.gap && place.size.iframe > 0;
    if recording.ended.is_none() {
        return track.listed().rev().filter(has_picture).take(NEWEST).map(tile).collect();
    }
    let (zero, duration) = (recording.zero, recording.end() - recording.zero);
    let mut tiles: Vec<_> = POSTER_AT
        .iter()
        .filter_map(|(share, of)| {
            let at = zero + duration * share / of;
            track.listed().filter(has_picture).find(|(place, _)| place.end() > at).map(tile)
        })
        .collect();
    if tiles.is_empty() {
        tiles.extend(track.listed().find(has_picture).map(tile));
    }
    tiles.sort_by_key(|tile| std::cmp::Reverse(tile.place.size.iframe));
    tiles.dedup();
    tiles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pictures_are_read_and_written() {
        for name in ["poster.jpg", "storyboard.vtt", "storyboard-0.1.jpg", "storyboard-345.25.jpg"] {
            assert_eq!(Picture::parse(name).unwrap().to_string(), name);
        }
        for other in ["poster.png", "index.m3u8", "storyboard.jpg", "storyboard-0.26.jpg"] {
            assert_eq!(Picture::parse(other), None, "{other}");
        }
    }

    #[test]
    fn pictures_of_what_is_live_change_at_the_same_moments_for_all() {
        assert_eq!((live_turn(UnixMs(29_999)), live_left(UnixMs(29_999))), (0, 1));
        assert_eq!((live_turn(UnixMs(30_000)), live_left(UnixMs(30_000))), (1, 30));
    }
}
