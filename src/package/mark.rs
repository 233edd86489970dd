//! What is told beside chunks, by time: the tags EXT-X-DATERANGE of a media playlist (rfc8216bis 4.4.5.1).

use std::fmt::{Display, Formatter, Write};

use crate::{id::EventId, time::UnixMs};

/// Marks of one class end where the next begins.
const CLASS: &str = "weir.now";

/// What plays from a moment on, until the next one; nothing does where it says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Never used again for another one.
    pub id: EventId,
    pub start: UnixMs,
    pub title: Option<String>,
    pub artist: Option<String>,
    pub artwork: Option<String>,
}

impl Display for Mark {
    /// The tag, without its line break.
    fn fmt(&self, f: &mut Formatter) -> std::fmt::Result {
        let Mark { id, start, title, artist, artwork } = self;
        write!(f, "#EXT-X-DATERANGE:ID=\"{id}\",CLASS=\"{CLASS}\",START-DATE=\"{start}\",END-ON-NEXT=YES")?;
        for (name, value) in [("TITLE", title), ("ARTIST", artist), ("ARTWORK", artwork)] {
            if let Some(value) = value {
                write!(f, ",X-{name}=\"{}\"", Quoted(value))?;
            }
        }
        Ok(())
    }
}

/// Those of `marks`, which are in the order of their starts, that are heard from `from` on: the one that runs then, and all after.
pub fn heard_from(marks: &[Mark], from: UnixMs) -> &[Mark] {
    let later = marks.partition_point(|mark| mark.start <= from);
    &marks[later.saturating_sub(1)..]
}

/// A text as a quoted-string can hold it (rfc8216bis 4.2): without quotes of its own and without control characters.
struct Quoted<'a>(&'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut Formatter) -> std::fmt::Result {
        self.0.chars().filter(|c| !c.is_control()).try_for_each(|c| f.write_char(if c == '"' { '\'' } else { c }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(ms: i64) -> Mark {
        let start = UnixMs(1_767_225_600_000 + ms);
        Mark { id: EventId::first_at(start), start, title: None, artist: None, artwork: None }
    }

    #[test]
    fn no_text_breaks_out_of_its_quotes() {
        let (title, artwork) = (Some("a \"b\", c\r\n#EXT-X-ENDLIST\u{85}".into()), Some("https://a/b?c=1,2".into()));
        let text = Mark { title, artwork, ..mark(0) }.to_string();
        assert_eq!(
            text,
            "#EXT-X-DATERANGE:ID=\"03nfc9c000000\",CLASS=\"weir.now\",START-DATE=\"2026-01-01T00:00:00.000Z\",END-ON-NEXT=YES,\
             X-TITLE=\"a 'b', c#EXT-X-ENDLIST\",X-ARTWORK=\"https://a/b?c=1,2\""
        );
    }

    #[test]
    fn the_one_that_runs_is_heard_too() {
        let marks = [mark(0), mark(1000), mark(2000)];
        let heard = |ms: i64| heard_from(&marks, UnixMs(1_767_225_600_000 + ms)).len();
        assert_eq!([-1, 0, 999, 1000, 1500, 5000].map(heard), [3, 3, 3, 2, 2, 1]);
        assert!(heard_from(&[], UnixMs(0)).is_empty());
    }
}
