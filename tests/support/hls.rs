//! A strict HLS client: follows every playlist of a stream, takes every chunk apart, keeps what it saw.

use std::{collections::BTreeMap, time::Duration};

use weir::time::now;

use super::{get, mp4};

#[derive(Debug, Clone)]
pub struct Variant {
    pub uri: String,
    pub attributes: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    pub k: u64,
    pub uri: String,
    pub seconds: f64,
    pub discontinuity: bool,
    pub gap: bool,
    pub map: Option<String>,
    pub wall: Option<String>,
}

#[derive(Debug, Clone, Default)]
pub struct Playlist {
    pub target: u32,
    pub sequence: u64,
    pub discontinuity_sequence: u64,
    pub segments: Vec<Segment>,
    pub ended: bool,
    pub vod: bool,
}

pub fn attributes(text: &str) -> BTreeMap<String, String> {
    let (mut found, mut rest) = (BTreeMap::new(), text);
    while let Some((name, after)) = rest.split_once('=') {
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => {
                let (value, next) = quoted.split_once('"').expect("a closing quote");
                (value, next.trim_start_matches(','))
            }
            None => after.split_once(',').unwrap_or((after, "")),
        };
        found.insert(name.to_owned(), value.to_owned());
        rest = next;
    }
    found
}

/// The absolute form of a URI found in `base`.
pub fn join(base: &str, uri: &str) -> String {
    url::Url::parse(base).expect("a URL").join(uri).expect("a URI").to_string()
}

/// Variants and audio renditions (name `audio`), with absolute URIs.
pub fn multivariant(url: &str) -> Option<(Vec<Variant>, Vec<Variant>)> {
    let answer = get(url);
    if answer.status != 200 {
        return None;
    }
    let text = answer.text();
    assert!(text.starts_with("#EXTM3U\n"), "{text}");
    let (mut variants, mut audio, mut pending) = (Vec::new(), Vec::new(), None);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("#EXT-X-STREAM-INF:") {
            pending = Some(attributes(rest));
        } else if let Some(rest) = line.strip_prefix("#EXT-X-MEDIA:") {
            let attributes = attributes(rest);
            audio.push(Variant { uri: join(url, &attributes["URI"]), attributes });
        } else if !line.starts_with('#') && !line.is_empty() {
            let attributes = pending.take().expect("a URI without STREAM-INF");
            variants.push(Variant { uri: join(url, line), attributes });
        }
    }
    Some((variants, audio))
}

pub fn playlist(url: &str) -> Option<Playlist> {
    let answer = get(url);
    (answer.status == 200).then(|| parse(url, &answer.text()))
}

pub fn parse(url: &str, text: &str) -> Playlist {
    assert!(text.starts_with("#EXTM3U\n"), "{text}");
    let mut list = Playlist::default();
    let (mut seconds, mut gap, mut discontinuity, mut map, mut wall) = (None, false, false, None, None);
    for line in text.lines() {
        let (tag, value) = line.split_once(':').unwrap_or((line, ""));
        match tag {
            "#EXT-X-TARGETDURATION" => list.target = value.parse().unwrap(),
            "#EXT-X-MEDIA-SEQUENCE" => list.sequence = value.parse().unwrap(),
            "#EXT-X-DISCONTINUITY-SEQUENCE" => list.discontinuity_sequence = value.parse().unwrap(),
            "#EXT-X-PLAYLIST-TYPE" => list.vod = value == "VOD",
            "#EXT-X-ENDLIST" => list.ended = true,
            "#EXTINF" => seconds = Some(value.trim_end_matches(',').parse::<f64>().unwrap()),
            "#EXT-X-GAP" => gap = true,
            "#EXT-X-DISCONTINUITY" => discontinuity = true,
            "#EXT-X-PROGRAM-DATE-TIME" => wall = Some(value.to_owned()),
            "#EXT-X-MAP" => map = Some(join(url, &attributes(value)["URI"])),
            _ if !line.starts_with('#') && !line.is_empty() => {
                list.segments.push(Segment {
                    k: list.sequence + list.segments.len() as u64,
                    uri: join(url, line),
                    seconds: seconds.take().expect("a URI without EXTINF"),
                    discontinuity: std::mem::take(&mut discontinuity),
                    gap: std::mem::take(&mut gap),
                    map: map.clone(),
                    wall: wall.take(),
                });
            }
            _ => {}
        }
    }
    list
}

