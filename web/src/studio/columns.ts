/** Numbers over time as a chart draws them: one column of times, then one of each line. Pure. */

export interface Columns {
  /** Seconds since 1970, ascending. */
  times: number[];
  /** Null where there is no number: the line has a gap there. */
  lines: (number | null)[][];
}

/** A line's number at a point. */
export type Pick<P> = (point: P) => number | null;

/** Puts points in columns. Where one or more steps are missing, the lines break. */
export function columns<P extends { atMs: number }>(points: readonly P[], stepS: number, picks: readonly Pick<P>[]): Columns {
  const times: number[] = [];
  const lines: (number | null)[][] = picks.map(() => []);
  let last: number | null = null;
  for (const point of points) {
    const at = point.atMs / 1000;
    if (last !== null && at - last > 1.5 * stepS) {
      times.push(last + stepS / 2);
      for (const line of lines) line.push(null);
    }
    times.push(at);
    picks.forEach((pick, i) => lines[i]?.push(pick(point)));
    last = at;
  }
  return { times, lines };
}

/** How many steps the newest point may be behind what is known of now: it is written when its step is over. */
const LATE_STEPS = 3;

/** Lets the lines go on to a moment after the last point. */
export function goOn({ times, lines }: Columns, atMs: number, stepS: number, values: readonly (number | null)[]): Columns {
  const at = atMs / 1000;
  const last = times.at(-1);
  if (last !== undefined && at <= last) return { times, lines };
  const broken = last !== undefined && at - last > LATE_STEPS * stepS;
  const put = (line: (number | null)[], value: number | null): (number | null)[] => [...line, ...(broken ? [null] : []), value];
  return { times: [...times, ...(broken ? [(last + at) / 2] : []), at], lines: lines.map((line, i) => put(line, values[i] ?? null)) };
}

/** Lines on top of each other, the first one highest: each with the sum of itself and those after it. */
export function stacked({ times, lines }: Columns): Columns {
  const sums = times.map(() => 0);
  const piled = [...lines].reverse().map((line) =>
    line.map((value, i) => {
      // A gap is one of all lines; a rendition that nobody watches is none.
      if (value === null && lines.every((other) => other[i] === null)) return null;
      sums[i] = (sums[i] ?? 0) + (value ?? 0);
      return sums[i] ?? 0;
    }),
  );
  return { times, lines: piled.reverse() };
}

/** Names of renditions, the best first: the source, by height, sound last. */
export function bestFirst(names: Iterable<string>): string[] {
  const rank = (name: string): number => (name === 'source' ? 1e6 : name === 'audio' ? -1 : Number.parseInt(name, 10) || 0);
  return [...new Set(names)].sort((a, b) => rank(b) - rank(a) || a.localeCompare(b));
}

/** The part of the time watched in which play had halted, in percent; null where nothing was watched. */
export function haltedPercent({ stallMs, minutes }: { stallMs: number | null; minutes: number | null }): number | null {
  return stallMs === null || minutes === null || minutes <= 0 ? null : Math.min(100, (stallMs / 60_000 / minutes) * 100);
}
