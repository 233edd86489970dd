/** What is asked of the player, and what it says of itself. */
import type { Fragment } from 'hls.js';

export type Motion =
  /** Nothing loaded. */
  | 'idle'
  /** Loaded, no picture has moved yet. */
  | 'loading'
  /** Plays, or is paused by the viewer. */
  | 'moving'
  /** Should move and does not. */
  | 'still'
  /** Played to the end of a finished playlist. */
  | 'ended';

/** How to play what `load` is given. */
export interface Load {
  /**
   * Seconds from the beginning of a playlist that holds the whole, -1 for where the playlist itself says (EXT-X-START, else its beginning);
   * null is the live edge.
   */
  from?: number | null;
  /** Plays only so many seconds from there on; null is to the end. */
  lasts?: number | null;
  /** The wall-clock time (milliseconds since 1970) meant by `from`, which is then only its estimate. */
  dateMs?: number | null;
  /** Leaves the last picture where it is until the next one comes. */
  keepPicture?: boolean;
}

/** The media time (seconds) of a wall-clock time (milliseconds since 1970); null when the chunks tell none. */
export function exactly(fragments: readonly Fragment[], dateMs: number): number | null {
  const holds = [...fragments].reverse().find(({ programDateTime }) => programDateTime !== null && programDateTime <= dateMs);
  if (holds === undefined || holds.programDateTime === null) return null;
  return Math.min(holds.end, holds.start + (dateMs - holds.programDateTime) / 1000);
}
