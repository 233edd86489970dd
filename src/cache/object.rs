//! What viewers fetch, as its URL names it (DESIGN section 10): parsed once, and one text for all who ask for the same.

use std::{fmt, sync::Arc};

use crate::{
    id::{self, BroadcastId, Rendition, StreamId},
    package::{BadClip, BadReload, Clip, Extent, Reload, extent},
    recording::Picture,
};

/// One thing under `/hls/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub stream: StreamId,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The multivariant playlist of the running broadcast.
    Current(Extent),
    /// The multivariant playlist of one broadcast.
    Multivariant(BroadcastId, Extent),
    /// What lies in a rendition's folder.
    File(BroadcastId, Rendition, File),
    /// Its poster, or what of its storyboard.
    Picture(BroadcastId, Picture),
    /// A broadcast or a clip as one MP4 file, of the best rendition where none is named. Never kept by a cache of ours.
    Download(BroadcastId, Option<Rendition>, Extent),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum File {
    /// `index.m3u8`, or `clip.m3u8`.
    Playlist(Extent, Reload),
    /// `iframes.m3u8`: of each chunk its first picture alone.
    Iframes(Extent),
    /// `init-{hash}.mp4`.
    Init(Arc<str>),
    /// `{k}.{epoch}.m4s`.
    Chunk { k: u64, epoch: u64 },
    /// `{k}.{epoch}.{part}.m4s`.
    Part { k: u64, epoch: u64, part: usize },
}

/// Why a URL names nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoObject {
    #[error(transparent)]
    BadName(#[from] id::Error),
    #[error("there is no such playlist, chunk or init segment")]
    NoFile,
    #[error(transparent)]
    BadReload(#[from] BadReload),
    #[error(transparent)]
    BadClip(#[from] BadClip),
}

/// The playlist that shows a part of a broadcast.
const CLIP: &str = "clip.m3u8";
const IFRAMES: &str = "iframes.m3u8";

impl Object {
    /// Reads what comes after `/hls/` and the query. Parameters that are none of ours do not count.
    pub fn parse(path: &str, query: Option<&str>) -> Result<Self, NoObject> {
        let mut names = path.split('/');
        let stream = names.next().unwrap_or_default().parse()?;
        let rest: [Option<&str>; 4] = std::array::from_fn(|_| names.next());
        let what = match rest {
            [Some("index.m3u8"), None, ..] => What::Current(Extent::parse(query)),
            [Some(broadcast), Some("index.m3u8"), None, _] => {
                What::Multivariant(broadcast.parse()?, Extent::parse(query))
            }
            [Some(broadcast), Some(CLIP), None, _] => {
                What::Multivariant(broadcast.parse()?, Extent::Clip(Clip::parse(query)?))
            }
            [Some(broadcast), Some("index.mp4"), None, _] => {
                What::Download(broadcast.parse()?, rendition(query)?, Extent::Window)
            }
            [Some(broadcast), Some("clip.mp4"), None, _] => {
                What::Download(broadcast.parse()?, rendition(query)?, Extent::Clip(Clip::parse(query)?))
            }
            [Some(broadcast), Some(name), None, _] => {
                What::Picture(broadcast.parse()?, Picture::parse(name).ok_or(NoObject::NoFile)?)
            }
            [Some(broadcast), Some(rendition), Some(file), None] => {
                let (broadcast, rendition) = (broadcast.parse()?, rendition.parse()?);
                What::File(broadcast, rendition, File::parse(file, query)?)
            }
            _ => return Err(NoObject::NoFile),
        };
        Ok(Self { stream, what })
    }

    /// The broadcast it belongs to, where its name says so.
    pub fn broadcast(&self) -> Option<&BroadcastId> {
        match &self.what {
            What::Current(_) => None,
            What::Multivariant(broadcast, _)
            | What::File(broadcast, ..)
            | What::Picture(broadcast, _)
            | What::Download(broadcast, ..) => Some(broadcast),
        }
    }

    /// A chunk or a part: where it is not there, it may be there any moment.
    pub fn is_made_live(&self) -> bool {
        matches!(&self.what, What::File(_, _, File::Chunk { .. } | File::Part { .. }))
    }

    pub fn is_playlist(&self) -> bool {
        match &self.what {
            What::Current(_) | What::Multivariant(..) => true,
            What::File(_, _, file) => !file.is_media(),
            What::Picture(..) | What::Download(..) => false,
        }
    }
}

/// The URL's path and query: `/hls/alice/01b/720p/index.m3u8?_HLS_msn=7`.
impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/hls/{}/", self.stream)?;
        match &self.what {
            What::Current(extent) => write!(f, "{}", playlist(extent, &Reload::default())),
            What::Multivariant(broadcast, extent) => {
                write!(f, "{broadcast}/{}", playlist(extent, &Reload::default()))
            }
            What::File(broadcast, rendition, file) => write!(f, "{broadcast}/{rendition}/{file}"),
            What::Picture(broadcast, picture) => write!(f, "{broadcast}/{picture}"),
            What::Download(broadcast, rendition, extent) => {
                let name = if matches!(extent, Extent::Clip(_)) { "clip" } else { "index" };
                write!(f, "{broadcast}/{name}.mp4{extent}")?;
                let sign = if *extent == Extent::Window { '?' } else { '&' };
                rendition.as_ref().map_or(Ok(()), |rendition| write!(f, "{sign}rendition={rendition}"))
            }
        }
    }
}

