//! Small pictures of a broadcast for a time line: sheets of tiles, one tile for every ten seconds, and a WebVTT text that
//! says which tile of which sheet belongs to which time (`storyboard-0.25.jpg#xywh=160,0,160,90`). Pure: chooses chunks and
//! writes text; who makes the pictures decodes them.

use std::fmt::{self, Write};

use super::history::Place;
use crate::{id::Rendition, media::VIDEO_TIMESCALE};

/// Time that a tile stands for, 90 kHz.
const SLOT: i64 = 10 * VIDEO_TIMESCALE as i64;
/// A chunk that starts so much before a tile's time is its first: chunks start at pictures, not at whole seconds.
const EARLY: i64 = VIDEO_TIMESCALE as i64 / 2;
/// Tiles in a row, and rows in a sheet.
pub const COLUMNS: u32 = 5;
const ROWS: u32 = 5;
/// Tiles of a whole sheet.
pub const TILES: u32 = COLUMNS * ROWS;
/// The longer side of a tile, pixels.
const TILE_SIDE: u32 = 160;

/// Size of a picture, pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub width: u32,
    pub height: u32,
}

impl Size {
    /// The size of a tile for pictures of this size.
    pub fn of_tile(width: u32, height: u32) -> Self {
        Self::within(TILE_SIDE, width, height)
    }

    /// The largest size of this shape whose sides are at most `side`, and no larger than it is. Widths are whole multiples of
    /// four, as rows of pixels are laid out, and heights are even.
    pub fn within(side: u32, width: u32, height: u32) -> Self {
        let (width, height) = (width.max(1), height.max(1));
        let side = side.min(width.max(height));
        let scale = |length: u32| u64::from(length) * u64::from(side) / u64::from(width.max(height));
        let (width, height) = (scale(width) as u32, scale(height) as u32);
        Self { width: (width & !3).max(4), height: (height & !1).max(2) }
    }
}

/// A sheet by its name, which says how many tiles it has: with one more it is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sheet {
    pub index: u32,
    pub tiles: u32,
}

impl Sheet {
    /// Reads the name; none of other names.
    pub fn parse(name: &str) -> Option<Self> {
        let (index, tiles) = name.strip_prefix("storyboard-")?.strip_suffix(".jpg")?.split_once('.')?;
        let number = |text: &str| text.parse::<u32>().ok().filter(|number| number.to_string() == text);
        let sheet = Self { index: number(index)?, tiles: number(tiles)? };
        (1..=TILES).contains(&sheet.tiles).then_some(sheet)
    }

    /// The tiles that it shows, counted from the broadcast's first.
    pub fn range(&self) -> std::ops::Range<usize> {
        let first = self.index as usize * TILES as usize;
        first..first + self.tiles as usize
    }
}

impl fmt::Display for Sheet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "storyboard-{}.{}.jpg", self.index, self.tiles)
    }
}

/// The chunk whose first picture a tile shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tile {
    pub rendition: Rendition,
    pub place: Place,
    /// Hash that names the init segment it needs.
    pub init: String,
}

/// How many tiles a broadcast of this duration (90 kHz) has: while it goes on, those whose time is over.
pub fn count(duration: i64, ended: bool) -> usize {
    let slots = if ended { (duration + SLOT - 1) / SLOT } else { duration / SLOT };
    slots.max(0) as usize
}

/// Chooses the chunks that tiles show, from what renditions list; those that come first are taken where they have a picture.
/// `zero` is where the broadcast starts. Nothing for a time without one.
pub fn choose<'a>(
    renditions: impl IntoIterator<Item = (&'a Rendition, impl Iterator<Item = (Place, &'a str)>)>,
    zero: i64,
    count: usize,
) -> Vec<Option<Tile>> {
    let mut chosen: Vec<Option<Tile>> = vec![None; count];
    for (rendition, listed) in renditions {
        // Whether a chunk starts in the tile's time, or only covers where that begins.
        let mut best: Vec<Option<(Place, &str, bool)>> = vec![None; count];
        for (place, init) in listed.filter(|(place, _)| !place.gap && place.size.iframe > 0) {
            let starts_in = (place.at - zero + EARLY).div_euclid(SLOT);
            let covers_to = (place.end() - 1 - zero).div_euclid(SLOT);
            for slot in starts_in..=covers_to.max(starts_in) {
                let Some(best) = usize::try_from(slot).ok().and_then(|slot| best.get_mut(slot)) else { continue };
                let starts = slot == starts_in;
                if best.is_none_or(|(.., begun)| starts && !begun) {
                    *best = Some((place, init, starts));
                }
            }
        }
        for (chosen, best) in chosen.iter_mut().zip(best) {
            if let (None, Some((place, init, _))) = (&chosen, best) {
                *chosen = Some(Tile { rendition: rendition.clone(), place, init: init.to_owned() });
            }
        }
    }
    chosen
}

/// Writes the WebVTT text of these tiles; `duration` (90 kHz) is where the last one ends at the latest.
pub fn render(chosen: &[Option<Tile>], size: Size, duration: i64) -> String {
    let mut out = String::with_capacity(16 + chosen.len() * 96);
    out.push_str("WEBVTT\n");
    for (slot, _) in chosen.iter().enumerate().filter(|(_, tile)| tile.is_some()) {
        let at = slot as i64 * SLOT;
        let index = slot as u32 / TILES;
        let tiles = (chosen.len() as u32 - index * TILES).min(TILES);
        let sheet = Sheet { index, tiles };
        let (x, y) = origin(slot as u32 % TILES, size);
        let (from, to) = (Time(at), Time((at + SLOT).min(duration).max(at + 1)));
        let Size { width, height } = size;
        write!(out, "\n{from} --> {to}\n{sheet}#xywh={x},{y},{width},{height}\n")
            .expect("writing to memory cannot fail");
    }
    out
}

