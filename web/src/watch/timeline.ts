/** A broadcast's time line, in seconds from its start, and where a wish to go somewhere on it leads. Pure. */

export interface Times {
  position: number;
  /** The newest there is. */
  end: number;
  /** The oldest that what is loaded holds. */
  reach: number;
  /** Whether `end` moves on. */
  growing: boolean;
}

export type Destination =
  /** Within what is loaded, so many seconds on or back. */
  | { kind: 'here'; by: number }
  /** In the playlist of everything, at this time. */
  | { kind: 'whole'; at: number }
  | { kind: 'edge' };

/** Nearer to the end than this (seconds) a viewer is at the live edge. */
const EDGE = 3;

/**
 * Where a viewer gets who wants to be at `wanted`. `hold` is how far behind the end live play stays: nothing nearer can be kept up.
 */
export function destination(wanted: number, { position, end, reach, growing }: Times, hold: number): Destination {
  const at = Math.min(Math.max(0, wanted), end);
  if (growing && at > end - Math.max(EDGE, hold + 1)) return { kind: 'edge' };
  return at >= reach ? { kind: 'here', by: at - position } : { kind: 'whole', at };
}

/** The time that a key leads to; null for a key that leads nowhere. */
export function keyLeadsTo(key: string, { position, end }: Pick<Times, 'position' | 'end'>): number | null {
  switch (key) {
    case 'ArrowLeft':
    case 'ArrowDown':
      return position - 5;
    case 'ArrowRight':
    case 'ArrowUp':
      return position + 5;
    case 'j':
    case 'PageDown':
      return position - 10;
    case 'l':
    case 'PageUp':
      return position + 10;
    case 'Home':
      return 0;
    case 'End':
      return end;
    default:
      return null;
  }
}
