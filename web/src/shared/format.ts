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

/** A rendition's name by its smaller side, as players name qualities: `720p`, also for 720x1280. */
export function quality(width: number, height: number): string {
  return width > 0 && height > 0 ? `${Math.min(width, height)}p` : 'Sound only';
}
