/** Numbers of the studio as people read them. Pure. */
import { count } from '../shared/format';

export const UNKNOWN = '–';

const known = (value: number | null, write: (value: number) => string): string => (value === null || !Number.isFinite(value) ? UNKNOWN : write(value));

export function number(value: number | null): string {
  return known(value, count);
}

/** `4.2`, `132`: means of small crowds have a digit more. */
export function mean(value: number | null): string {
  return known(value, (n) => (n < 10 ? String(Math.round(n * 10) / 10) : count(n)));
}

/** `0.42 %`, `12 %`, of a share in [0, 1]. */
export function percent(share: number | null): string {
  return known(share, (n) => {
    const value = n * 100;
    return `${value === 0 ? '0' : value < 0.01 ? '< 0.01' : value < 1 ? value.toFixed(2) : value < 10 ? value.toFixed(1) : Math.round(value)} %`;
  });
}

/** `38 min`, `12.5 h`, `1,204 h`. */
export function watched(minutes: number | null): string {
  return known(minutes, (n) => (n < 60 ? `${Math.round(n)} min` : n < 6_000 ? `${(n / 60).toFixed(1)} h` : `${count(n / 60)} h`));
}

/** `0.64 s`, `12.3 s`, of milliseconds. */
export function time(ms: number | null): string {
  return known(ms, (n) => (n < 10_000 ? `${(n / 1000).toFixed(2)} s` : n < 100_000 ? `${(n / 1000).toFixed(1)} s` : `${count(n / 1000)} s`));
}

/** `20:15`, in the reader's own way; with seconds, or the day, where that matters. */
export function clock(atMs: number, more: '' | 'seconds' | 'day' = ''): string {
  const options: Intl.DateTimeFormatOptions = { hour: '2-digit', minute: '2-digit' };
  if (more === 'seconds') options.second = '2-digit';
  if (more === 'day') Object.assign(options, { day: 'numeric', month: 'short' });
  return new Intl.DateTimeFormat(undefined, options).format(atMs);
}

/** `H.264`, `AAC`: what the letters of a codec mean. */
export function codec(name: string | null): string | null {
  if (name === null) return null;
  const known: Record<string, string> = { avc1: 'H.264', avc3: 'H.264', hvc1: 'H.265', hev1: 'H.265', av01: 'AV1', mp4a: 'AAC', opus: 'Opus' };
  return known[name.split('.')[0]?.toLowerCase() ?? ''] ?? name;
}

/** What a file of a broadcast's numbers is called. */
export function fileName(stream: string, started: string, kind: 'csv' | 'json'): string {
  return `${stream}-${started.slice(0, 16).replace(/[^0-9T]/g, '').replace('T', '-')}-audience.${kind}`;
}

/** Ids of chat events count milliseconds from here, in digits that sort. */
const EVENTS_SINCE = Date.UTC(2025, 0, 1);
const DIGITS = '0123456789abcdefghjkmnpqrstvwxyz';

/** When a chat event was (milliseconds since 1970), by its id; null when it is none. */
export function eventMs(id: string): number | null {
  let value = 0n;
  for (const letter of id) {
    const digit = DIGITS.indexOf(letter);
    if (digit < 0) return null;
    value = value * 32n + BigInt(digit);
  }
  return id.length === 13 ? Number(value >> 22n) + EVENTS_SINCE : null;
}

/** Messages a minute, by the times of the newest ones; `whole`: there were no others. */
export function chatRate(times: readonly number[], whole: boolean, nowMs: number): number {
  const recent = times.filter((at) => nowMs - at < 60_000);
  const oldest = Math.min(...times);
  // More in the last minute than were asked for: as many go on at this pace.
  if (!whole && recent.length === times.length && times.length > 1) return Math.round((times.length * 60_000) / Math.max(1_000, nowMs - oldest));
  return recent.length;
}
