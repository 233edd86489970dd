//! Codec configurations as they come in sequence headers, taken apart as far as packaging needs it.

use bytes::Bytes;

/// What an AVC sequence header says. Equal `avcc` bytes mean equal configs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VideoConfig {
    /// AVCDecoderConfigurationRecord (ISO/IEC 14496-15 5.3.3.1.2).
    pub avcc: Bytes,
    /// Size of the picture as shown after cropping, before the sample aspect ratio.
    pub width: u16,
    pub height: u16,
    /// Sample aspect ratio, (1, 1) when not given.
    pub sar: (u16, u16),
    /// Frames per second as a fraction, when the SPS tells.
    pub fps: Option<(u32, u32)>,
}

/// What an AudioSpecificConfig says. Equal `asc` bytes mean equal configs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AudioConfig {
    /// AudioSpecificConfig (ISO/IEC 14496-3 1.6.2.1).
    pub asc: Bytes,
    /// Audio object type for CODECS (`mp4a.40.N`): 2 LC, 5 HE, 29 HE v2.
    pub object_type: u8,
    /// Sampling rate of the core codec, the timescale of the track. For HE-AAC the output rate is twice this.
    pub sample_rate: u32,
    pub channels: u8,
    /// Samples in one frame at `sample_rate`: 1024, or 960.
    pub frame_len: u32,
}
