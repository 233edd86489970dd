//! What a stream plays now: title, artist, picture, and whatever else its programs tell.
//!
//! A [`Wish`] enters, from a program or an encoder, and is made a [`Now`] under a stamp; of two the one with the later stamp
//! counts, so all nodes that heard of both show the same. The [`Board`] keeps it ready to be sent, [`Playing`] joins it with the
//! store and other nodes.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use unicode_normalization::UnicodeNormalization;
use url::Url;
use utoipa::ToSchema;

use crate::{
    id::EventId,
    rtmp::flv::Metadata,
    time::{UnixMs, unix_now},
};

mod board;
mod playing;

pub use board::{Board, Kept, Shown};
pub use playing::{By, PATH, Playing, Posted, Problem, Set};

/// Letters of a title, and of an artist.
pub const TEXT_MAX: usize = 300;
/// Bytes of a picture's address.
const ARTWORK_MAX: usize = 2 << 10;
/// Bytes of what else is told, as JSON.
const DATA_MAX: usize = 4 << 10;
/// What begins later is not now. Clocks of programs may be ahead by so much, milliseconds.
const AHEAD_MS: i64 = 60_000;

/// What a stream plays from a moment on. One that says nothing: nothing any more.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Now {
    /// The stamp: later ones count. Zero where nothing was ever set.
    pub id: EventId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artist: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<UnixMs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artwork: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

/// What a stream plays, as it is told. All is `null` where nothing plays.
#[derive(Serialize, ToSchema)]
#[schema(as = NowPlaying)]
pub struct Told<'a> {
    /// Grows with each change.
    id: Option<EventId>,
    title: Option<&'a str>,
    artist: Option<&'a str>,
    #[schema(format = DateTime)]
    started: Option<String>,
    /// Address of a picture, or path of one on this server.
    artwork: Option<&'a str>,
    /// Whatever its program wants to tell.
    data: Option<&'a Value>,
}

impl Now {
    /// Whether it says that nothing plays.
    pub fn is_nothing(&self) -> bool {
        (&self.title, &self.artist, &self.artwork, &self.data) == (&None, &None, &None, &None)
    }

    /// Whether it counts in the place of `other`. Of two with one stamp, which two nodes may give at once, all take the same.
    pub fn is_after(&self, other: &Now) -> bool {
        self.id > other.id || (self.id == other.id && self.told() > other.told())
    }

    /// When it began.
    pub fn begun(&self) -> UnixMs {
        self.started.unwrap_or_else(|| self.id.at())
    }

    /// As clients are told it: JSON with every field.
    pub fn told(&self) -> String {
        let Now { id, title, artist, started, artwork, data } = self;
        let told = Told {
            id: Some(*id).filter(|id| id.0 > 0),
            title: title.as_deref(),
            artist: artist.as_deref(),
            started: started.map(|at| at.to_string()),
            artwork: artwork.as_deref(),
            data: data.as_ref(),
        };
        serde_json::to_string(&told).expect("plain data")
    }

    /// Whether it says the same as `wish`, which need not say when it began.
    fn says(&self, wish: &Wish) -> bool {
        let Wish { title, artist, started, artwork, data } = wish;
        (&self.title, &self.artist, &self.artwork, &self.data) == (title, artist, artwork, data)
            && started.is_none_or(|started| self.started == Some(started))
    }
}

/// What somebody wants to be shown.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Wish {
    pub title: Option<String>,
    pub artist: Option<String>,
    /// When it began; now, where nothing is said.
    pub started: Option<UnixMs>,
    pub artwork: Option<String>,
    pub data: Option<Value>,
}

/// What a stream plays from now on: a title, an artist, artwork or data at least.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SetNowPlaying)]
pub struct Asked {
    title: Option<String>,
    artist: Option<String>,
    /// When it began; now, where nothing is said.
    #[schema(format = DateTime)]
    started: Option<String>,
    /// Address of a picture (http or https), or path of one on this server.
    artwork: Option<String>,
    /// Whatever is to be told: 4 KB at most.
    data: Option<Value>,
}

