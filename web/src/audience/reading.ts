/** How play goes, as a report says it. Pure. */
import type { Rendition } from '../shared/api';
import type { stats } from '../watch/stats';
import type { Report, State } from './cmcd';
import type { Counts } from './session';

export interface Reading extends Pick<Report, 'bl' | 'br' | 'ltc' | 'mtp' | 'st' | 'weir-rendition'> {
  state: State;
  /** What this page has counted. */
  counts: Counts;
  /** Errors that ended play, if only for a while, and the newest one's code. */
  fatal: number;
  error: string;
  /** From the start to the first picture (ms); null before there was one. */
  startupMs: number | null;
}

export type Stats = ReturnType<typeof stats>;

/** What the page knows beside the player. */
export interface Around {
  startupMs: number | null;
  /** The renditions that the server tells of; without a picture there is only sound. */
  renditions: readonly Rendition[];
  soundOnly: boolean;
  /** Whether what is on screen still grows. */
  live: boolean;
}

/** Null while nothing is loaded. */
export function readingOf(stats: Stats, { startupMs, renditions, soundOnly, live }: Around): Reading | null {
  const state = stateOf(stats, startupMs !== null);
  if (state === null) return null;
  const shown = renditionOf(stats, renditions, soundOnly);
  return {
    state,
    st: !live ? 'v' : stats.whole || !stats.lowLatency ? 'l' : 'll',
    bl: stats.buffer * 1000,
    counts: { stalls: stats.stalls, stallMs: stats.stallMs, dropped: stats.droppedFrames },
    fatal: stats.fatalErrors,
    error: errorOf(stats),
    startupMs,
    ...(shown === null ? {} : { br: shown.kbps, 'weir-rendition': shown.name }),
    // Who has gone back is behind by wish.
    ...(stats.behind === null || stats.whole ? {} : { ltc: Math.max(0, stats.behind * 1000) }),
    ...(stats.throughput === null || !stats.begun ? {} : { mtp: stats.throughput / 1000 }),
  };
}

/** `seen`: there was a picture since the page was opened. */
export function stateOf(stats: Pick<Stats, 'motion' | 'begun' | 'blocked' | 'refused' | 'paused' | 'seeking' | 'waiting' | 'holding'>, seen: boolean): State | null {
  const { motion, begun, blocked, refused, paused, seeking, waiting, holding } = stats;
  if (motion === 'idle') return null;
  if (motion === 'ended') return 'e';
  if (refused && motion !== 'moving') return 'f';
  if (blocked && !begun) return 'd';
  if (motion === 'loading') return seen ? 'r' : 's';
  if (motion === 'moving' && paused) return 'a';
  // With the last picture standing in, the viewer has gone elsewhere in the broadcast.
  if (seeking || !begun) return 'k';
  // What is too short to be a halt is none.
  return motion === 'moving' || !(waiting || holding) ? 'p' : 'r';
}

/** The rendition on screen; null when that cannot be told. */
function renditionOf({ levels, currentLevel, height }: Stats, known: readonly Rendition[], soundOnly: boolean): { name: string; kbps: number } | null {
  const level = levels[currentLevel];
  if (level !== undefined) return { name: level.id, kbps: level.bitrate / 1000 };
  const [audio] = known.filter(({ name }) => name === 'audio');
  if (soundOnly) return { name: 'audio', kbps: audio?.kbps ?? 0 };
  // A browser's own HLS tells the size of the picture only.
  const alike = height > 0 ? known.filter((rendition) => rendition.height === height) : [];
  return alike.length === 1 && alike[0] !== undefined ? alike[0] : null;
}

/** The player's word for what ended play last. */
function errorOf({ errors, refused }: Stats): string {
  if (refused) return 'refused';
  for (const error of [...errors].reverse()) {
    const [, code] = /^fatal (\w+)/.exec(error) ?? [];
    if (code !== undefined) return code;
    if (error.startsWith('starts again')) return /: (\w+)/.exec(error)?.[1] ?? 'unknown';
  }
  return 'unknown';
}