/// A chunk as it was listed and as it is.
#[derive(Debug, Clone)]
pub struct Seen {
    pub listed: Segment,
    /// Start and end by its samples, seconds on the broadcast's timeline; `None` for a gap.
    pub times: Option<(f64, f64)>,
    pub frames: usize,
    pub bytes: usize,
}

/// One rendition over the time it was followed.
#[derive(Debug, Default)]
pub struct Followed {
    pub chunks: BTreeMap<u64, Seen>,
    pub last: Playlist,
    pub inits: BTreeMap<String, mp4::Init>,
    ends: Option<(u64, i64)>,
    discontinuities: u64,
}

/// Follows all renditions of a stream.
#[derive(Debug, Default)]
pub struct Client {
    pub renditions: BTreeMap<String, Followed>,
    uris: BTreeMap<String, String>,
}

impl Client {
    /// Loads the multivariant playlist (which must be there) and remembers its renditions.
    pub fn open(url: &str) -> Self {
        let (variants, audio) = multivariant(url).expect("a multivariant playlist");
        let mut client = Self::default();
        for variant in variants.iter().chain(&audio) {
            client.uris.insert(name_of(&variant.uri), variant.uri.clone());
        }
        client
    }

    pub fn names(&self) -> Vec<String> {
        self.uris.keys().cloned().collect()
    }

    pub fn uri(&self, name: &str) -> &str {
        &self.uris[name]
    }

    /// Loads every playlist once, takes new chunks apart and checks what must always hold.
    pub fn poll(&mut self) {
        for (name, uri) in &self.uris {
            let Some(list) = playlist(uri) else { panic!("{uri}: no playlist") };
            self.renditions.entry(name.clone()).or_default().take(name, list);
        }
    }

    /// Polls until `done`, or fails after `limit`.
    pub fn follow(&mut self, what: &str, limit: Duration, mut done: impl FnMut(&Self) -> bool) {
        let until = now() + limit;
        loop {
            self.poll();
            if done(self) {
                return;
            }
            let state: Vec<_> = self.renditions.iter().map(|(n, f)| (n, f.chunks.len(), f.last.sequence)).collect();
            assert!(now() < until, "{what}: not within {limit:?}: {state:?}");
            // A player's polling, not a wait for an event.
            std::thread::park_timeout(Duration::from_millis(200));
        }
    }

    /// Follows until every rendition has `count` chunks with media.
    pub fn follow_media(&mut self, count: usize, limit: Duration) {
        self.follow("chunks on every rendition", limit, |c| c.renditions.values().all(|f| f.media().count() >= count));
    }

    /// Checks that the same number means the same time on every video rendition.
    pub fn check_alignment(&self) {
        let videos: Vec<_> = self.renditions.iter().filter(|(name, _)| *name != "audio").collect();
        let (first_name, first) = videos[0];
        for (name, other) in &videos[1..] {
            for (k, seen) in &other.chunks {
                let Some(reference) = first.chunks.get(k) else { continue };
                let (Some(a), Some(b)) = (reference.times, seen.times) else { continue };
                assert!((a.0 - b.0).abs() < 0.0005, "chunk {k}: {name} starts at {} and {first_name} at {}", b.0, a.0);
                assert!((a.1 - b.1).abs() < 0.0005, "chunk {k}: {name} ends at {} and {first_name} at {}", b.1, a.1);
                assert_eq!(reference.listed.wall, seen.listed.wall, "chunk {k}");
                assert_eq!(reference.listed.discontinuity, seen.listed.discontinuity, "chunk {k}");
            }
        }
        if let Some(audio) = self.renditions.get("audio") {
            for (k, seen) in &audio.chunks {
                let Some((a, b)) = first.chunks.get(k).and_then(|r| r.times).zip(seen.times) else { continue };
                // Whole AAC frames whose start lies in the chunk: at most one frame (of 46 ms at 22.05 kHz) later.
                assert!(
                    b.0 >= a.0 - 0.0001 && b.0 < a.0 + 0.05,
                    "chunk {k}: audio starts at {}, video at {}",
                    b.0,
                    a.0
                );
            }
        }
    }
}

