/** How fast a live stream is played, so that its viewer stays as far behind it as is wanted. Pure. */

export interface Place {
  /** The stream is played in parts, at low latency. */
  inParts: boolean;
  /** The rate that is set now. */
  rate: number;
  /** Seconds behind the end of the playlist, and those aimed at; null when unknown. */
  latency: number | null;
  target: number | null;
  /** Seconds that are buffered. */
  buffer: number;
  /** Seconds of a part (zero: there are none) and of a chunk. */
  part: number;
  chunk: number;
}

/**
 * Low latency is caught up with by playing a little faster, a second in ten, which is hardly heard: from this far over the
 * target until this near. Every change of rate costs a few milliseconds of smoothness, so the two lie apart; hls.js, with
 * one threshold and wanting more than 1 s buffered, changes it five times a second for ever and comes no nearer.
 */
const CATCH_UP = { rate: 1.1, fromSeconds: 0.3, untilSeconds: 0.1 };

/**
 * Where a part of the stream is missing the playhead leaps, and the viewer is nearer to the edge than is safe: the next small
 * loss would be a halt. A second in twenty brings the distance back, from half a chunk on.
 */
const FALL_BACK = { rate: 0.95, fromChunks: 0.5, untilSeconds: 0.1 };

/** The rate to play at. Low latency is not caught up with from farther than two chunks: that viewer paused or went back. */
export function rateAt({ inParts, rate, latency, target, buffer, part, chunk }: Place): number {
  const over = latency === null || target === null ? 0 : latency - target;
  if (inParts) {
    const due = over > (rate > 1 ? CATCH_UP.untilSeconds : CATCH_UP.fromSeconds) && over < 2 * chunk;
    return part > 0 && due && buffer > part ? CATCH_UP.rate : 1;
  }
  // Another one is the viewer's own.
  if (rate !== 1 && rate !== FALL_BACK.rate) return rate;
  return -over > (rate < 1 ? FALL_BACK.untilSeconds : FALL_BACK.fromChunks * chunk) ? FALL_BACK.rate : 1;
}
