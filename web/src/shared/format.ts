/** Numbers as people read them. */

/** `1.2 s`; an em dash when unknown. */
export function seconds(value: number | null): string {
  return value === null || !Number.isFinite(value) ? '–' : `${Math.max(0, value).toFixed(1)} s`;
}

/** `850 kb/s`, `3.0 Mb/s`. */
export function bitrate(kbps: number): string {
  return kbps < 1000 ? `${Math.round(kbps)} kb/s` : `${(kbps / 1000).toFixed(1)} Mb/s`;
}

/** `just now`, `12 min`, `3 h 05 min`: how long since `fromMs`, both in milliseconds since 1970. */
export function since(fromMs: number, nowMs: number): string {
  const minutes = Math.floor(Math.max(0, nowMs - fromMs) / 60_000);
  if (minutes < 1) return 'just now';
  if (minutes < 60) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, '0')} min`;
}

/** `1,234`: as the rest of the words, in English. */
export function count(value: number): string {
  return Math.round(value).toLocaleString('en');
}

/** `1,234 watching`; nothing when it is not known. */
export function watching(viewers: number | null): string {
  return viewers === null ? '' : `${count(viewers)} watching`;
}

/** A rendition's name by its smaller side, as players name qualities: `720p`, also for 720x1280. */
export function quality(width: number, height: number): string {
  return width > 0 && height > 0 ? `${Math.min(width, height)}p` : 'Sound only';
}

/** A time or a length on a time line: `0:07`, `12:40`, `1:02:33`. */
export function clock(value: number): string {
  const whole = Math.max(0, Math.floor(value));
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const tail = `${h > 0 ? String(m).padStart(2, '0') : m}:${String(s).padStart(2, '0')}`;
  return h > 0 ? `${h}:${tail}` : tail;
}

/** The same for a screen reader: `7 seconds`, `1 hour 2 minutes 33 seconds`. */
export function spoken(value: number): string {
  const whole = Math.max(0, Math.floor(value));
  const parts: string[] = [];
  for (const [size, name] of [[3600, 'hour'], [60, 'minute'], [1, 'second']] as const) {
    const n = size === 1 ? whole % 60 : size === 60 ? Math.floor(whole / 60) % 60 : Math.floor(whole / 3600);
    if (n > 0) parts.push(`${n} ${name}${n === 1 ? '' : 's'}`);
  }
  return parts.length === 0 ? '0 seconds' : parts.join(' ');
}

/** `21 November 2026 at 18:05`, in the reader's own way; the text itself when it is no time. */
export function dateAndTime(iso: string, style: 'long' | 'medium' = 'long'): string {
  const at = new Date(iso);
  if (Number.isNaN(at.getTime())) return iso;
  return new Intl.DateTimeFormat(undefined, { dateStyle: style, timeStyle: 'short' }).format(at);
}

/** `850 kB`, `1.2 GB`. */
export function size(bytes: number): string {
  const units = ['bytes', 'kB', 'MB', 'GB', 'TB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}
