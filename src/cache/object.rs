//! What viewers fetch, as its URL names it (DESIGN section 10): parsed once, and one text for all who ask for the same.

use std::{fmt, sync::Arc};

use crate::{
    id::{self, BroadcastId, Rendition, StreamId},
    package::{BadReload, Reload},
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
    Current,
    /// The multivariant playlist of one broadcast.
    Multivariant(BroadcastId),
    /// What lies in a rendition's folder.
    File(BroadcastId, Rendition, File),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum File {
    /// `index.m3u8`.
    Playlist(Reload),
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
}

impl Object {
    /// Reads what comes after `/hls/` and the query. Parameters that are none of ours do not count.
    pub fn parse(path: &str, query: Option<&str>) -> Result<Self, NoObject> {
        let mut names = path.split('/');
        let stream = names.next().unwrap_or_default().parse()?;
        let rest: [Option<&str>; 4] = std::array::from_fn(|_| names.next());
        let what = match rest {
            [Some("index.m3u8"), None, ..] => What::Current,
            [Some(broadcast), Some("index.m3u8"), None, _] => What::Multivariant(broadcast.parse()?),
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
            What::Current => None,
            What::Multivariant(broadcast) | What::File(broadcast, ..) => Some(broadcast),
        }
    }

    /// A chunk or a part: where it is not there, it may be there any moment.
    pub fn is_made_live(&self) -> bool {
        matches!(&self.what, What::File(_, _, File::Chunk { .. } | File::Part { .. }))
    }

    pub fn is_playlist(&self) -> bool {
        !matches!(&self.what, What::File(_, _, File::Init(_) | File::Chunk { .. } | File::Part { .. }))
    }
}

/// The URL's path and query: `/hls/alice/01b/720p/index.m3u8?_HLS_msn=7`.
impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/hls/{}/", self.stream)?;
        match &self.what {
            What::Current => write!(f, "index.m3u8"),
            What::Multivariant(broadcast) => write!(f, "{broadcast}/index.m3u8"),
            What::File(broadcast, rendition, file) => write!(f, "{broadcast}/{rendition}/{file}"),
        }
    }
}

impl File {
    fn parse(name: &str, query: Option<&str>) -> Result<Self, NoObject> {
        if name == "index.m3u8" {
            return Ok(File::Playlist(Reload::parse(query)?));
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
            File::Playlist(reload) => write!(f, "index.m3u8{reload}"),
            File::Init(hash) => write!(f, "init-{hash}.mp4"),
            File::Chunk { k, epoch } => write!(f, "{k}.{epoch}.m4s"),
            File::Part { k, epoch, part } => write!(f, "{k}.{epoch}.{part}.m4s"),
        }
    }
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
            ("alice/01b/720p/init-00ff.mp4", Some("x"), "/hls/alice/01b/720p/init-00ff.mp4"),
            ("alice/01b/720p/12.3.m4s", Some("_HLS_msn=x"), "/hls/alice/01b/720p/12.3.m4s"),
            ("alice/01b/720p/0.1.2.m4s", None, "/hls/alice/01b/720p/0.1.2.m4s"),
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
    }
}
