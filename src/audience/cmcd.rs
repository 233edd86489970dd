//! Reads what players report: Common Media Client Data, version 1 (CTA-5004) and 2 (CTA-5004-B). Pure.
//!
//! A report is a dictionary of structured fields (RFC 8941 3.2): `br=(2400),cid="alice",e=t,sid="...",sta=p,ts=...,v=2`. Version 1
//! writes plain numbers where version 2 has lists. What is not known is passed over, and so is a value that is not of its key's
//! kind: players of all versions are understood as far as they can be.

use std::borrow::Cow;

/// Longest report, bytes: a player sends some 300.
pub const REPORT_MAX: usize = 8 << 10;
/// Keys that are looked at; the standard has some 60.
const KEYS_MAX: usize = 128;
/// Longest session and content ids, bytes (CTA-5004-B: 64 and 128 characters).
const SID_MAX: usize = 256;
const CID_MAX: usize = 512;
/// Whole numbers of so many digits are exact in a float.
const WHOLE_DIGITS: usize = 15;
/// Our own key: the rendition on screen, by name.
const RENDITION: &str = "weir-rendition";

/// What a viewer's player does (`sta`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Playing {
    Starting,
    Playing,
    Seeking,
    Stalled,
    Paused,
    /// Media is loaded, and nobody has asked for it to be played.
    Preloading,
    /// The media is over, the player has failed, or the viewer has left.
    Over,
}

/// One report, as far as it says something that is counted.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Report<'a> {
    pub sid: Cow<'a, str>,
    pub cid: Cow<'a, str>,
    /// `e`: what happened, where this is a report of an event.
    pub event: Option<Cow<'a, str>>,
    pub playing: Option<Playing>,
    /// What is played is live (`st`).
    pub is_live: Option<bool>,
    pub rendition: Option<Cow<'a, str>>,
    /// Encoded bitrate of what is played (`pb`) or chosen (`br`), kbit/s.
    pub kbps: Option<u32>,
    pub latency_ms: Option<u32>,
    pub startup_ms: Option<u32>,
    /// The buffer ran empty since the report before.
    pub starved: bool,
    /// Halts so far, and how long they lasted together.
    pub stalls: Option<u32>,
    pub stalls_ms: Option<u32>,
    /// How long halts lasted that are over since the report before.
    pub stall_ms: Option<u32>,
    /// Frames that were not shown so far.
    pub dropped: Option<u32>,
    /// The player's word for what went wrong.
    pub error: Option<Cow<'a, str>>,
    /// Number of the report in its session.
    pub sn: Option<u32>,
    /// When it was made, by the player's clock (ms since 1970).
    pub ts: Option<u64>,
}

/// Why a text is no report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("it is longer than {REPORT_MAX} bytes")]
    TooLong,
    #[error("it is no dictionary of CMCD keys")]
    Malformed,
    #[error("it has no session id (sid), or one that is too long")]
    NoSession,
}

/// A value as it stands in a report.
enum Value<'a> {
    True,
    False,
    Number(f64),
    /// A token or a string.
    Text(Cow<'a, str>),
    /// An inner list: its first number that is of video or of no kind, or else its first; all numbers together; its first text.
    List {
        number: Option<f64>,
        sum: f64,
        text: Option<Cow<'a, str>>,
    },
}

impl<'a> Value<'a> {
    fn number(&self) -> Option<f64> {
        match self {
            Value::Number(number) => Some(*number),
            Value::List { number, .. } => *number,
            _ => None,
        }
    }

    /// As a count; what is below zero or no number counts as none, what is too large as the largest.
    fn count(&self) -> Option<u32> {
        self.number().filter(|number| *number >= 0.0).map(|number| number as u32)
    }

    fn sum(&self) -> Option<u32> {
        match self {
            Value::List { sum, .. } if *sum >= 0.0 => Some(*sum as u32),
            other => other.count(),
        }
    }

    fn text(self) -> Option<Cow<'a, str>> {
        match self {
            Value::Text(text) | Value::List { text: Some(text), .. } => Some(text),
            _ => None,
        }
    }
}

impl<'a> Report<'a> {
    /// Reads one report.
    pub fn parse(text: &'a str) -> Result<Self, Error> {
        if text.len() > REPORT_MAX {
            return Err(Error::TooLong);
        }
        let mut report = Report::default();
        let mut reader = Reader { text, at: 0 };
        let mut played = None;
        for _ in 0..KEYS_MAX {
            let Some((key, value)) = reader.member()? else { break };
            match key {
                "pb" => played = value.count(),
                _ => report.take(key, value),
            }
        }
        report.kbps = played.or(report.kbps);
        if report.sid.is_empty() || report.sid.len() > SID_MAX {
            return Err(Error::NoSession);
        }
        if report.cid.len() > CID_MAX {
            report.cid = Cow::Borrowed("");
        }
        Ok(report)
    }

