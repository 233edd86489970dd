//! Which renditions a broadcast gets: configured entries and the source's config enter, rungs leave. Pure.
//!
//! A rung is never larger than the source and never as large: a rendition that costs an encoder and shows nothing more
//! than `source` is worth nothing. Only re-encode mode, where `source` is not offered, adds a rung of the source's size.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{id::Rendition, media::VideoConfig};

/// One wanted rendition, as the `ladder` key of the configuration lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Rung)]
pub struct Entry {
    /// Lines of a landscape picture; columns of an upright one. Made even.
    pub height: u32,
    /// Mean and ceiling of the rendition's rate.
    pub bitrate_kbps: u32,
    /// Frames per second above which frames are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fps_max: Option<u32>,
    /// Name in URLs; `720p`, or `720p30` under a frame-rate cap, when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Rendition>,
}

impl Entry {
    /// The rendition's name: the one given, else `720p`, or `720p30` under a frame-rate cap.
    pub fn title(&self) -> Rendition {
        let lines = self.height & !1;
        let made = || match self.fps_max {
            Some(cap) => format!("{lines}p{cap}"),
            None => format!("{lines}p"),
        };
        self.name.clone().unwrap_or_else(|| Rendition::new(&made()).expect("digits and a letter"))
    }
}

/// One rendition to encode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rung {
    pub name: Rendition,
    /// Even, square pixels.
    pub width: u32,
    pub height: u32,
    /// Present only where the source may have more frames per second than this.
    pub fps_max: Option<u32>,
    /// Mean rate and ceiling over the encoder's buffer of [`VBV_MS`].
    pub bitrate_kbps: u32,
}

/// The encoder's rate buffer. A window of `t` ms holds at most `bitrate * (t + VBV_MS) / t`.
pub const VBV_MS: u32 = 1000;

impl Rung {
    /// The highest rate of any chunk of `chunk_ms`, in kb/s: what BANDWIDTH must cover (rfc8216bis 4.4.6.2).
    pub fn peak_kbps(&self, chunk_ms: u32) -> u32 {
        let ms = u64::from(chunk_ms.max(1));
        (u64::from(self.bitrate_kbps) * (ms + u64::from(VBV_MS)) / ms) as u32
    }

    /// Pixels encoded in one second of a source of `fps` frames per second.
    pub fn pixel_rate(&self, fps: f64) -> f64 {
        f64::from(self.width) * f64::from(self.height) * self.fps_max.map_or(fps, |cap| fps.min(f64::from(cap)))
    }
}

/// The ladder of a node whose configuration names none.
pub fn default_entries() -> Vec<Entry> {
    [(720, 2800), (480, 1200), (360, 700), (160, 250)]
        .map(|(height, bitrate_kbps)| Entry { height, bitrate_kbps, fps_max: None, name: None })
        .into()
}

/// Chooses the rungs for a source, largest first. `top` adds a rung of the source's own size.
pub fn plan(entries: &[Entry], video: &VideoConfig, top: bool) -> Vec<Rung> {
    let source = Picture::shown(video);
    let mut wanted: Vec<&Entry> = entries.iter().filter(|e| e.height >= 2 && e.height & !1 < source.short()).collect();
    wanted.sort_by_key(|e| std::cmp::Reverse((e.height, e.fps_max.unwrap_or(u32::MAX), e.bitrate_kbps)));

    let mut rungs = Vec::with_capacity(wanted.len() + 1);
    if top {
        let Picture { width, height } = source.scaled(source.short());
        let name = free_name(&rungs, format!("{}p", source.short() & !1));
        rungs.push(Rung { name, width, height, fps_max: None, bitrate_kbps: top_kbps(width * height, video.fps) });
    }
    for entry in wanted {
        let Picture { width, height } = source.scaled(entry.height);
        let fps_max = entry.fps_max.filter(|&cap| cap > 0 && video.fps.is_none_or(|(n, d)| n > cap.saturating_mul(d)));
        let name = free_name(&rungs, entry.title().to_string());
        rungs.push(Rung { name, width, height, fps_max, bitrate_kbps: entry.bitrate_kbps });
    }
    rungs
}

#[derive(Clone, Copy)]
struct Picture {
    width: u32,
    height: u32,
}

impl Picture {
    /// The picture with square pixels. Height is kept, so that lines are never invented.
    fn shown(video: &VideoConfig) -> Self {
        let (num, den) = (u32::from(video.sar.0.max(1)), u32::from(video.sar.1.max(1)));
        let width = (u32::from(video.width) * num + den / 2) / den;
        Self { width: width.max(2), height: u32::from(video.height).max(2) }
    }

    fn short(self) -> u32 {
        self.width.min(self.height)
    }

    fn scaled(self, short: u32) -> Self {
        let even = |long: u32| {
            let (side, of) = (u64::from(long) * u64::from(short), u64::from(self.short()));
            ((((side + of) / (2 * of)) * 2) as u32).min(long & !1).max(2)
        };
        // The short side is the name of the rung: rounded down, never up.
        let exact = (short & !1).max(2);
        if self.width < self.height {
            Self { width: exact, height: even(self.height) }
        } else {
            Self { width: even(self.width), height: exact }
        }
    }
}

