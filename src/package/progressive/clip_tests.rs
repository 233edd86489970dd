//! Clips of real chunks, decoded by ffmpeg: exactly the pictures of the bounds, and the audio beside them.

use super::{
    Bounds,
    testing::{CAST, Cast, Packet, Stored, build, head, moov, on_disk, packets, probe, read, record},
};
use crate::package::testing::run;

/// What a file decodes to: a hash per picture, and the audio samples.
struct Decoded {
    pictures: Vec<String>,
    audio: Vec<u8>,
}

fn decode(bytes: &[u8]) -> Decoded {
    let file = on_disk(bytes);
    let path = file.path().to_str().unwrap();
    let strict = ["-xerror", "-err_detect", "explode", "-i", path];
    let ffmpeg = |args: &[&str]| run("ffmpeg", &[&strict[..], args].concat(), &[]);
    let text = ffmpeg(&["-map", "0:v", "-fps_mode", "passthrough", "-f", "framemd5", "-"]);
    let text = String::from_utf8(text).unwrap();
    let hash = |line: &str| line.rsplit(',').next().unwrap().trim().to_owned();
    let pictures = text.lines().filter(|line| !line.starts_with('#')).map(hash).collect();
    Decoded { pictures, audio: ffmpeg(&["-map", "0:a", "-f", "f32le", "-"]) }
}

/// A recording, decoded whole.
struct Reference {
    chunks: Vec<Stored>,
    /// When its pictures are shown, in order.
    shown: Vec<i64>,
    /// Of its first audio sample.
    audio_start: i64,
    whole: Decoded,
}

impl Reference {
    fn new(cast: &Cast) -> Self {
        let chunks = record(cast);
        let mut shown: Vec<_> = packets(&chunks, 0).iter().map(|packet| packet.0).collect();
        shown.sort();
        let whole = decode(&read(&build(Bounds::Whole, &chunks), &chunks));
        assert_eq!(whole.pictures.len(), shown.len());
        Self { audio_start: packets(&chunks, 1)[0].0, chunks, shown, whole }
    }

    /// Checks the clip of pictures `first` to before `end`; the bounds may lie anywhere in the time of a picture.
    fn check(&self, first: usize, end: usize, from: i64, to: i64) {
        let file = build(Bounds::Clip { from, to }, &self.chunks);
        let bytes = read(&file, &self.chunks);
        let clip = decode(&bytes);
        assert_eq!(clip.pictures, self.whole.pictures[first..end], "pictures {first} to {end}");

        let at = |index: usize| self.shown.get(index).copied().unwrap_or_else(|| self.shown[index - 1] + 3000);
        let (from, to) = (at(first), at(end));
        let samples = |ticks: i64| (ticks * 48 + 45).div_euclid(90);
        // Pictures, and the frames that are heard, are as far apart as in the chunks.
        let [video, audio] = probe(on_disk(&bytes).path());
        let mut pictures: Vec<_> = video.iter().map(|packet| packet.0 + from).collect();
        pictures.sort();
        assert_eq!(pictures, self.shown[first..end]);
        let known = packets(&self.chunks, 1);
        let same = |packet: &Packet| known.iter().any(|p| (p.0, &p.4) == (packet.0 + samples(from), &packet.4));
        assert!(!audio.is_empty() && audio.iter().all(same), "{audio:?}");
        let start = samples(from).max(self.audio_start);
        let want = &self.whole.audio[4 * (start - self.audio_start) as usize..];
        let length = 4 * (samples(to) - start) as usize;
        let exact = length.min(want.len());
        // To the sample; ffmpeg, which takes no notice of where an edit of AAC ends, goes on to the end of the last frame.
        assert!(clip.audio.len() >= exact && clip.audio.len() < exact + 4 * 1024, "{} {exact}", clip.audio.len());
        assert!(clip.audio[..exact] == want[..exact], "samples of {first} to {end}");
        // Players that honour the whole edit end with the last picture.
        let moov = moov(&head(&file));
        let durations: Vec<_> = moov.trak.iter().map(|trak| trak.tkhd.duration as i64).collect();
        assert_eq!(durations[0], to - from);
        if exact == length {
            assert!((durations[1] - (to - from)).abs() <= 1, "{durations:?}");
        }
    }

    fn check_many(&self) {
        let count = self.shown.len();
        for (first, end) in [
            (0, count),
            (0, 1),
            (1, 2),
            (2, 40),
            (3, 33),
            (29, 31),
            (30, 60),
            (31, 32),
            (44, 47),
            (45, 46),
            (46, 95),
            (58, 91),
            (59, count),
            (60, 61),
            // The tone ends a little before the last picture.
            (count - 6, count),
        ] {
            let last = self.shown[end - 1];
            let before = if first == 0 { self.shown[0] - 3000 } else { self.shown[first - 1] };
            self.check(first, end, self.shown[first], last + 1);
            self.check(first, end, before + 1, self.shown.get(end).copied().unwrap_or(last + 90_000));
        }
    }
}

#[test]
fn clips_show_exactly_their_pictures() {
    Reference::new(&Cast { seconds: 4, start: 700, ..CAST }).check_many();
}

#[test]
fn clips_of_parts_show_exactly_their_pictures() {
    Reference::new(&Cast { seconds: 4, parts: true, ..CAST }).check_many();
}

#[test]
fn what_is_not_needed_is_not_in_the_file() {
    let chunks = record(&Cast { seconds: 5, ..CAST });
    // Chunks of a second, which start at 67 ms.
    let file = build(Bounds::Clip { from: 200_000, to: 250_000 }, &chunks);
    let mut named = std::collections::BTreeSet::new();
    let mut offset = 0;
    while let Some(span) = file.at(offset) {
        offset += match span {
            super::Span::Head(bytes) => bytes.len() as u64,
            super::Span::Media { track, chunk, range } => {
                named.insert((track, chunk));
                range.end - range.start
            }
        };
    }
    assert_eq!(Vec::from_iter(named), [(0, 2), (1, 2)]);
}
