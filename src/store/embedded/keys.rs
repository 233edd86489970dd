//! Keys of the embedded store: rows in, bytes out that sort as the rows do. Pure.
//!
//! Numbers are big-endian, for the engine compares bytes. Names end in 0x00, which no name holds and which is below all
//! they hold, so that `alice` and `alice2` never mix. The chunk key has the parts of the cluster's table, bucket and all.

use std::ops::Range;

use crate::{
    id::{BroadcastId, ClipId, EventId, StreamId},
    store::{AudienceRow, AudienceSpan, ChatLog, ClipsOf},
    time::UnixMs,
};

/// Chunk numbers per bucket: an hour of 2 s chunks.
const BUCKET: u64 = 1800;

/// The tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Space {
    Streams,
    Epochs,
    Broadcasts,
    /// The rows of [`Space::Broadcasts`] that have not ended.
    Open,
    Chunks,
    Access,
    /// The stream of each broadcast.
    Ids,
    About,
    Clips,
    Jobs,
    Nodes,
    Chat,
    ChatRules,
    Audience,
}

impl Space {
    pub(super) const ALL: [Space; 14] = [
        Space::Streams,
        Space::Epochs,
        Space::Broadcasts,
        Space::Open,
        Space::Chunks,
        Space::Access,
        Space::Ids,
        Space::About,
        Space::Clips,
        Space::Jobs,
        Space::Nodes,
        Space::Chat,
        Space::ChatRules,
        Space::Audience,
    ];
}

/// Marks what follows in [`Space::Clips`]: the clip's id, or whose clips these are and then the id.
const BY_ID: u8 = 1;
const BY_STREAM: u8 = 2;
const OF_BROADCAST: u8 = 3;

/// Marks what follows a stream's name in [`Space::Epochs`]: the log itself, and the same rows again by broadcast, so
/// that a recording needs no walk over the whole life of its stream.
const LOG: u8 = 0;
const BY_BROADCAST: u8 = 1;

pub(super) fn stream(stream: &StreamId) -> Vec<u8> {
    stream.as_str().as_bytes().to_vec()
}

/// All streams after `after`.
pub(super) fn streams(after: Option<&StreamId>) -> Range<Vec<u8>> {
    let first = after.map_or(Vec::new(), |after| join(after, &[&[0]]));
    first..vec![u8::MAX]
}

pub(super) fn epoch(stream: &StreamId, epoch: u64) -> Vec<u8> {
    join(stream, &[&[LOG], &epoch.to_be_bytes()])
}

/// A stream's whole epoch log.
pub(super) fn epochs(stream: &StreamId) -> Range<Vec<u8>> {
    join(stream, &[&[LOG]])..join(stream, &[&[LOG + 1]])
}

pub(super) fn epoch_of(stream: &StreamId, broadcast: &BroadcastId, epoch: u64) -> Vec<u8> {
    join(stream, &[&[BY_BROADCAST], broadcast.as_str().as_bytes(), &[0], &epoch.to_be_bytes()])
}

/// The epochs of one broadcast.
pub(super) fn epochs_of(stream: &StreamId, broadcast: &BroadcastId) -> Range<Vec<u8>> {
    let head = |end| join(stream, &[&[BY_BROADCAST], broadcast.as_str().as_bytes(), &[end]]);
    head(0)..head(1)
}