impl File {
    fn is_media(&self) -> bool {
        matches!(self, File::Init(_) | File::Chunk { .. } | File::Part { .. })
    }

    fn parse(name: &str, query: Option<&str>) -> Result<Self, NoObject> {
        if name == "index.m3u8" {
            return Ok(File::Playlist(Extent::parse(query), Reload::parse(query)?));
        }
        if name == CLIP {
            return Ok(File::Playlist(Extent::Clip(Clip::parse(query)?), Reload::default()));
        }
        if name == IFRAMES {
            let is_clip = extent::value(query, "to").is_some();
            let extent = if is_clip { Extent::Clip(Clip::parse(query)?) } else { Extent::parse(query) };
            return Ok(File::Iframes(extent));
        }
        if let Some(hash) = name.strip_prefix("init-").and_then(|rest| rest.strip_suffix(".mp4")) {
            let legal = (1..=64).contains(&hash.len()) && hash.bytes().all(|c| c.is_ascii_hexdigit());
            return legal.then(|| File::Init(hash.into())).ok_or(NoObject::NoFile);
        }
        Self::numbered(name).ok_or(NoObject::NoFile)
    }

    fn numbered(name: &str) -> Option<Self> {
        let mut numbers = name.strip_suffix(".m4s")?.split('.').map(number);
        let (k, epoch) = (numbers.next()??, numbers.next()??);
        match (numbers.next(), numbers.next()) {
            (None, _) => Some(File::Chunk { k, epoch }),
            (Some(part), None) => Some(File::Part { k, epoch, part: part?.try_into().ok()? }),
            _ => None,
        }
    }
}

impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            File::Playlist(extent, reload) => f.write_str(&playlist(extent, reload)),
            File::Iframes(extent) => write!(f, "{IFRAMES}{extent}"),
            File::Init(hash) => write!(f, "init-{hash}.mp4"),
            File::Chunk { k, epoch } => write!(f, "{k}.{epoch}.m4s"),
            File::Part { k, epoch, part } => write!(f, "{k}.{epoch}.{part}.m4s"),
        }
    }
}

/// A playlist's name, with the query that counts.
fn playlist(extent: &Extent, reload: &Reload) -> String {
    let name = if matches!(extent, Extent::Clip(_)) { CLIP } else { "index.m3u8" };
    let (extent, reload) = (extent.to_string(), reload.to_string());
    match extent.is_empty() || reload.is_empty() {
        true => format!("{name}{extent}{reload}"),
        false => format!("{name}{extent}&{}", &reload[1..]),
    }
}

/// The rendition that a query names.
fn rendition(query: Option<&str>) -> Result<Option<Rendition>, id::Error> {
    extent::value(query, "rendition").map(str::parse).transpose()
}

