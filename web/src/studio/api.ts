/** What the studio asks of the server. All of it needs the stream's key or the admin token. */
import { ask, failureOf, isObject, list, number, text, type Answer, type Failure, type Warning } from '../shared/api';

export interface Share {
  name: string;
  viewers: number;
}

export interface Now {
  atMs: number;
  viewers: number;
  paused: number;
  /** Viewers by their playlist requests: of players that send no reports. */
  estimate: number | null;
  renditions: Share[];
  kbps: number | null;
  latencyMs: number | null;
  stalled: number;
}

export interface Total {
  joins: number | null;
  uniques: number | null;
  minutes: number | null;
  average: number | null;
  peak: number | null;
  peakAt: string | null;
  startupMs: { p50: number | null; p95: number | null };
  stalls: number | null;
  /** Of the time watched, in [0, 1]. */
  stallRatio: number | null;
  kbps: number | null;
  latencyMs: number | null;
  errors: { code: string; count: number }[];
  renditions: { name: string; minutes: number }[];
}

/** What was in one step of time. */
export interface Point {
  atMs: number;
  viewers: number | null;
  peak: number | null;
  minutes: number | null;
  stallMs: number | null;
  startupMs: number | null;
  kbps: number | null;
  latencyMs: number | null;
  /** Mean viewers by rendition. */
  renditions: Record<string, number>;
}

export interface Mark {
  atMs: number;
  label: string;
}

export interface Audience {
  broadcast: string | null;
  now: Now | null;
  total: Total | null;
  stepS: number;
  /** Ascending; steps in which there was nothing are missing. */
  series: Point[];
  marks: Mark[];
}

export interface Ingest {
  state: string;
  gateway: string | null;
  since: string | null;
  kbps: number | null;
  audioKbps: number | null;
  fps: number | null;
  keyframeS: number | null;
  width: number | null;
  height: number | null;
  video: string | null;
  audio: string | null;
  dropped: number | null;
  behindMs: number | null;
  warnings: Warning[];
  history: { atMs: number; kbps: number | null; fps: number | null }[];
}

export interface Asker {
  stream: string;
  key: string;
}

/** The path of something of a stream. */
export function streamPath(stream: string, rest: string): string {
  return `/api/v1/streams/${encodeURIComponent(stream)}/${rest}`;
}

/** The path of what was watched of a broadcast: `.csv` is it as a table. */
export function broadcastPath(id: string, kind: '' | '.csv' = ''): string {
  return `/api/v1/broadcasts/${encodeURIComponent(id)}/audience${kind}`;
}

export function fetchAudience({ stream, key }: Asker, fromMs: number, toMs: number, points: number): Promise<Answer<Audience>> {
  return ask({ url: streamPath(stream, `audience?from=${Math.round(fromMs)}&to=${Math.round(toMs)}&points=${points}`), key }, readAudience);
}

export function fetchBroadcastAudience(id: string, key: string): Promise<Answer<Audience>> {
  return ask({ url: broadcastPath(id), key, patienceMs: 20_000 }, readAudience);
}

export function fetchIngest({ stream, key }: Asker): Promise<Answer<Ingest>> {
  return ask({ url: streamPath(stream, 'ingest'), key }, readIngest);
}

export function makeMark({ stream, key }: Asker, label: string): Promise<Answer<true>> {
  return ask({ method: 'POST', url: streamPath(stream, 'marks'), key, body: { label } }, () => true as const);
}

/** The ids of the newest chat messages, newest first. */
export function fetchMessages({ stream, key }: Asker, limit: number): Promise<Answer<string[]>> {
  return ask({ url: streamPath(stream, `chat/history?limit=${limit}`), key }, (body) =>
    isObject(body) && Array.isArray(body['messages']) ? list(body['messages'], (one) => (isObject(one) ? text(one['id']) : null)) : null,
  );
}

/** Saves what is at this path as a file; the browser's own downloads cannot show the key. Gives why it could not be had. */
export async function save(path: string, key: string, name: string): Promise<Failure | null> {
  try {
    const response = await fetch(path, { cache: 'no-store', headers: { authorization: `Bearer ${key}` }, signal: AbortSignal.timeout(60_000) });
    if (!response.ok) return await failureOf(response);
    const url = URL.createObjectURL(await response.blob());
    const link = document.createElement('a');
    link.href = url;
    link.download = name;
    link.click();
    // The browser has begun to read it by then.
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
    return null;
  } catch {
    return { kind: 'unreachable', code: '', words: 'The server does not answer. Try again in a moment.' };
  }
}

