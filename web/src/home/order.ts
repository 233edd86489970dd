/** The order of the cards. Pure. */
import type { Stream } from '../shared/api';

/** The most watched first; where that is the same or not told, as the server has them. */
export function byViewers(streams: readonly Stream[]): Stream[] {
  return [...streams].sort((a, b) => (b.viewers ?? -1) - (a.viewers ?? -1));
}
