//! What a streamer should be told while the broadcast goes on.

use std::fmt;

/// Something that costs quality or work and that the streamer can change. Its text says what happens and what to set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// Keyframes come further apart than a chunk is long.
    LongKeyframeInterval { chunk_ms: u32 },
    /// Keyframes came in time until now; then one did not.
    KeyframeLate { chunk_ms: u32 },
    /// A picture can be joined at, but is no IDR.
    OpenGop,
    /// The clock of the encoder stepped by `by_ms` (0: an unusable step).
    TimeJump { by_ms: i64 },
    /// No video came for too long to go on without a break.
    VideoGap { ms: i64 },
    /// Audio is missing.
    AudioGap { ms: i64 },
    /// Audio came a second time and was dropped.
    AudioBack,
    /// The audio clock is slower than that of its time stamps.
    AudioDrift { ms: i64 },
    /// Audio and video stamps are too far apart to belong together; the audio is dropped.
    AudioApart { ms: i64 },
}

const KEYFRAME_SETTING: &str = "in OBS: Settings, Output, Output Mode Advanced, Streaming, Keyframe Interval";

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = |ms: i64| ms as f64 / 1000.0;
        match *self {
            Warning::LongKeyframeInterval { chunk_ms } => write!(
                f,
                "keyframes come further apart than {} s, so every quality has to be encoded again and the original is \
                 not offered; set the keyframe interval to {0} s ({KEYFRAME_SETTING})",
                s(chunk_ms.into())
            ),
            Warning::KeyframeLate { chunk_ms } => write!(
                f,
                "a keyframe came too late, so from now on every quality is encoded again and the original is no longer \
                 offered; set a fixed keyframe interval of {} s ({KEYFRAME_SETTING})",
                s(chunk_ms.into())
            ),
            Warning::OpenGop => write!(
                f,
                "the encoder uses open GOPs, where players cannot start at every keyframe; turn them off (x264 options: \
                 open-gop=0)"
            ),
            Warning::TimeJump { by_ms } => write!(
                f,
                "the time stamps of the encoder jumped by {} s and viewers see a cut; if this happens again, restart the \
                 encoder and check the clock of the capture device",
                s(by_ms)
            ),
            Warning::VideoGap { ms } => write!(
                f,
                "no video came for {} s and viewers see a cut; lower the bitrate if the encoder reports dropped frames",
                s(ms)
            ),
            Warning::AudioGap { ms } => {
                write!(f, "{ms} ms of audio are missing; check the audio device and the load of the streaming computer")
            }
            Warning::AudioBack => write!(
                f,
                "audio time stamps went back and the repeated part was dropped; check the audio device and its sample rate \
                 (in OBS: Settings, Audio, Sample Rate)"
            ),
            Warning::AudioDrift { ms } => write!(
                f,
                "audio fell {ms} ms behind its time stamps and was moved; set the same sample rate in the audio device and \
                 the encoder (in OBS: Settings, Audio, Sample Rate)"
            ),
            Warning::AudioApart { ms } => write!(
                f,
                "audio and video time stamps are {} s apart and the audio is dropped; check the sync offset of the audio \
                 sources (in OBS: Advanced Audio Properties) and restart the stream",
                s(ms)
            ),
        }
    }
}