export function readAudience(body: unknown): Audience | null {
  if (!isObject(body) || !Array.isArray(body['series'])) return null;
  return {
    broadcast: text(body['broadcast']),
    now: readNow(body['now']),
    total: readTotal(body['total']),
    stepS: Math.max(1, number(body['step_s']) ?? 60),
    series: list(body['series'], readPoint).sort((a, b) => a.atMs - b.atMs),
    marks: list(body['marks'], readMark),
  };
}

export function readNow(body: unknown): Now | null {
  const atMs = isObject(body) ? time(body['at']) : null;
  if (!isObject(body) || atMs === null) return null;
  return {
    atMs,
    viewers: number(body['viewers']) ?? 0,
    paused: number(body['paused']) ?? 0,
    estimate: number(body['estimate']),
    renditions: list(body['renditions'], (one) => {
      const name = isObject(one) ? text(one['name']) : null;
      return !isObject(one) || name === null ? null : { name, viewers: number(one['viewers']) ?? 0 };
    }),
    kbps: number(body['kbps']),
    latencyMs: number(body['latency_ms']),
    stalled: number(body['stalled']) ?? 0,
  };
}

function readTotal(body: unknown): Total | null {
  if (!isObject(body)) return null;
  const startup = isObject(body['startup_ms']) ? body['startup_ms'] : {};
  return {
    joins: number(body['joins']),
    uniques: number(body['uniques']),
    minutes: number(body['minutes']),
    average: number(body['average']),
    peak: number(body['peak']),
    peakAt: text(body['peak_at']),
    startupMs: { p50: number(startup['p50']), p95: number(startup['p95']) },
    stalls: number(body['stalls']),
    stallRatio: number(body['stall_ratio']),
    kbps: number(body['kbps']),
    latencyMs: number(body['latency_ms']),
    errors: list(body['errors'], (one) => {
      const code = isObject(one) ? text(one['code']) : null;
      return !isObject(one) || code === null ? null : { code, count: number(one['count']) ?? 0 };
    }),
    renditions: list(body['renditions'], (one) => {
      const name = isObject(one) ? text(one['name']) : null;
      return !isObject(one) || name === null ? null : { name, minutes: number(one['minutes']) ?? 0 };
    }),
  };
}

function readPoint(body: unknown): Point | null {
  const atMs = isObject(body) ? time(body['at']) : null;
  if (!isObject(body) || atMs === null) return null;
  const renditions = isObject(body['renditions']) ? Object.entries(body['renditions']) : [];
  return {
    atMs,
    viewers: number(body['viewers']),
    peak: number(body['peak']),
    minutes: number(body['minutes']),
    stallMs: number(body['stall_ms']),
    startupMs: number(body['startup_ms']),
    kbps: number(body['kbps']),
    latencyMs: number(body['latency_ms']),
    renditions: Object.fromEntries(renditions.flatMap(([name, viewers]) => (number(viewers) === null ? [] : [[name, number(viewers) ?? 0]]))),
  };
}

function readMark(body: unknown): Mark | null {
  if (!isObject(body)) return null;
  const [atMs, label] = [time(body['at']), text(body['label'])];
  return atMs === null || label === null ? null : { atMs, label };
}

export function readIngest(body: unknown): Ingest | null {
  const state = isObject(body) ? text(body['state']) : null;
  if (!isObject(body) || state === null) return null;
  return {
    state,
    gateway: text(body['gateway']),
    since: text(body['since']),
    kbps: number(body['kbps']),
    audioKbps: number(body['audio_kbps']),
    fps: number(body['fps']),
    keyframeS: number(body['keyframe_s']),
    width: number(body['width']),
    height: number(body['height']),
    video: text(body['video']),
    audio: text(body['audio']),
    dropped: number(body['dropped']),
    behindMs: number(body['behind_ms']),
    warnings: list(body['warnings'], (one) => {
      const words = isObject(one) ? text(one['text']) : null;
      return !isObject(one) || words === null ? null : { code: text(one['code']) ?? '', text: words, fix: text(one['fix']) ?? '' };
    }),
    history: list(body['history'], (one) => {
      const atMs = isObject(one) ? time(one['at']) : null;
      return !isObject(one) || atMs === null ? null : { atMs, kbps: number(one['kbps']), fps: number(one['fps']) };
    }),
  };
}

/** Milliseconds since 1970 of an RFC 3339 time. */
function time(value: unknown): number | null {
  const ms = typeof value === 'string' ? Date.parse(value) : Number.NaN;
  return Number.isNaN(ms) ? null : ms;
}
