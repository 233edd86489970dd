/** Everything the page knows about playback, as plain data for `window.weir.stats()`. */
import type { Player } from '../player/player';
import type { Phase } from './phase';
import type { Times } from './timeline';

export function stats(player: Player, phase: Phase, behind: number | null, times: Times | null) {
  const { video, stallMeter, hls } = player;
  const { total, dropped } = player.frames;
  return {
    phase,
    motion: player.motion,
    /** What is loaded has shown itself. */
    begun: player.begun,
    seeking: video.seeking,
    /** The browser allows no play before a gesture; the server refuses. */
    blocked: player.blocked,
    refused: player.refused,
    /** Halts of more than 200 ms after the first picture, seeking and pauses apart. */
    stalls: stallMeter.count,
    stallMs: Math.round(stallMeter.totalMs),
    waiting: stallMeter.stalled,
    /** Media is there again after a long halt, and play waits for more of it. */
    holding: player.holding,
    playing: player.motion === 'moving' && !video.paused,
    /** `waiting` events of the video element, also those too short to be seen. */
    waitingEvents: player.waitingEvents,
    droppedFrames: dropped,
    totalFrames: total,
    /** Measured by hls.js, bits per second. */
    throughput: hls?.bandwidthEstimate ?? null,
    levels: [...player.renditions].map(({ id, width, height, bitrate }) => ({ id, width, height, bitrate })),
    currentLevel: player.shown,
    loadLevel: hls?.loadLevel ?? -1,
    automatic: player.automatic,
    width: video.videoWidth,
    height: video.videoHeight,
    position: video.currentTime,
    /** Whether the whole broadcast is loaded, not the live window. */
    whole: player.whole,
    /** Seconds from the broadcast's start: where play is, and the newest there is. */
    time: times?.position ?? null,
    end: times?.end ?? null,
    /** When the picture was made, milliseconds since 1970. */
    pictureMs: player.pictureMs,
    paused: video.paused,
    muted: video.muted,
    buffer: player.buffer,
    /** Seconds to the end of the playlist. */
    latency: player.latency,
    lowLatency: player.lowLatency,
    /** Seconds to the end of the playlist that the player aims at. */
    targetLatency: player.targetLatency,
    /** Seconds to the wall clock, by EXT-X-PROGRAM-DATE-TIME. */
    behind,
    fatalErrors: player.fatalErrors,
    restarts: player.restarts,
    errors: [...player.errors],
  };
}