fn name_of(uri: &str) -> String {
    uri.rsplit('/').nth(1).expect("a rendition's folder").to_owned()
}

impl Followed {
    pub fn media(&self) -> impl Iterator<Item = &Seen> {
        self.chunks.values().filter(|seen| seen.times.is_some())
    }

    fn take(&mut self, name: &str, list: Playlist) {
        let before = &self.last;
        if before.target != 0 {
            assert_eq!(list.target, before.target, "{name}: the target duration changed");
            assert!(
                list.sequence >= before.sequence,
                "{name}: the media sequence went from {} to {}: {before:?} {list:?}",
                before.sequence,
                list.sequence
            );
            let (old, new) = (before.segments.last().map(|s| s.k), list.segments.last().map(|s| s.k));
            assert!(new >= old, "{name}: the newest chunk went from {old:?} to {new:?}");
            let left = before.segments.iter().take_while(|s| s.k < list.sequence);
            let left = left.filter(|s| s.discontinuity).count() as u64;
            assert_eq!(
                list.discontinuity_sequence,
                before.discontinuity_sequence + left,
                "{name}: discontinuity sequence"
            );
        }
        for segment in &list.segments {
            if let Some(known) = self.chunks.get(&segment.k) {
                let same =
                    Segment { map: known.listed.map.clone(), wall: known.listed.wall.clone(), ..segment.clone() };
                assert_eq!(same, known.listed, "{name}: a listed chunk changed");
                continue;
            }
            assert!(segment.seconds.round() <= f64::from(list.target), "{name}: {segment:?} is longer than the target");
            let seen = self.fetch(name, segment);
            self.chunks.insert(segment.k, seen);
        }
        self.last = list;
    }

    fn fetch(&mut self, name: &str, segment: &Segment) -> Seen {
        self.discontinuities += u64::from(segment.discontinuity);
        if segment.gap {
            self.ends = None;
            return Seen { listed: segment.clone(), times: None, frames: 0, bytes: 0 };
        }
        let map = segment.map.clone().expect("EXT-X-MAP");
        let init = self.inits.entry(map.clone()).or_insert_with(|| {
            let answer = get(&map);
            assert_eq!(answer.status, 200, "{map}");
            mp4::init(&answer.body)
        });
        let answer = get(&segment.uri);
        assert_eq!(answer.status, 200, "{name}: {} was listed", segment.uri);
        let media = mp4::media(&answer.body, init);
        if init.video {
            let first = &media.samples[0];
            assert!(first.sync && first.idr, "{name}: chunk {} does not start with an IDR", segment.k);
            assert_eq!(first.pts, media.start(), "{name}: chunk {} starts at its IDR's time", segment.k);
            assert!(media.samples.iter().all(|s| s.sync == s.idr), "{name}: sync flags of chunk {}", segment.k);
            assert!(
                media.samples.iter().all(|s| s.pts >= first.pts),
                "{name}: chunk {} shows earlier frames",
                segment.k
            );
        }
        let scale = f64::from(init.timescale);
        let (start, end) = (media.start() as f64 / scale, media.end() as f64 / scale);
        assert!(
            (end - start - segment.seconds).abs() < 0.002,
            "{name}: chunk {} holds {} s: {segment:?}",
            segment.k,
            end - start
        );
        if let Some((k, ended)) = self.ends.filter(|_| !segment.discontinuity) {
            assert_eq!(k + 1, segment.k, "{name}: a chunk went by unseen");
            assert_eq!(media.start(), ended, "{name}: chunk {} does not continue the one before it", segment.k);
        }
        self.ends = Some((segment.k, media.end()));
        let (frames, bytes) = (media.samples.len(), answer.body.len());
        Seen { listed: segment.clone(), times: Some((start, end)), frames, bytes }
    }
}
