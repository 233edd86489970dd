/** Reports of playback as CMCD version 2 writes them (CTA-5004-B, event mode): one dictionary of structured fields per line. Pure. */

/** What the player does, as the viewer sees it. */
export type State =
  /** Starting, playing, seeking, rebuffering, paused. */
  | 's' | 'p' | 'k' | 'r' | 'a'
  /** Ended, failed for good, quit, ready but not started. */
  | 'e' | 'f' | 'q' | 'd';

/** The keys that Weir's player sends. Bitrates are kb/s, times milliseconds. */
export interface Report {
  /** Time interval, play state, error. */
  e: 't' | 'ps' | 'e';
  /** Buffered. */
  bl?: number;
  /** Bitrate of what is shown. */
  br?: number;
  /** Play halted since the last report. */
  bs?: boolean;
  /** Halts since the session began, and how long they were together. */
  bsa?: number;
  bsda?: number;
  cid: string;
  /** Dropped frames since the session began. */
  dfa?: number;
  /** Codes of errors that play did not survive by itself. */
  ec?: string[];
  /** Behind live. */
  ltc?: number;
  /** From the start to the first picture; once in a session. */
  msd?: number;
  /** Measured throughput. */
  mtp?: number;
  sid: string;
  sn: number;
  /** Finished, live, live at low latency. */
  st: 'v' | 'l' | 'll';
  sta: State;
  ts: number;
  'weir-rendition'?: string;
}

type Kind = 'token' | 'string' | 'strings' | 'integer' | 'integers' | 'flag';

const KINDS: Record<keyof Report | 'sf' | 'v', Kind> = {
  bl: 'integers', br: 'integers', bs: 'flag', bsa: 'integers', bsda: 'integers', cid: 'string', dfa: 'integer', e: 'token', ec: 'strings', ltc: 'integer',
  msd: 'integer', mtp: 'integers', sf: 'token', sid: 'string', sn: 'integer', st: 'token', sta: 'token', ts: 'integer', v: 'integer', 'weir-rendition': 'string',
};

/** Keys whose values say no more than this much (the standard rounds them so). */
const STEPS: Partial<Record<keyof Report, number>> = { bl: 100, mtp: 100 };

/** One line of a body, without its end. What is not known is left out. */
export function encode(report: Report): string {
  const all = { ...report, sf: 'h', v: 2 };
  return (Object.keys(all) as (keyof typeof all)[])
    .sort()
    .flatMap((key) => {
      const value = member(all[key], KINDS[key], key === 'sf' || key === 'v' ? 1 : (STEPS[key] ?? 1));
      return value === null ? [] : [value === true ? key : `${key}=${value}`];
    })
    .join(',');
}

function member(value: unknown, kind: Kind, step: number): string | true | null {
  if (value === undefined || value === null) return null;
  switch (kind) {
    case 'flag':
      return value === true ? true : null;
    case 'token':
      return String(value);
    case 'string':
      return quoted(String(value));
    case 'strings':
      return Array.isArray(value) && value.length > 0 ? `(${value.map((one) => quoted(String(one))).join(' ')})` : null;
    case 'integer':
    case 'integers': {
      const number = typeof value === 'number' ? Math.round(value / step) * step : Number.NaN;
      // What the grammar has no number for is not known.
      if (!Number.isFinite(number) || number < 0 || number > 999_999_999_999_999) return null;
      return kind === 'integer' ? String(number) : `(${number})`;
    }
  }
}

/** A string of structured fields (RFC 9651, 3.3.3) has printable ASCII only. */
function quoted(text: string): string {
  return `"${text.slice(0, 128).replace(/[^\x20-\x7e]/g, '?').replace(/[\\"]/g, '\\$&')}"`;
}

/** Seconds between two reports until the server says otherwise. */
export const INTERVAL = 30;

/** The wait until the next report (ms), by `random` in [0, 1): a sixth more or less than the mean, so that viewers who came together part. */
export function waitMs(intervalS: number, random: number): number {
  return Math.round(intervalS * 1000 * (5 / 6 + random / 3));
}

/** The mean interval that the server asks for (seconds), within bounds; null when it asks for none. */
export function intervalIn(body: unknown): number | null {
  const asked = typeof body === 'object' && body !== null ? (body as { interval_s?: unknown }).interval_s : undefined;
  return typeof asked === 'number' && Number.isFinite(asked) ? Math.min(300, Math.max(10, asked)) : null;
}