/// Why something cannot be shown: the client's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("{0} has more than {TEXT_MAX} letters")]
    Long(&'static str),
    #[error(
        "artwork is no http or https address and no path on this server (\"/...\"), or has more than {ARTWORK_MAX} bytes"
    )]
    Artwork,
    #[error("data has more than {DATA_MAX} bytes")]
    Data,
    #[error("started is a time such as 2026-01-01T12:00:00Z")]
    Time,
    #[error("started is in the future: what plays now has begun")]
    Ahead,
    #[error("nothing is said: give a title, an artist, artwork or data, or DELETE what is shown")]
    Nothing,
}

impl Asked {
    /// Checks it, and takes out what nobody could read.
    pub fn checked(self, now: UnixMs) -> Result<Wish, Unfit> {
        let text = |text: Option<String>, what| match text.as_deref().and_then(clean) {
            Some(text) if text.chars().count() > TEXT_MAX => Err(Unfit::Long(what)),
            text => Ok(text),
        };
        let started = self.started.map(|text| UnixMs::parse_rfc3339(&text).ok_or(Unfit::Time)).transpose()?;
        if started.is_some_and(|started| started.0 > now.0 + AHEAD_MS) {
            return Err(Unfit::Ahead);
        }
        let artwork = self.artwork.filter(|text| !text.trim().is_empty());
        let wish = Wish {
            title: text(self.title, "title")?,
            artist: text(self.artist, "artist")?,
            started,
            artwork: artwork.map(|text| address(&text).ok_or(Unfit::Artwork)).transpose()?,
            data: self.data.filter(|data| !data.is_null()),
        };
        if wish.data.as_ref().is_some_and(|data| data.to_string().len() > DATA_MAX) {
            return Err(Unfit::Data);
        }
        if wish == (Wish { started, ..Wish::default() }) {
            return Err(Unfit::Nothing);
        }
        Ok(wish)
    }
}

impl Wish {
    /// What an encoder says that it plays; nothing where it says nothing of the kind.
    pub fn of_encoder(metadata: &Metadata) -> Option<Self> {
        let cut = |text: &Option<String>| Some(clean(text.as_deref()?)?.chars().take(TEXT_MAX).collect::<String>());
        let (title, artist) = (cut(&metadata.title), cut(&metadata.artist));
        (title.is_some() || artist.is_some()).then(|| Self { title, artist, ..Self::default() })
    }

    fn stamped(self, id: EventId) -> Now {
        let Wish { title, artist, started, artwork, data } = self;
        let is_something = title.is_some() || artist.is_some() || artwork.is_some() || data.is_some();
        let started = started.or_else(|| is_something.then(unix_now));
        Now { id, title, artist, started, artwork, data }
    }
}

/// A text in one line, without what cannot be seen or turns the letters round; nothing where nothing is left.
fn clean(text: &str) -> Option<String> {
    let turns = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let visible = text.nfc().filter(|c| !c.is_control() && !turns(*c) && !matches!(c, '\u{2028}' | '\u{2029}'));
    let text = visible.collect::<String>();
    Some(text.trim()).filter(|text| !text.is_empty()).map(str::to_owned)
}

