//! Real encoders' output, chunked, and read again by ffmpeg: same pictures, same times, and not a word of complaint.

use mp4_atom::{Any, Codec, Colr, Decode, Moov};

use super::{
    Chunk, Chunker, Init,
    testing::{Flv, avc, flv, read_chunk, run},
};
use crate::media::{AudioConfig, Packet, Track, VideoConfig};

/// Encodes six seconds of a small picture and a tone.
fn encode(video: &[&str]) -> Flv {
    let mut args =
        "-f lavfi -i testsrc2=s=160x90:r=30:d=6 -f lavfi -i sine=r=48000:d=6 -pix_fmt yuv420p -c:v libx264 -threads 1"
            .split(' ')
            .collect::<Vec<_>>();
    args.extend(video);
    args.extend("-c:a aac -f flv -flvflags no_duration_filesize pipe:1".split(' '));
    flv(&run("ffmpeg", &args, &[]))
}

/// Chunks at the key frames that are two seconds apart, audio at the same marks; the bytes of both renditions.
fn package(flv: Flv) -> [(Vec<u8>, Vec<Chunk>, Vec<Packet>); 2] {
    let config = VideoConfig { avcc: flv.avcc, width: 160, height: 90, ..avc() };
    let mut video = Chunker::video(&config, 1, None);
    let audio = AudioConfig { asc: flv.asc, object_type: 2, sample_rate: 48_000, channels: 1, frame_len: 1024 };
    let mut audio = Chunker::audio(&audio, 1, None);
    let (mut k, mut due, mut end) = (0, 0, 0);
    let mut chunks = [Vec::new(), Vec::new()];
    let mut packets = [Vec::new(), Vec::new()];
    for mut packet in flv.packets {
        if packet.track == Track::Video {
            end = end.max(packet.pts + 3000);
            if packet.key && packet.pts >= due {
                packet.mark = Some(k);
                chunks[1].extend(audio.mark(k, packet.pts));
                (k, due) = (k + 1, packet.pts + 180_000 - 1500);
            }
            packets[0].push(packet.clone());
            chunks[0].extend(video.push(packet).unwrap());
        } else {
            packets[1].push(packet.clone());
            chunks[1].extend(audio.push(packet).unwrap());
        }
    }
    let inits = [video.init().clone(), audio.init().clone()];
    chunks[0].extend(video.finish(end));
    chunks[1].extend(audio.finish(end));
    let file = |i: usize| {
        let parts = std::iter::once(inits[i].bytes.clone()).chain(chunks[i].iter().map(|chunk| chunk.bytes.joined()));
        parts.flat_map(|part| part.to_vec()).collect()
    };
    let files = [file(0), file(1)];
    let mut all = files.into_iter().zip(chunks).zip(packets).map(|((file, chunks), packets)| (file, chunks, packets));
    [all.next().unwrap(), all.next().unwrap()]
}

/// Presentation times of all frames as the decoder gives them, in ticks.
fn decoded(file: &[u8]) -> Vec<i64> {
    let text = run("ffprobe", &["-of", "csv=p=0", "-show_entries", "frame=pts", "-i", "pipe:0"], file);
    let text = String::from_utf8(text).unwrap();
    // Side data of a frame makes an empty line.
    let lines = text.lines().map(|line| line.trim_end_matches(',')).filter(|line| !line.is_empty());
    lines.map(|line| line.parse().unwrap_or_else(|e| panic!("{line:?}: {e}"))).collect()
}

fn check(video: &[&str]) {
    let [(file, chunks, packets), (audio_file, audio_chunks, audio_packets)] = package(encode(video));
    assert_eq!(chunks.iter().map(|c| c.k).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(audio_chunks.iter().map(|c| c.k).collect::<Vec<_>>(), [0, 1, 2]);
    let reads: Vec<_> = chunks.iter().flat_map(|chunk| read_chunk(&chunk.bytes.joined())).collect();
    let mut next = chunks[0].start;
    for (read, packet) in reads.iter().zip(&packets) {
        assert_eq!((read.time, read.time + read.offset, read.sync), (next, packet.pts, packet.key));
        assert_eq!(read.payload, packet.payload);
        next += read.duration;
    }
    assert_eq!(reads.len(), packets.len());

    let mut want: Vec<_> = packets.iter().map(|packet| packet.pts).collect();
    want.sort();
    // ffmpeg shifts all presentation times by the most negative composition offset that it has met.
    let shift = reads.iter().map(|read| -read.offset).max().unwrap();
    assert_eq!(decoded(&file), want.iter().map(|pts| pts + shift).collect::<Vec<_>>());
    run("ffmpeg", &["-xerror", "-err_detect", "explode", "-i", "pipe:0", "-f", "null", "-"], &file);

    let first = audio_chunks[0].start;
    let want: Vec<_> = audio_packets.iter().map(|packet| packet.pts).filter(|pts| *pts >= first).collect();
    let got = decoded(&audio_file);
    let taken: usize = audio_chunks.iter().map(|chunk| read_chunk(&chunk.bytes.joined()).len()).sum();
    assert_eq!(got, want[..taken]);
    assert!(want.len() - taken <= 2, "frames after the end of the video");
    run("ffmpeg", &["-xerror", "-err_detect", "explode", "-i", "pipe:0", "-f", "null", "-"], &audio_file);
}

#[test]
fn b_frames_survive() {
    check(&["-bf", "3", "-g", "60", "-keyint_min", "60", "-sc_threshold", "0"]);
}

#[test]
fn streams_without_b_frames_survive() {
    check(&["-tune", "zerolatency", "-g", "60", "-sc_threshold", "0"]);
}

#[test]
fn chunks_of_several_groups_survive() {
    check(&["-bf", "2", "-g", "20", "-keyint_min", "20", "-sc_threshold", "0"]);
}

#[test]
fn colour_is_told_as_the_sps_tells_it() {
    let args = ["-bf", "2", "-g", "60", "-color_primaries", "bt709", "-color_trc", "bt709", "-colorspace", "bt709"];
    let config = VideoConfig { avcc: encode(&args).avcc, ..avc() };
    let init = Init::video(&config);
    let mut rest = &init.bytes[..];
    Any::decode(&mut rest).unwrap();
    let moov = Moov::decode(&mut rest).unwrap();
    let Codec::Avc1(avc1) = &moov.trak[0].mdia.minf.stbl.stsd.codecs[0] else { panic!() };
    let bt709 =
        Colr::Nclx { colour_primaries: 1, transfer_characteristics: 1, matrix_coefficients: 1, full_range_flag: false };
    assert_eq!(avc1.colr, Some(bt709));
}
