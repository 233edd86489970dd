//! What an edge learns from the playlists that pass through it: how far the broadcast is.

use crate::time::UnixMs;

/// Where a media playlist ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Listed {
    /// The number of the last whole chunk.
    pub newest: Option<u64>,
    /// The wall clock at the end of the last chunk or part, as the publisher's node read it.
    pub until: Option<UnixMs>,
    /// EXT-X-TARGETDURATION, seconds.
    pub target: Option<u32>,
    /// EXT-X-ENDLIST: nothing is added any more.
    pub ended: bool,
}

impl Listed {
    /// Reads a media playlist of ours.
    pub fn read(text: &str) -> Self {
        let mut listed = Self::default();
        // The clock at the start of the chunk that is being read, and milliseconds of its parts and of the whole.
        let (mut start, mut parts, mut whole) = (None, 0.0, 0.0);
        for line in text.lines() {
            let (tag, value) = line.split_once(':').unwrap_or((line, ""));
            let after = |start: Option<UnixMs>, ms: f64| start.map(|UnixMs(start)| UnixMs(start + ms.round() as i64));
            match tag {
                "#EXT-X-PROGRAM-DATE-TIME" => (start, parts) = (UnixMs::parse(value), 0.0),
                "#EXT-X-PART" => {
                    let duration =
                        value.strip_prefix("DURATION=").and_then(|rest| rest.split(',').next()?.parse().ok());
                    parts += duration.unwrap_or(0.0) * 1000.0;
                    listed.until = after(start, parts);
                }
                "#EXT-X-TARGETDURATION" => listed.target = value.parse().ok(),
                "#EXT-X-ENDLIST" => listed.ended = true,
                "#EXTINF" => whole = value.trim_end_matches(',').parse().unwrap_or(0.0) * 1000.0,
                _ if !line.starts_with('#') && line.ends_with(".m4s") => {
                    listed.newest = line.split('.').next().and_then(|k| k.parse().ok());
                    listed.until = after(start, whole);
                    // The next one need not tell its time where it follows.
                    (start, parts) = (listed.until, 0.0);
                }
                _ => {}
            }
        }
        listed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_playlist_is_that_of_its_last_part() {
        let read = |name: &str| {
            let path = format!("{}/testdata/playlist/{name}", env!("CARGO_MANIFEST_DIR"));
            Listed::read(&std::fs::read_to_string(path).unwrap())
        };
        let listed = read("parts.m3u8");
        assert_eq!((listed.newest, listed.target, listed.ended), (Some(21), Some(2), false));
        assert_eq!(listed.until.unwrap().to_string(), "2026-01-01T00:00:44.667Z");
        assert_eq!(Listed::read("#EXTM3U\n#EXTINF:2.0,\n7.1.m4s\n"), Listed { newest: Some(7), ..Listed::default() });
        assert_eq!(Listed::read("no playlist"), Listed::default());
    }
}
