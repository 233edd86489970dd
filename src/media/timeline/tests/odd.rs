//! Sessions that no good encoder makes.

use super::*;

#[test]
fn video_that_stops_or_never_begins_ends_the_session_with_words() {
    let sound = speech(0, 40_000);
    let stopped = mux(film(30.0, 60, 0, 5.0), sound.clone());
    let announced = sound.clone();
    // Frames without an IDR, with sound and without.
    let mut keyless = film(30.0, 10_000, 0, 40.0);
    keyless.remove(0);
    for (name, inputs, error, chunks) in [
        ("stopped", stopped, Error::VideoStopped { limit_s: 10 }, 3),
        ("announced", announced, Error::VideoStopped { limit_s: 10 }, 0),
        ("keyless", keyless.clone(), Error::NoKeyframe { limit_s: 30 }, 0),
        ("keyless with sound", mux(keyless, sound), Error::NoKeyframe { limit_s: 30 }, 0),
    ] {
        let made = play(ENCODE, [both(), inputs].concat());
        assert_eq!((made.error, made.chunks.len()), (Some(error), chunks), "{name}");
    }
}

#[test]
fn a_first_keyframe_may_take_its_time() {
    let mut inputs = film(30.0, 600, 0, 40.0);
    inputs.remove(0);
    let made = play(ENCODE, [both(), mux(inputs, speech(0, 40_000))].concat());
    assert_eq!((made.error.clone(), made.reasons()), (None, vec![Break::First]));
    let first = made.audio[0].pts - rescale(made.video[0].pts, VIDEO_TIMESCALE, 48_000);
    assert!((0..1024).contains(&first), "sound begins with the picture");
    assert_eq!(made.video.len(), 600);
}

#[test]
fn frame_rates_beyond_reason_are_cut_all_the_same() {
    for fps in [240.0, 1000.0, 3000.0] {
        for gop in [1, fps as usize, 100_000] {
            let made = play(ENCODE, [both(), film(fps, gop, 0, 7.0)].concat());
            assert_eq!((made.error.clone(), made.reasons()), (None, vec![Break::First]), "{fps} {gop}");
            assert!(longest_ms(&made) <= 2490 && made.chunks.len() >= 3, "{fps} {gop}: {:?}", made.lengths_ms());
        }
    }
}