/// Where a tile lies in its sheet.
fn origin(tile: u32, size: Size) -> (u32, u32) {
    (tile % COLUMNS * size.width, tile / COLUMNS * size.height)
}

/// A time as WebVTT writes it.
struct Time(i64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0 * 1000 / i64::from(VIDEO_TIMESCALE);
        let (seconds, ms) = (ms / 1000, ms % 1000);
        write!(f, "{:02}:{:02}:{:02}.{ms:03}", seconds / 3600, seconds / 60 % 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{package::history, time::UnixMs};

    const SECOND: i64 = VIDEO_TIMESCALE as i64;

    fn place(k: u64, at: i64, seconds: u64, gap: bool) -> Place {
        let size = history::Size { bytes: 1000, iframe: 100 };
        Place { k, epoch: 1, at, duration_us: seconds * 1_000_000, size, gap, wall: UnixMs(0) }
    }

    fn numbers(chosen: &[Option<Tile>]) -> Vec<Option<(&str, u64)>> {
        chosen.iter().map(|tile| tile.as_ref().map(|tile| (tile.rendition.as_str(), tile.place.k))).collect()
    }

    #[test]
    fn a_tile_shows_the_first_picture_of_its_time() {
        let (small, large) = (Rendition::new("160p").unwrap(), Rendition::new("720p").unwrap());
        let listed = |gaps: std::ops::Range<u64>| {
            // A frame early, as thirds of a second fall.
            (0..25).map(move |k| (place(k, k as i64 * 2 * SECOND - 100, 2, gaps.contains(&k)), "hash"))
        };
        let chosen = choose([(&small, listed(7..15)), (&large, listed(9..20))], -100, 5);
        let expected = [Some(("160p", 0)), Some(("160p", 5)), None, Some(("160p", 15)), Some(("160p", 20))];
        assert_eq!(numbers(&chosen), expected);
        let chosen = choose([(&small, listed(7..15)), (&large, listed(0..0))], 0, 5);
        assert_eq!(numbers(&chosen)[2], Some(("720p", 10)));
    }

    #[test]
    fn a_chunk_that_lasts_longer_than_a_tile_stands_for_all_that_it_covers() {
        let name = Rendition::source();
        let listed = [place(0, 0, 25, false), place(1, 25 * SECOND, 4, false)].map(|place| (place, ""));
        let chosen = choose([(&name, listed.into_iter())], 0, 3);
        assert_eq!(numbers(&chosen), [Some(("source", 0)), Some(("source", 0)), Some(("source", 1))]);
    }

    #[test]
    fn the_text_names_a_rectangle_for_each_time() {
        let name = Rendition::source();
        let listed =
            (0..160).filter(|k| *k != 5).map(|k| (place(k, k as i64 * 2 * SECOND, 2, (5..10).contains(&k)), ""));
        let duration = 321 * SECOND;
        assert_eq!((count(duration, false), count(duration, true), count(0, true)), (32, 33, 0));
        let chosen = choose([(&name, listed)], 0, 32);
        let text = render(&chosen, Size { width: 160, height: 90 }, duration);
        let blocks: Vec<_> = text.split("\n\n").collect();
        assert_eq!(blocks[0], "WEBVTT");
        assert_eq!(blocks[1], "00:00:00.000 --> 00:00:10.000\nstoryboard-0.25.jpg#xywh=0,0,160,90");
        assert_eq!(blocks[2], "00:00:20.000 --> 00:00:30.000\nstoryboard-0.25.jpg#xywh=320,0,160,90");
        assert_eq!(blocks[25], "00:04:10.000 --> 00:04:20.000\nstoryboard-1.7.jpg#xywh=0,0,160,90");
        assert_eq!(blocks.len(), 1 + 31);
        assert!(render(&choose([(&name, [].into_iter())], 0, 1), Size { width: 4, height: 2 }, 1) == "WEBVTT\n");
    }

    #[test]
    fn sizes_keep_their_shape_and_names_are_exact() {
        let size = |width, height| Size { width, height };
        assert_eq!(Size::of_tile(1920, 1080), size(160, 90));
        assert_eq!(Size::of_tile(284, 160), size(160, 90));
        assert_eq!(Size::of_tile(720, 1280), size(88, 160));
        assert_eq!(Size::of_tile(64, 36), size(64, 36));
        assert_eq!(Size::of_tile(16_384, 16), size(160, 2));
        assert_eq!(Size::within(640, 854, 480), size(640, 358));
        let sheet = Sheet { index: 12, tiles: 7 };
        assert_eq!(Sheet::parse(&sheet.to_string()), Some(sheet));
        assert_eq!(sheet.range(), 300..307);
        for bad in [
            "storyboard-1.0.jpg",
            "storyboard-1.26.jpg",
            "storyboard-01.2.jpg",
            "storyboard-1.jpg",
            "x-1.2.jpg",
            "storyboard-+1.2.jpg",
        ] {
            assert_eq!(Sheet::parse(bad), None, "{bad}");
        }
    }
}
