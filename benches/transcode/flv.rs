//! Reads the video of an FLV file, as ffmpeg writes it, into the feed's messages. For tests and benches.

use bytes::Bytes;
use weir::media::{Message, Packet, Track, VideoConfig};

/// The video config and packets (times in ticks, no marks) of a file.
pub fn read(flv: &[u8]) -> (VideoConfig, Vec<Packet>) {
    let (mut config, mut packets, mut at) = (None, Vec::new(), 9 + 4);
    while at + 11 <= flv.len() {
        let head = &flv[at..at + 11];
        let number = |bytes: &[u8]| bytes.iter().fold(0i64, |n, b| n << 8 | i64::from(*b));
        let (len, ms) = (number(&head[1..4]) as usize, number(&[head[7], head[4], head[5], head[6]]));
        let body = &flv[at + 11..at + 11 + len];
        at += 11 + len + 4;
        if head[0] != 9 || body.len() < 5 {
            continue;
        }
        let payload = Bytes::copy_from_slice(&body[5..]);
        match body[1] {
            0 => config = Some(VideoConfig::parse(payload).expect("ffmpeg writes a usable config")),
            1 => {
                let shift = (number(&body[2..5]) << 40) >> 40;
                let (dts, pts) = (ms * 90, (ms + shift) * 90);
                packets.push(Packet { track: Track::Video, pts, dts, key: body[0] >> 4 == 1, mark: None, payload });
            }
            _ => {}
        }
    }
    (config.expect("a video config"), packets)
}

/// Marks chunk starts from `first_k` on: at keyframes (`follow`), else at the first picture at or after each multiple of `len`.
pub fn mark(packets: &mut [Packet], first_k: u64, len: i64, follow: bool) {
    let mut shown: Vec<i64> = packets.iter().filter(|p| p.key || !follow).map(|p| p.pts).collect();
    shown.sort_unstable();
    let (mut k, mut next) = (first_k, shown[0]);
    for pts in shown {
        if pts >= next - 1500 * i64::from(follow) {
            packets.iter_mut().find(|p| p.pts == pts).expect("it is one of them").mark = Some(k);
            k += 1;
            next += len;
        }
    }
}

/// The feed of a file, from config to end.
pub fn messages(config: VideoConfig, packets: Vec<Packet>) -> Vec<Message> {
    let last = packets.iter().map(|p| p.pts).max().expect("packets");
    let media = packets.into_iter().map(Message::Packet);
    std::iter::once(Message::Video(config)).chain(media).chain([Message::End { at: last + 3000 }]).collect()
}
