//! What a streamer should be told while the broadcast goes on.

use std::fmt;

/// Something that costs quality or work and that the streamer can change. Its text says what happens and what to set.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
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

impl Warning {
    /// A stable name for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Warning::LongKeyframeInterval { .. } => "long_keyframe_interval",
            Warning::KeyframeLate { .. } => "keyframe_late",
            Warning::OpenGop => "open_gop",
            Warning::TimeJump { .. } => "time_jump",
            Warning::VideoGap { .. } => "video_gap",
            Warning::AudioGap { .. } => "audio_gap",
            Warning::AudioBack => "audio_back",
            Warning::AudioDrift { .. } => "audio_drift",
            Warning::AudioApart { .. } => "audio_apart",
        }
    }

    /// What happens, in plain words.
    pub fn text(&self) -> String {
        let s = |ms: i64| ms as f64 / 1000.0;
        match *self {
            Warning::LongKeyframeInterval { chunk_ms } => format!(
                "keyframes come further apart than {} s, so every quality has to be encoded again and the original is not offered",
                s(chunk_ms.into())
            ),
            Warning::KeyframeLate { .. } => {
                "a keyframe came too late, so from now on every quality is encoded again and the original is no longer offered".into()
            }
            Warning::OpenGop => "the encoder uses open GOPs, where players cannot start at every keyframe".into(),
            Warning::TimeJump { by_ms } => {
                format!("the time stamps of the encoder jumped by {} s and viewers see a cut", s(by_ms))
            }
            Warning::VideoGap { ms } => format!("no video came for {} s and viewers see a cut", s(ms)),
            Warning::AudioGap { ms } => format!("{ms} ms of audio are missing"),
            Warning::AudioBack => "audio time stamps went back and the repeated part was dropped".into(),
            Warning::AudioDrift { ms } => format!("audio fell {ms} ms behind its time stamps and was moved"),
            Warning::AudioApart { ms } => {
                format!("audio and video time stamps are {} s apart and the audio is dropped", s(ms))
            }
        }
    }

    /// What the streamer can do about it.
    pub fn fix(&self) -> String {
        match *self {
            Warning::LongKeyframeInterval { chunk_ms } | Warning::KeyframeLate { chunk_ms } => {
                format!("set a fixed keyframe interval of {} s ({KEYFRAME_SETTING})", f64::from(chunk_ms) / 1000.0)
            }
            Warning::OpenGop => "turn open GOPs off (x264 options: open-gop=0)".into(),
            Warning::TimeJump { .. } => {
                "if this happens again, restart the encoder and check the clock of the capture device".into()
            }
            Warning::VideoGap { .. } => "lower the bitrate if the encoder reports dropped frames".into(),
            Warning::AudioGap { .. } => "check the audio device and the load of the streaming computer".into(),
            Warning::AudioBack | Warning::AudioDrift { .. } => {
                "set the same sample rate in the audio device and the encoder (in OBS: Settings, Audio, Sample Rate)"
                    .into()
            }
            Warning::AudioApart { .. } => {
                "check the sync offset of the audio sources (in OBS: Advanced Audio Properties) and restart the stream"
                    .into()
            }
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.text(), self.fix())
    }
}