/// An address that a page may show a picture from: on this server, or elsewhere by HTTP.
fn address(text: &str) -> Option<String> {
    let text = text.trim();
    let is_here = text.starts_with('/');
    // A second slash would lead to another server, and a backslash is taken for one.
    if text.starts_with("//") || text.contains('\\') {
        return None;
    }
    let here = Url::parse("http://here").expect("an address");
    let url = if is_here { here.join(text).ok()? } else { Url::parse(text).ok()? };
    let is_web = matches!(url.scheme(), "http" | "https") && url.has_host();
    let is_open = url.username().is_empty() && url.password().is_none();
    let address = if is_here { url.as_str().strip_prefix("http://here")?.to_owned() } else { url.into() };
    (is_web && is_open && address.len() <= ARTWORK_MAX).then_some(address)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: UnixMs = UnixMs(1_767_225_600_000);

    fn checked(asked: Value) -> Result<Wish, Unfit> {
        serde_json::from_value::<Asked>(asked).expect("known fields").checked(NOW)
    }

    #[test]
    fn what_is_asked_for_is_checked_and_cleaned() {
        let wish = checked(json!({
            "title": " Caf\u{65}\u{301} \u{202e}x\n", "artist": "\u{0}", "started": "2026-01-01T00:59:30.5+01:00",
            "artwork": "/pictures/a \"b\".jpg?x=1", "data": { "bpm": 120 },
        }));
        let want = Wish {
            title: Some("Caf\u{e9} x".into()),
            artist: None,
            started: Some(UnixMs(NOW.0 - 29_500)),
            artwork: Some("/pictures/a%20%22b%22.jpg?x=1".into()),
            data: Some(json!({ "bpm": 120 })),
        };
        assert_eq!(wish, Ok(want));
        let long = "\u{e4}".repeat(TEXT_MAX);
        assert!(checked(json!({ "title": long, "artist": long })).is_ok());
        for (asked, why) in [
            (json!({ "title": format!("{long}x") }), Unfit::Long("title")),
            (json!({ "artist": format!("{long}x") }), Unfit::Long("artist")),
            (json!({ "data": "x".repeat(DATA_MAX) }), Unfit::Data),
            (json!({ "artwork": format!("/{}", "x".repeat(ARTWORK_MAX)) }), Unfit::Artwork),
            (json!({ "artwork": "javascript:alert(1)" }), Unfit::Artwork),
            (json!({ "artwork": "//elsewhere/a" }), Unfit::Artwork),
            (json!({ "artwork": "/\\elsewhere/a" }), Unfit::Artwork),
            (json!({ "artwork": "http://" }), Unfit::Artwork),
            (json!({ "artwork": "https://me:secret@host/" }), Unfit::Artwork),
            (json!({ "artwork": "a.jpg" }), Unfit::Artwork),
            (json!({ "title": "a", "started": "today" }), Unfit::Time),
            (json!({ "title": "a", "started": "2026-01-01T00:01:01Z" }), Unfit::Ahead),
            (json!({}), Unfit::Nothing),
            (json!({ "title": " ", "data": null, "artwork": "", "started": "2026-01-01T00:00:00Z" }), Unfit::Nothing),
        ] {
            assert_eq!(checked(asked.clone()), Err(why), "{asked}");
        }
        assert!(serde_json::from_value::<Asked>(json!({ "titel": "a" })).is_err());
    }

    #[test]
    fn everything_is_told_and_read_again() {
        assert_eq!(
            Now::default().told(),
            r#"{"id":null,"title":null,"artist":null,"started":null,"artwork":null,"data":null}"#
        );
        let now = Now { id: EventId::first_at(NOW), title: Some("a".into()), started: Some(NOW), ..Now::default() };
        assert!(
            now.told()
                .contains(r#""id":"03nfc9c000000","title":"a","artist":null,"started":"2026-01-01T00:00:00.000Z""#)
        );
        let read: Now = serde_json::from_value(serde_json::to_value(&now).unwrap()).unwrap();
        assert_eq!(read, now);
        assert!(!now.is_nothing() && Now { title: None, ..now }.is_nothing());
    }

    #[test]
    fn of_two_with_one_stamp_every_node_takes_the_same() {
        let now = |id, title: &str| Now { id: EventId(id), title: Some(title.into()), ..Now::default() };
        assert!(now(2, "a").is_after(&now(1, "b")) && !now(1, "b").is_after(&now(2, "a")));
        assert!(now(1, "b").is_after(&now(1, "a")) && !now(1, "a").is_after(&now(1, "b")));
        assert!(!now(1, "a").is_after(&now(1, "a")));
    }

    #[test]
    fn an_encoder_says_something_or_nothing() {
        let said = |title: &str, artist: &str| {
            let text = |text: &str| Some(text.to_owned());
            Wish::of_encoder(&Metadata { title: text(title), artist: text(artist), ..Metadata::default() })
        };
        assert_eq!(said("", " "), None);
        assert_eq!(Wish::of_encoder(&Metadata::default()), None);
        let title = Some("x".repeat(TEXT_MAX));
        assert_eq!(said(&"x".repeat(500), ""), Some(Wish { title, ..Wish::default() }));
    }
}