    fn take(&mut self, key: &str, value: Value<'a>) {
        match key {
            "sid" => self.sid = value.text().unwrap_or_default(),
            "cid" => self.cid = value.text().unwrap_or_default(),
            "e" => self.event = value.text(),
            "sta" => self.playing = value.text().and_then(|state| playing(&state)),
            "st" => self.is_live = value.text().map(|kind| kind != "v"),
            RENDITION => self.rendition = value.text(),
            "br" => self.kbps = value.count(),
            "ltc" => self.latency_ms = value.count(),
            "msd" => self.startup_ms = value.count(),
            "bs" => self.starved = matches!(value, Value::True),
            "bsa" => self.stalls = value.sum(),
            "bsda" => self.stalls_ms = value.sum(),
            "bsd" => self.stall_ms = value.sum(),
            "dfa" => self.dropped = value.count(),
            "ec" => self.error = value.text(),
            "sn" => self.sn = value.count(),
            "ts" => self.ts = value.number().filter(|ts| *ts >= 0.0).map(|ts| ts as u64),
            _ => {}
        }
    }
}

/// Reads a number; most are whole.
fn number(text: &str) -> Option<f64> {
    if text.len() <= WHOLE_DIGITS && text.bytes().all(|digit| digit.is_ascii_digit()) {
        let whole = text.bytes().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
        return Some(whole as f64);
    }
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

fn playing(state: &str) -> Option<Playing> {
    Some(match state {
        "s" => Playing::Starting,
        "p" => Playing::Playing,
        "k" => Playing::Seeking,
        "r" | "w" => Playing::Stalled,
        "a" => Playing::Paused,
        "d" => Playing::Preloading,
        "e" | "f" | "q" => Playing::Over,
        _ => return None,
    })
}

/// Walks over the members of a dictionary.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn eats(&mut self, byte: u8) -> bool {
        let is_it = self.peek() == Some(byte);
        self.at += usize::from(is_it);
        is_it
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t')) {
            self.at += 1;
        }
    }

    fn run(&mut self, belongs: impl Fn(u8) -> bool) -> &'a str {
        let from = self.at;
        while self.peek().is_some_and(&belongs) {
            self.at += 1;
        }
        &self.text[from..self.at]
    }

    fn key(&mut self) -> Result<&'a str, Error> {
        let key = self.run(|byte| byte.is_ascii_alphanumeric() || b"-_.*".contains(&byte));
        if key.is_empty() { Err(Error::Malformed) } else { Ok(key) }
    }

    /// The next key and its value; none at the end.
    fn member(&mut self) -> Result<Option<(&'a str, Value<'a>)>, Error> {
        self.blanks();
        while self.eats(b',') {
            self.blanks();
        }
        if self.peek().is_none() {
            return Ok(None);
        }
        let key = self.key()?;
        let value = match self.eats(b'=') {
            true if self.eats(b'(') => self.list()?,
            true => self.item()?,
            false => Value::True,
        };
        self.parameters()?;
        self.blanks();
        match self.peek() {
            None | Some(b',') => Ok(Some((key, value))),
            Some(_) => Err(Error::Malformed),
        }
    }

    /// A string, a number, a token or a truth.
    fn item(&mut self) -> Result<Value<'a>, Error> {
        if self.eats(b'"') {
            return self.string().map(Value::Text);
        }
        if self.eats(b'?') {
            return Ok(if self.eats(b'1') {
                Value::True
            } else {
                self.at += 1;
                Value::False
            });
        }
        // Between commas and brackets: version 1 has tokens and numbers, version 2 dates (@...) and the like too.
        let bare = self.run(|byte| !matches!(byte, b',' | b';' | b' ' | b')' | b'(' | b'"'));
        if bare.is_empty() {
            return Err(Error::Malformed);
        }
        Ok(number(bare).map_or(Value::Text(Cow::Borrowed(bare)), Value::Number))
    }

    /// What follows an opening quote, to the closing one.
    fn string(&mut self) -> Result<Cow<'a, str>, Error> {
        let from = self.at;
        let plain = self.run(|byte| byte != b'"' && byte != b'\\');
        if self.eats(b'"') {
            return Ok(Cow::Borrowed(plain));
        }
        let mut text = self.text[from..self.at].to_owned();
        loop {
            text.push_str(self.run(|byte| byte != b'"' && byte != b'\\'));
            if self.eats(b'"') {
                return Ok(Cow::Owned(text));
            }
            if !self.eats(b'\\') {
                return Err(Error::Malformed);
            }
            let escaped = self.text[self.at..].chars().next().ok_or(Error::Malformed)?;
            text.push(escaped);
            self.at += escaped.len_utf8();
        }
    }

    /// What follows an opening bracket, to the closing one.
    fn list(&mut self) -> Result<Value<'a>, Error> {
        let (mut of_video, mut first, mut sum, mut text) = (None, None, 0.0, None);
        loop {
            self.blanks();
            if self.eats(b')') {
                return Ok(Value::List { number: of_video.or(first), sum, text });
            }
            let item = self.item()?;
            let is_video = self.parameters()?;
            match item {
                Value::Number(number) => {
                    sum += number;
                    first = first.or(Some(number));
                    of_video = of_video.or(Some(number).filter(|_| is_video));
                }
                Value::Text(found) => text = text.or(Some(found)),
                _ => {}
            }
        }
    }

    /// Passes over `;v` and `;r="0-99"`; whether one says that it is of video.
    fn parameters(&mut self) -> Result<bool, Error> {
        let mut is_video = false;
        while self.eats(b';') {
            self.blanks();
            is_video |= matches!(self.key()?, "v" | "av");
            if self.eats(b'=') {
                self.item()?;
            }
        }
        Ok(is_video)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_report_of_the_watch_page() {
        let text = r#"bl=(12300),br=(2400),bs,bsa=(2),bsda=(840),cid="alice",dfa=7,e=t,ltc=4200,msd=640,sf=h,sid="6e2fb550-c457-11e9-bb97-0800200c9a66",sn=3,st=ll,sta=p,ts=1764360000123,v=2,weir-rendition="720p""#;
        let report = Report::parse(text).unwrap();
        let want = Report {
            sid: "6e2fb550-c457-11e9-bb97-0800200c9a66".into(),
            cid: "alice".into(),
            event: Some("t".into()),
            playing: Some(Playing::Playing),
            is_live: Some(true),
            rendition: Some("720p".into()),
            kbps: Some(2400),
            latency_ms: Some(4200),
            startup_ms: Some(640),
            starved: true,
            stalls: Some(2),
            stalls_ms: Some(840),
            stall_ms: None,
            dropped: Some(7),
            error: None,
            sn: Some(3),
            ts: Some(1_764_360_000_123),
        };
        assert_eq!(report, want);
    }

    #[test]
    fn version_one_and_lists_of_kinds() {
        let v1 = r#"bl=21300,br=3200,bs,cid="faec5fc2",d=4004,mtp=25400,nor="..%2F300kbps%2Ftrack.m4v",nrr="12323-48763",ot=v,pr=1.08,rtp=12000,sf=d,sid="6e2fb550",st=v,su,tb=6000"#;
        let report = Report::parse(v1).unwrap();
        assert_eq!((report.kbps, report.is_live, report.starved), (Some(3200), Some(false), true));
        // Sound before the picture; what is shown before what is fetched; several halts.
        let v2 = r#"ab=(1 2), br=(128;a 2400;v), bsd=(120;v 80), nor=("a.m4s";r="0-9" "b.m4s"),pb=(1200;v),sid="s",v=2,ec=("levelLoadError" "x")"#;
        let report = Report::parse(v2).unwrap();
        assert_eq!((report.kbps, report.stall_ms), (Some(1200), Some(200)));
        assert_eq!(report.error.as_deref(), Some("levelLoadError"));
        assert_eq!(Report::parse(r#"br=(128;a 2400;v),sid="s""#).unwrap().kbps, Some(2400));
        assert_eq!(Report::parse(r#"sid="a\"b\\é",bs=?0,su=?1"#).unwrap().sid, "a\"b\\é");
    }

    #[test]
    fn what_is_not_of_its_kind_counts_as_not_said() {
        let odd = r#"br=fast,ltc=-5,msd="late",sta=zz,sn=1e300,bsa=(),ts=abc,x-y=1,sid="s",bs=0"#;
        let report = Report::parse(odd).unwrap();
        assert_eq!(report, Report { sid: "s".into(), sn: Some(u32::MAX), stalls: Some(0), ..Report::default() });
    }

    #[test]
    fn what_is_no_report_is_refused() {
        for text in ["=", "a=", "a=(", "sid=\"x", "a=\"\\", "{\"sid\":1}", "sid=\"x\" y", "(1)", "a;", "é=1"] {
            assert_eq!(Report::parse(text), Err(Error::Malformed), "{text}");
        }
        for text in ["", "  ", ",,", "br=1", "sid=5,br=1", "sid=\"\""] {
            assert_eq!(Report::parse(text), Err(Error::NoSession), "{text}");
        }
        assert_eq!(Report::parse(&format!("sid=\"{}\"", "s".repeat(300))), Err(Error::NoSession));
        assert_eq!(Report::parse(&"a".repeat(REPORT_MAX + 1)), Err(Error::TooLong));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(text in r#"[a-z=,;()"\\?0-9 .é-]{0,60}"#) {
            let _ = Report::parse(&text);
            let _ = Report::parse(&format!("sid=\"s\",{text}"));
        }
    }
}
