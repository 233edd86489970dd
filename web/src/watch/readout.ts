/** The "Signal" panel: latency, buffer, quality, dropped frames, stalls, and one word that sums them up. */
import type { Player } from '../player/player';
import { bitrate, clock, quality, seconds } from '../shared/format';

export type Health = 'good' | 'fair' | 'poor' | 'none';

export interface Reading {
  /** Seconds behind what the streamer sends. */
  behind: number | null;
  buffer: number;
  /** In low latency the buffer is never much more than a second. */
  lowLatency: boolean;
  totalFrames: number;
  droppedFrames: number;
  stalled: boolean;
  /** Seconds since the last stall ended. */
  calm: number;
  moving: boolean;
}

/** Sums a reading up: poor while it halts, fair while it may halt soon or drops frames, good otherwise. */
export function healthOf(reading: Reading): Health {
  if (reading.stalled) return 'poor';
  if (!reading.moving) return 'none';
  // The first frames are often dropped while the decoder warms up.
  const droppedShare = reading.totalFrames > 300 ? reading.droppedFrames / reading.totalFrames : 0;
  if (reading.buffer < (reading.lowLatency ? 0.2 : 0.5) || reading.calm < 10 || droppedShare > 0.05) return 'fair';
  return 'good';
}

export const HEALTH_WORDS: Record<Health, string> = {
  good: 'Playing smoothly',
  fair: 'Playing, with trouble',
  poor: 'Waiting for data',
  none: 'Nothing is playing',
};

/** `720p · 30 fps · 3.0 Mb/s`, or a dash. */
export function describeQuality(player: Player): string {
  const level = player.hls?.levels[player.shown];
  if (level === undefined) {
    const { videoWidth, videoHeight } = player.video;
    return videoWidth > 0 ? quality(videoWidth, videoHeight) : '–';
  }
  if (level.width === 0) return quality(0, 0);
  const parts = [quality(level.width, level.height)];
  if (level.frameRate > 0) parts.push(`${Math.round(level.frameRate)} fps`);
  parts.push(bitrate(level.bitrate / 1000));
  return parts.join(' · ');
}

/** `Auto (720p)`, `480p`. */
export function describeChoice(player: Player): string {
  const { videoWidth, videoHeight } = player.video;
  const shown = videoWidth > 0 ? quality(videoWidth, videoHeight) : '';
  if (player.automatic) return shown === '' ? 'Auto' : `Auto (${shown})`;
  const chosen = player.renditions[player.renditions.selectedIndex];
  return chosen === undefined ? shown : quality(chosen.width, chosen.height);
}

export function describeBehind(reading: Reading): string {
  return reading.behind !== null && reading.behind >= 60 ? clock(reading.behind) : seconds(reading.behind);
}
