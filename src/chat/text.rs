//! Names and texts as people may write them: what looks like another or hides something is taken out or refused. Pure.

use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};
use unicode_security::skeleton;

/// Letters of a name and of a message.
pub const NAME_MAX: usize = 25;
pub const TEXT_MAX: usize = 500;
/// Marks on one letter: some scripts need three.
const MARKS_MAX: usize = 3;
/// Names that only the node, or those whose they are, may have; compared by what they look like.
const RESERVED: &[&str] =
    &["admin", "administrator", "mod", "moderator", "streamer", "system", "server", "weir", "owner"];

/// Why a name or text is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("there is nothing to read in it")]
    Empty,
    #[error("it is too long: a name has at most 25 letters, a message 500")]
    Long,
    #[error("this name is taken or reserved")]
    Reserved,
}

/// Gives a name as it is shown. `taken`: names that others have in this room.
pub fn name(text: &str, taken: &[&str]) -> Result<String, Unfit> {
    // Once more: what was hidden between two letters may have kept them apart.
    let name: String = tidy(&text.nfkc().collect::<String>()).nfkc().collect();
    let name = name.trim_start_matches(['@', '#', '/']).trim().to_owned();
    if !name.chars().any(char::is_alphanumeric) {
        return Err(Unfit::Empty);
    }
    if name.chars().count() > NAME_MAX {
        return Err(Unfit::Long);
    }
    let looks = looks(&name);
    if RESERVED.iter().chain(taken).any(|other| self::looks(other) == looks) {
        return Err(Unfit::Reserved);
    }
    Ok(name)
}

/// What a name looks like, whatever letters it is made of (UTS 39 section 4): `Аdmin` and `admin` are one.
pub fn looks(name: &str) -> String {
    let letters = name.to_lowercase();
    let plain: String = skeleton(&letters).filter(|c| c.is_alphanumeric()).collect();
    // Small l and capital I, 0 and O, as the skeleton has them, in one case.
    skeleton(&plain.to_lowercase()).collect()
}

/// Gives a message's text as it is shown.
pub fn message(text: &str) -> Result<String, Unfit> {
    let text: String = tidy(&text.nfc().collect::<String>()).nfc().collect();
    match text.chars().count() {
        0 => Err(Unfit::Empty),
        n if n > TEXT_MAX => Err(Unfit::Long),
        _ => Ok(text),
    }
}

/// Takes out what is not seen or turns the order of what is: controls, bidirectional marks, marks piled on a letter. Space is
/// one blank each.
fn tidy(text: &str) -> String {
    let (mut tidy, mut marks) = (String::with_capacity(text.len()), 0);
    for c in text.chars() {
        marks = if is_combining_mark(c) { marks + 1 } else { 0 };
        match c {
            _ if marks > MARKS_MAX || is_hidden(c) => {}
            _ if c.is_whitespace() || c.is_control() => {
                if !tidy.is_empty() && !tidy.ends_with(' ') {
                    tidy.push(' ');
                }
            }
            _ => tidy.push(c),
        }
    }
    tidy.truncate(tidy.trim_end().len());
    tidy
}

/// Not seen, and of use to nobody in a line of text; joiners of emoji stay.
fn is_hidden(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}' | '\u{200c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0e}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e001f}' | '\u{e0080}'..='\u{e0fff}')
}

/// Whether a text has an address in it that a reader could open.
pub fn has_link(text: &str) -> bool {
    text.split(|c: char| c.is_whitespace() || "()<>[]{}\"'".contains(c)).any(|word| {
        let word = word.to_ascii_lowercase();
        if word.contains("://") || word.starts_with("www.") {
            return true;
        }
        let host = word.split(['/', '?', '#', ':']).next().unwrap_or_default().trim_end_matches(['.', ',', '!', ';']);
        let mut labels = host.split('.');
        let top = labels.next_back().unwrap_or_default();
        let is_label = |label: &str| !label.is_empty() && label.chars().all(|c| c.is_alphanumeric() || c == '-');
        let (mut before, named) = (labels.peekable(), top.len() >= 2 && top.chars().all(char::is_alphabetic));
        // "e.g" and "no.Yes" are no hosts; two letters before a known ending are.
        before.peek().is_some_and(|label| label.len() >= 2) && named && before.all(is_label) && is_ending(top)
    })
}

/// Ends of names that people send. Any other is caught by `www.` or `://`.
fn is_ending(top: &str) -> bool {
    const ENDINGS: &[&str] = &[
        "com", "net", "org", "info", "biz", "io", "gg", "tv", "me", "co", "app", "dev", "live", "xyz", "site", "shop",
        "store", "online", "club", "link", "top", "ru", "cn", "de", "uk", "eu", "us", "fr", "nl", "pl", "br", "jp",
        "in", "it", "es", "ly", "to", "cc", "ws", "be", "ch", "at", "se", "no", "ai", "ee", "fm", "pro", "vip", "win",
        "gl",
    ];
    ENDINGS.contains(&top)
}