/// What a re-encoded picture of this size needs to look like its source at veryfast-like efficiency.
fn top_kbps(pixels: u32, fps: Option<(u32, u32)>) -> u32 {
    const TABLE: [(u32, u32); 6] = [
        (320 * 180, 300),
        (640 * 360, 800),
        (854 * 480, 1500),
        (1280 * 720, 3000),
        (1920 * 1080, 5000),
        (2560 * 1440, 9000),
    ];
    let base = TABLE.iter().find(|(limit, _)| pixels <= *limit).map_or(14_000, |(_, kbps)| *kbps);
    // Twice the frames do not cost twice the bits: neighbours are more alike.
    if fps.is_some_and(|(n, d)| n > 40 * d.max(1)) { base * 7 / 5 } else { base }
}

fn free_name(taken: &[Rung], wanted: String) -> Rendition {
    // `source` and `audio` are other things' names.
    let clashes = |name: &Rendition| {
        *name == Rendition::source() || *name == Rendition::audio() || taken.iter().any(|r| r.name == *name)
    };
    let name = Rendition::new(&wanted).expect("digits, 'p' and checked names are legal");
    if !clashes(&name) {
        return name;
    }
    let stem: String = wanted.chars().take(28).collect();
    (2..)
        .map(|n| Rendition::new(&format!("{stem}-{n}")).expect("a legal stem and a number"))
        .find(|name| !clashes(name))
        .expect("finitely many names are taken")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn video(width: u16, height: u16, sar: (u16, u16), fps: Option<(u32, u32)>) -> VideoConfig {
        VideoConfig { avcc: Bytes::new(), width, height, sar, fps }
    }

    fn show(rungs: &[Rung]) -> String {
        let show = |r: &Rung| {
            let cap = r.fps_max.map_or(String::new(), |c| format!("@{c}"));
            format!("{} {}x{}{cap} {}", r.name, r.width, r.height, r.bitrate_kbps)
        };
        rungs.iter().map(show).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn default_ladder_stays_below_the_source() {
        let fps30 = Some((30, 1));
        for (w, h, sar, top, expected) in [
            (1920, 1080, (1, 1), false, "720p 1280x720 2800, 480p 854x480 1200, 360p 640x360 700, 160p 284x160 250"),
            (1280, 720, (1, 1), false, "480p 854x480 1200, 360p 640x360 700, 160p 284x160 250"),
            (1280, 720, (1, 1), true, "720p 1280x720 3000, 480p 854x480 1200, 360p 640x360 700, 160p 284x160 250"),
            (720, 1280, (1, 1), false, "480p 480x854 1200, 360p 360x640 700, 160p 160x284 250"),
            (720, 576, (16, 11), false, "480p 872x480 1200, 360p 654x360 700, 160p 290x160 250"),
            (1001, 501, (1, 1), true, "500p 1000x500 3000, 480p 960x480 1200, 360p 720x360 700, 160p 320x160 250"),
            (160, 120, (1, 1), false, ""),
            (160, 120, (1, 1), true, "120p 160x120 300"),
        ] {
            assert_eq!(
                show(&plan(&default_entries(), &video(w, h, sar, fps30), top)),
                expected,
                "{w}x{h} {sar:?} {top}"
            );
        }
    }

    #[test]
    fn names_are_unique_and_say_the_cap() {
        let text = "ladder = [{height=240,bitrate_kbps=300}, {height=720,bitrate_kbps=2000,fps_max=30}, \
                    {height=720,bitrate_kbps=3500}, {height=720,bitrate_kbps=1500}, {height=480,bitrate_kbps=900,name='source'}]";
        #[derive(Deserialize)]
        struct Top {
            ladder: Vec<Entry>,
        }
        let entries = toml::from_str::<Top>(text).unwrap().ladder;
        let rungs = plan(&entries, &video(1920, 1080, (1, 1), Some((60, 1))), true);
        assert_eq!(
            show(&rungs),
            "1080p 1920x1080 7000, 720p 1280x720 3500, 720p-2 1280x720 1500, 720p30 1280x720@30 2000, \
             source-2 854x480 900, 240p 426x240 300"
        );
        let slow = plan(&entries, &video(1920, 1080, (1, 1), Some((30, 1))), false);
        assert!(slow.iter().all(|r| r.fps_max.is_none()), "a cap the source never reaches costs nothing");
        assert!(toml::from_str::<Top>("ladder = [{height=240,bitrate_kbps=300,heigth=3}]").is_err());
    }

    proptest! {
        #[test]
        fn rungs_are_even_smaller_and_of_the_same_shape(
            w in 2u16..8000, h in 2u16..8000, sar in (1u16..64, 1u16..64), top: bool, heights in prop::collection::vec(0u32..5000, 0..8),
        ) {
            let entries: Vec<_> = heights.iter()
                .map(|&height| Entry { height, bitrate_kbps: 500, fps_max: None, name: None }).collect();
            let rungs = plan(&entries, &video(w, h, sar, None), top);
            let names: std::collections::HashSet<_> = rungs.iter().map(|r| r.name.clone()).collect();
            prop_assert_eq!(names.len(), rungs.len());
            let shown = Picture::shown(&video(w, h, sar, None));
            for r in &rungs {
                prop_assert!(r.width % 2 == 0 && r.height % 2 == 0 && r.width >= 2 && r.height >= 2);
                prop_assert!(r.width <= shown.width && r.height <= shown.height);
            }
            for pair in rungs.windows(2) {
                prop_assert!(pair[0].width.min(pair[0].height) >= pair[1].width.min(pair[1].height));
            }
            prop_assert!(!top || !rungs.is_empty());
        }
    }
}