/// The number at the end of an epoch's key.
pub(super) fn epoch_number(key: &[u8]) -> Option<u64> {
    key.last_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

pub(super) fn broadcast(stream: &StreamId, broadcast: &BroadcastId) -> Vec<u8> {
    join(stream, &[&[0], broadcast.as_str().as_bytes()])
}

/// A stream's broadcasts before `before`, or all of them.
pub(super) fn broadcasts(stream: &StreamId, before: Option<&BroadcastId>) -> Range<Vec<u8>> {
    let end = match before {
        Some(before) => self::broadcast(stream, before),
        None => join(stream, &[&[1]]),
    };
    join(stream, &[&[0]])..end
}

pub(super) fn chunk(stream: &StreamId, broadcast: &BroadcastId, k: u64, epoch: u64) -> Vec<u8> {
    let (bucket, k, epoch) = ((k / BUCKET).to_be_bytes(), k.to_be_bytes(), epoch.to_be_bytes());
    join(stream, &[&[0], broadcast.as_str().as_bytes(), &[0], &bucket, &k, &epoch])
}

/// A broadcast's chunks from number `from` to before `before`, over all buckets and epochs. Empty when turned round.
pub(super) fn chunks(stream: &StreamId, broadcast: &BroadcastId, from: u64, before: Option<u64>) -> Range<Vec<u8>> {
    let end = match before {
        Some(before) => chunk(stream, broadcast, before.max(from), 0),
        None => join(stream, &[&[0], broadcast.as_str().as_bytes(), &[1]]),
    };
    chunk(stream, broadcast, from, 0)..end
}

/// The chunk number in a chunk's key.
pub(super) fn chunk_number(key: &[u8]) -> Option<u64> {
    key.last_chunk::<16>().and_then(|tail| tail.first_chunk()).map(|bytes| u64::from_be_bytes(*bytes))
}

/// A clip by its own id.
pub(super) fn clip(id: &ClipId) -> Vec<u8> {
    [&[BY_ID], id.as_str().as_bytes()].concat()
}

/// The same as one of the clips of someone.
pub(super) fn clip_of(of: &ClipsOf, id: &ClipId) -> Vec<u8> {
    [clips_head(of, 0), id.as_str().into()].concat()
}

/// Someone's clips before `before`, or all of them.
pub(super) fn clips_of(of: &ClipsOf, before: Option<&ClipId>) -> Range<Vec<u8>> {
    clips_head(of, 0)..before.map_or_else(|| clips_head(of, 1), |before| clip_of(of, before))
}

fn clips_head(of: &ClipsOf, end: u8) -> Vec<u8> {
    let (mark, name) = match of {
        ClipsOf::Stream(stream) => (BY_STREAM, stream.as_str()),
        ClipsOf::Broadcast(broadcast) => (OF_BROADCAST, broadcast.as_str()),
    };
    [&[mark], name.as_bytes(), &[end]].concat()
}

/// A row of a chat.
pub(super) fn chat(stream: &StreamId, log: &ChatLog, id: EventId) -> Vec<u8> {
    join(stream, &[&[0], log.to_string().as_bytes(), &[0], &id.0.to_be_bytes()])
}

/// The rows of a log from one id to before another.
pub(super) fn chats(stream: &StreamId, log: &ChatLog, from: EventId, before: EventId) -> Range<Vec<u8>> {
    chat(stream, log, from)..chat(stream, log, before.max(from))
}

/// All rows of a log.
pub(super) fn chat_log(stream: &StreamId, log: &ChatLog) -> Range<Vec<u8>> {
    let head = |end| join(stream, &[&[0], log.to_string().as_bytes(), &[end]]);
    head(0)..head(1)
}

/// The event in a chat row's key.
pub(super) fn chat_id(key: &[u8]) -> Option<EventId> {
    key.last_chunk().map(|bytes| EventId(u64::from_be_bytes(*bytes)))
}

/// Whether the row of this key is of one of these logs.
pub(super) fn is_of(key: &[u8], logs: &[ChatLog]) -> bool {
    let log = key.iter().position(|byte| *byte == 0).zip(key.len().checked_sub(9));
    let log = log.and_then(|(begin, end)| key.get(begin + 1..end));
    log.is_some_and(|log| logs.iter().any(|known| known.to_string().as_bytes() == log))
}

/// The first key that can come after all rows of this one's log.
pub(super) fn after_log(key: &[u8]) -> Vec<u8> {
    let mut after = key[..key.len().saturating_sub(8)].to_vec();
    if let Some(last) = after.last_mut() {
        *last = 1;
    }
    after
}

pub(super) fn chat_rule(stream: &StreamId, name: &str) -> Vec<u8> {
    join(stream, &[&[0], name.as_bytes()])
}

/// All rules of a room.
pub(super) fn chat_rules(stream: &StreamId) -> Range<Vec<u8>> {
    join(stream, &[&[0]])..join(stream, &[&[1]])
}

/// The name in a rule's key.
pub(super) fn rule_name(key: &[u8]) -> Option<&str> {
    let begin = key.iter().position(|byte| *byte == 0)? + 1;
    std::str::from_utf8(&key[begin..]).ok()
}

/// A row of an audience.
pub(super) fn audience(stream: &StreamId, row: &AudienceRow) -> Vec<u8> {
    let tail = [row.broadcast.as_str().as_bytes(), &[0], row.part.as_bytes()].concat();
    match row.span {
        AudienceSpan::Whole => join(stream, &[&[0, row.span.number()], &tail]),
        _ => join(stream, &[&[0, row.span.number()], &moment(row.at), &tail]),
    }
}

/// Rows of minutes or hours from one moment to before another.
pub(super) fn audiences(stream: &StreamId, span: AudienceSpan, from: UnixMs, to: UnixMs) -> Range<Vec<u8>> {
    let head = |at: UnixMs| join(stream, &[&[0, span.number()], &moment(at)]);
    head(from)..head(to.max(from))
}

/// Rows of a whole broadcast.
pub(super) fn audience_of(stream: &StreamId, broadcast: &BroadcastId) -> Range<Vec<u8>> {
    let head = |end| join(stream, &[&[0, AudienceSpan::Whole.number()], broadcast.as_str().as_bytes(), &[end]]);
    head(0)..head(1)
}

/// The stream in the key of an audience's row.
pub(super) fn audience_stream(key: &[u8]) -> Option<StreamId> {
    std::str::from_utf8(key.split(|byte| *byte == 0).next()?).ok()?.parse().ok()
}

/// The first key that can come after all of a stream's.
pub(super) fn after_audience(stream: &StreamId) -> Vec<u8> {
    join(stream, &[&[1]])
}

/// A moment; those before 1970 are as 1970.
fn moment(at: UnixMs) -> [u8; 8] {
    (at.0.max(0) as u64).to_be_bytes()
}

/// Writes a key for people.
pub(super) fn show(space: Space, key: &[u8]) -> String {
    let number = |from_end: usize| {
        let bytes = key.len().checked_sub(from_end).and_then(|at| key[at..].first_chunk());
        bytes.map_or(0, |bytes| u64::from_be_bytes(*bytes))
    };
    let head = |cut: usize| {
        let names = key[..key.len().saturating_sub(cut)].split(|&byte| byte < b' ').filter(|name| !name.is_empty());
        names.map(|name| name.escape_ascii().to_string()).collect::<Vec<_>>().join("/")
    };
    match space {
        Space::Streams => format!("stream {}", head(0)),
        Space::Access => format!("access row {}", head(0)),
        Space::Ids => format!("stream of {}", head(0)),
        Space::About => format!("title of {}", head(0)),
        Space::Clips => format!("clip {}", head(0)),
        Space::Jobs => format!("job {}", head(0)),
        Space::Nodes => format!("node {}", head(0)),
        Space::Chat => format!("chat row {} of {}", EventId(number(8)), head(8)),
        Space::ChatRules => format!("chat rule {}", head(0)),
        Space::Audience => format!("audience row {}", head(0)),
        Space::Broadcasts | Space::Open => format!("broadcast {}", head(0)),
        Space::Epochs => format!("epoch {} of {}", number(8), head(8)),
        Space::Chunks => format!("chunk {} of epoch {} of {}", number(16), number(8), head(24)),
    }
}

fn join(owner: &StreamId, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = stream(owner);
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names() -> impl Strategy<Value = (StreamId, BroadcastId)> {
        ("[a-c][a-c0_-]{0,3}", "[a-b0]{1,3}").prop_map(|(stream, broadcast)| {
            (StreamId::new(&stream).expect("legal"), BroadcastId::new(&broadcast).expect("legal"))
        })
    }

    proptest! {
        #[test]
        fn chunk_keys_sort_as_their_rows((sa, ba) in names(), (sb, bb) in names(), a in numbers(), b in numbers()) {
            let (key_a, key_b) = (chunk(&sa, &ba, a.0, a.1), chunk(&sb, &bb, b.0, b.1));
            if (&sa, &ba) == (&sb, &bb) {
                prop_assert_eq!(a.cmp(&b), key_a.cmp(&key_b));
            }
            // A range holds its own broadcast's rows and no other's.
            let inside = chunks(&sa, &ba, b.0, None).contains(&key_b);
            prop_assert_eq!(inside, (&sa, &ba) == (&sb, &bb));
            prop_assert_eq!(chunk_number(&key_a), Some(a.0));
        }

        #[test]
        fn clip_ranges_hold_their_own_rows_alone((sa, ba) in names(), (sb, bb) in names(), id in "[a-b0]{1,3}") {
            let clip_id = ClipId::new(&id).expect("legal");
            let of = [ClipsOf::Stream(sa.clone()), ClipsOf::Broadcast(ba.clone())];
            let others = [ClipsOf::Stream(sb), ClipsOf::Broadcast(bb)];
            for (a, b) in of.iter().flat_map(|a| others.iter().map(move |b| (a, b))) {
                prop_assert_eq!(clips_of(a, None).contains(&clip_of(b, &clip_id)), a == b);
                prop_assert!(!clips_of(a, None).contains(&clip(&clip_id)));
                prop_assert!(!clips_of(a, Some(&clip_id)).contains(&clip_of(a, &clip_id)));
            }
        }

        #[test]
        fn epoch_ranges_hold_their_own_rows_alone((sa, ba) in names(), (sb, bb) in names(), n in any::<u64>()) {
            prop_assert_eq!(epochs(&sa).contains(&epoch(&sb, n)), sa == sb);
            prop_assert_eq!(epochs_of(&sa, &ba).contains(&epoch_of(&sb, &bb, n)), (&sa, &ba) == (&sb, &bb));
            prop_assert!(!epochs(&sa).contains(&epoch_of(&sb, &bb, n)));
            prop_assert!(!epochs_of(&sa, &ba).contains(&epoch(&sb, n)));
            prop_assert_eq!(broadcasts(&sa, None).contains(&broadcast(&sb, &bb)), sa == sb);
            prop_assert_eq!(epoch_number(&epoch(&sa, n)), Some(n));
        }
    }

    fn numbers() -> impl Strategy<Value = (u64, u64)> {
        (prop_oneof![0u64..4000, any::<u64>()], prop_oneof![0u64..3, any::<u64>()])
    }

    #[test]
    fn keys_are_shown_in_words() {
        let (stream, broadcast) = (StreamId::new("alice").expect("legal"), BroadcastId::new("01b").expect("legal"));
        let (row, log) = (chunk(&stream, &broadcast, 1800, 3), epoch(&stream, 7));
        assert_eq!(show(Space::Chunks, &row), "chunk 1800 of epoch 3 of alice/01b");
        assert_eq!(show(Space::Epochs, &log), "epoch 7 of alice");
        assert_eq!(show(Space::Epochs, &epoch_of(&stream, &broadcast, 7)), "epoch 7 of alice/01b");
        assert_eq!(show(Space::Chunks, b"x"), "chunk 0 of epoch 0 of ");
    }
}