/// Whether a text is emotes (`:name:`) and pictures alone.
pub fn is_emotes(text: &str) -> bool {
    let is_emote = |word: &str| {
        let name = word.strip_prefix(':').and_then(|word| word.strip_suffix(':'));
        name.is_some_and(is_emote_name) || word.chars().all(is_picture)
    };
    text.split(' ').all(is_emote)
}

/// Whether an emote may be called so.
pub fn is_emote_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_+-".contains(c))
}

fn is_picture(c: char) -> bool {
    matches!(c,
        '\u{200d}' | '\u{fe0f}' | '\u{20e3}' | '\u{2139}' | '\u{2190}'..='\u{21ff}' | '\u{2300}'..='\u{23ff}'
        | '\u{25a0}'..='\u{27bf}' | '\u{2b00}'..='\u{2bff}' | '\u{1f000}'..='\u{1faff}' | '\u{e0020}'..='\u{e007f}')
}

/// Whether a blocked word is in a text, also where it is spelt with other letters that look alike. Words are whole; one that
/// ends in `*` is the beginning of a word.
pub fn has_blocked(text: &str, blocked: &[String]) -> bool {
    if blocked.is_empty() {
        return false;
    }
    let words: Vec<String> =
        text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(looks).collect();
    blocked.iter().any(|entry| match entry.strip_suffix('*') {
        Some(begin) => {
            let begin = looks(begin);
            !begin.is_empty() && words.iter().any(|word| word.starts_with(&begin))
        }
        None => {
            let entry = looks(entry);
            words.contains(&entry)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_look_like_others_are_refused() {
        assert_eq!(name("  Ann \u{202e}B ", &[]).unwrap(), "Ann B");
        assert_eq!(name("@ann", &[]).unwrap(), "ann");
        // Wide letters are the plain ones.
        assert_eq!(name("\u{ff21}\u{ff4e}\u{ff4e}", &[]).unwrap(), "Ann");
        for taken in ["Admin", "\u{410}dmin", "m\u{43e}d", "MODERATOR", "we\u{131}r", "sys tem", "A.d.m.i.n"] {
            assert_eq!(name(taken, &[]), Err(Unfit::Reserved), "{taken}");
        }
        assert_eq!(name("Al\u{456}ce", &["alice"]), Err(Unfit::Reserved));
        for empty in ["", "   ", "\u{200b}\u{200b}", "!!!", "\u{3164}", "@"] {
            assert_eq!(name(empty, &[]), Err(Unfit::Empty), "{empty}");
        }
        assert_eq!(name(&"x".repeat(26), &[]), Err(Unfit::Long));
        assert!(name("山田太郎", &[]).is_ok() && name("Łukasz", &[]).is_ok() && name("👍 bob", &[]).is_ok());
    }

    #[test]
    fn texts_hide_nothing_and_keep_their_letters() {
        assert_eq!(message(" a\n\nb\t c ").unwrap(), "a b c");
        assert_eq!(message("evil\u{202e}gpj.exe").unwrap(), "evilgpj.exe");
        assert_eq!(
            message("\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467} ok \u{2764}\u{fe0f}").unwrap(),
            "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467} ok \u{2764}\u{fe0f}"
        );
        assert_eq!(message(&format!("z{}", "\u{300}".repeat(50))).unwrap().chars().count(), 4);
        // What is hidden keeps no letter and its mark apart.
        assert_eq!(message("L\u{202e}\u{301}").unwrap(), "\u{139}");
        assert_eq!(message("<b>&amp;</b>").unwrap(), "<b>&amp;</b>");
        assert_eq!(message("\u{0}\u{7}\u{feff}"), Err(Unfit::Empty));
        assert_eq!(message(&"ü".repeat(501)), Err(Unfit::Long));
        assert!(message(&"ü".repeat(500)).is_ok());
    }

    #[test]
    fn links_emotes_and_blocked_words_are_found() {
        for link in
            ["see http://x", "www.foo", "go example.com now", "(foo-bar.co.uk/x?y)", "bit.ly/abc", "EXAMPLE.COM!"]
        {
            assert!(has_link(link), "{link}");
        }
        for none in ["e.g. this", "wait...what", "no.yes", "3.14", "v1.2.3", "a/b", "end.", "10:30"] {
            assert!(!has_link(none), "{none}");
        }
        assert!(is_emotes(":wave: \u{1f600} \u{2764}\u{fe0f}") && !is_emotes("hi :wave:") && !is_emotes("::"));
        let blocked = ["spam".to_owned(), "bad*".to_owned()];
        for hit in ["SPAM", "so sp\u{430}m!", "badly", "x-bad-x"] {
            assert!(has_blocked(hit, &blocked), "{hit}");
        }
        for miss in ["spammer", "abad", "sp am", ""] {
            assert!(!has_blocked(miss, &blocked), "{miss}");
        }
        assert!(!has_blocked("anything", &["*".to_owned()]));
    }
}
