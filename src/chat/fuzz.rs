//! Bodies for fuzzing: whatever people send, nothing breaks and nothing grows. They run as properties in every test run, and under
//! cargo-fuzz (`tests/fuzz`).

use super::{
    Act, Who,
    event::Event,
    frames::{Assembler, MESSAGE_MAX},
    room::Room,
    text::{NAME_MAX, TEXT_MAX, has_link, message, name},
};
use crate::{id::EventId, time::UnixMs};

/// The bytes of a socket, as they may come in pieces.
pub fn frames(data: &[u8]) {
    let mut assembler = Assembler::default();
    for piece in data.chunks(7) {
        assembler.push(piece);
        loop {
            match assembler.poll() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
        // A message, and one frame's head and what came with it.
        assert!(assembler.held() <= 2 * MESSAGE_MAX + 14 + 7);
    }
}

/// Requests, one per line, of two people in turn: what is told has the shape that everybody may rely on.
pub fn acts(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (mut room, _) = Room::restore(&[], &[], 3);
    let mut last = EventId(0);
    for (n, line) in text.lines().enumerate() {
        let user = ["g-1", "g-2"][n % 2].parse().expect("legal");
        let roles = if n % 3 == 0 { vec![super::Role::Streamer] } else { Vec::new() };
        let who = Who { user, name: "Ann".into(), roles, address: Some([203, 0, 113, 7].into()) };
        let act = serde_json::from_str::<Act>(line).unwrap_or(Act::Say { text: line.into(), reply: None });
        let Ok(done) = room.act(UnixMs(1_770_000_000_000 + n as i64 * 700), &who, None, &act) else { continue };
        assert!(done.id > last, "ids grow");
        last = done.id;
        if let Some(Event::Message(message)) = &done.event {
            assert!((1..=TEXT_MAX).contains(&message.text.chars().count()));
            assert!(!message.text.contains(|c: char| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c)));
            let _ = has_link(&message.text);
        }
        let told = serde_json::to_string(&done.event).expect("plain data");
        assert_eq!(serde_json::from_str::<Option<Event>>(&told).expect("what was written"), done.event);
    }
    if let Ok(text) = message(&text) {
        assert_eq!(message(&text).as_ref(), Ok(&text), "what is tidy stays as it is");
    }
    if let Ok(chosen) = name(&text, &[]) {
        assert!(chosen.chars().count() <= NAME_MAX && chosen.chars().any(char::is_alphanumeric));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    /// A frame with a mask of zeros.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u16).to_be_bytes();
        [&[first, 0x80 | 126, length[0], length[1], 0, 0, 0, 0], payload].concat()
    }

    proptest! {
        #[test]
        fn no_bytes_of_a_socket_break_it(
            data in prop::collection::vec(any::<u8>(), 0..300),
            frames in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..6),
        ) {
            super::frames(&data);
            super::frames(&frames.iter().flat_map(|(first, payload)| frame(*first, payload)).collect::<Vec<_>>());
        }

        #[test]
        fn no_request_breaks_a_room(text in "\\PC{0,80}", lines in prop::collection::vec(line(), 0..8)) {
            super::acts(text.as_bytes());
            super::acts(lines.join("\n").as_bytes());
        }
    }

    fn line() -> impl Strategy<Value = String> {
        let user = prop_oneof![Just("g-1"), Just("g-2"), Just("nobody"), Just("../x")];
        prop_oneof![
            "[a-zA-Z0-9 :.@\u{202e}\u{200d}\u{301}\u{1f600}]{0,60}",
            (user, any::<Option<u32>>()).prop_map(|(user, seconds)| {
                serde_json::json!({ "type": "ban", "user": user, "seconds": seconds, "reason": "x" }).to_string()
            }),
            any::<u64>().prop_map(|id| {
                serde_json::json!({ "type": "delete", "message": crate::id::EventId(id) }).to_string()
            }),
            any::<u64>().prop_map(|id| {
                serde_json::json!({ "type": "judge", "message": crate::id::EventId(id), "show": id % 2 == 0 })
                    .to_string()
            }),
            Just(r#"{"type":"set","settings":{"hold_all":true,"held":["b"]}}"#.to_owned()),
            Just(r#"{"type":"emote","name":"a","picture":"0123456789abcdef0123456789abcdef.png"}"#.to_owned()),
            Just(r#"{"type":"set","settings":{"slow":1,"unique":true,"blocked":["a*"]}}"#.to_owned()),
            Just(r#"{"type":"ban_address","prefix":"203.0.113.0/24"}"#.to_owned()),
            Just(r#"{"type":"purge","user":"g-2"}"#.to_owned()),
        ]
    }
}