/// Plain decimal digits only: one name per chunk, no `+1` or `007`.
fn number(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|c| c.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_parsed_prints_as_one_name_for_all() {
        for (path, query, name) in [
            ("alice/index.m3u8", Some("x=1&_HLS_msn=5"), "/hls/alice/index.m3u8"),
            ("alice/01b/index.m3u8", Some("x"), "/hls/alice/01b/index.m3u8"),
            ("alice/01b/720p/index.m3u8", None, "/hls/alice/01b/720p/index.m3u8"),
            (
                "alice/01b/720p/index.m3u8",
                Some("r=0.77&_HLS_part=2&_HLS_skip=v2&_HLS_msn=5"),
                "/hls/alice/01b/720p/index.m3u8?_HLS_msn=5&_HLS_part=2&_HLS_skip=YES",
            ),
            (
                "alice/01b/720p/index.m3u8",
                Some("_HLS_msn=5&from=start"),
                "/hls/alice/01b/720p/index.m3u8?from=start&_HLS_msn=5",
            ),
            ("alice/index.m3u8", Some("x&from=start"), "/hls/alice/index.m3u8?from=start"),
            ("alice/01b/clip.m3u8", Some("to=2.50&from=1"), "/hls/alice/01b/clip.m3u8?from=1&to=2.5"),
            ("alice/01b/index.mp4", Some("x=y"), "/hls/alice/01b/index.mp4"),
            ("alice/01b/index.mp4", Some("rendition=720p"), "/hls/alice/01b/index.mp4?rendition=720p"),
            (
                "alice/01b/clip.mp4",
                Some("rendition=audio&from=1&to=2"),
                "/hls/alice/01b/clip.mp4?from=1&to=2&rendition=audio",
            ),
            ("alice/01b/720p/clip.m3u8", Some("from=1&to=2"), "/hls/alice/01b/720p/clip.m3u8?from=1&to=2"),
            ("alice/01b/720p/init-00ff.mp4", Some("x"), "/hls/alice/01b/720p/init-00ff.mp4"),
            ("alice/01b/720p/12.3.m4s", Some("_HLS_msn=x"), "/hls/alice/01b/720p/12.3.m4s"),
            ("alice/01b/720p/0.1.2.m4s", None, "/hls/alice/01b/720p/0.1.2.m4s"),
            ("alice/01b/720p/iframes.m3u8", Some("x=1"), "/hls/alice/01b/720p/iframes.m3u8"),
            ("alice/01b/720p/iframes.m3u8", Some("to=2&from=1"), "/hls/alice/01b/720p/iframes.m3u8?from=1&to=2"),
            ("alice/01b/720p/iframes.m3u8", Some("from=start"), "/hls/alice/01b/720p/iframes.m3u8?from=start"),
            ("alice/01b/poster.jpg", Some("at=7"), "/hls/alice/01b/poster.jpg"),
            ("alice/01b/storyboard.vtt", None, "/hls/alice/01b/storyboard.vtt"),
            ("alice/01b/storyboard-3.25.jpg", None, "/hls/alice/01b/storyboard-3.25.jpg"),
        ] {
            let object = Object::parse(path, query).unwrap();
            assert_eq!(object.to_string(), name);
            assert_eq!(object.is_playlist(), path.ends_with("m3u8"));
        }
    }

    #[test]
    fn only_the_names_we_give_out_are_files() {
        for bad in [
            "",
            "12.m4s",
            "+1.2.m4s",
            "01.2.m4s",
            "1.2.3.4.m4s",
            "1.2.03.m4s",
            "1.2..m4s",
            "init-.mp4",
            "init-..mp4",
            "1.2.mp4",
            "99999999999999999999.1.m4s",
            "index.m3u8/",
            "1.2.m4s/x",
        ] {
            assert_eq!(Object::parse(&format!("alice/01b/source/{bad}"), None), Err(NoObject::NoFile), "{bad}");
        }
        for bad in ["", "alice", "alice/", "alice/01b", "alice/01b/source", "alice/index.m3u8/x"] {
            assert!(Object::parse(bad, None).is_err(), "{bad}");
        }
        assert!(matches!(Object::parse("..%2f/index.m3u8", None), Err(NoObject::BadName(_))));
        let reload = Object::parse("alice/01b/source/index.m3u8", Some("_HLS_part=1"));
        assert_eq!(reload, Err(NoObject::BadReload(BadReload::PartAlone)));
        let clip = Object::parse("alice/01b/clip.m3u8", Some("from=2&to=1"));
        assert_eq!(clip, Err(NoObject::BadClip(BadClip::Order)));
    }
}
