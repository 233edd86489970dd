/**
 * What the pages ask of the server: stream states, and why it refuses a playlist; never media. Every failure is a value,
 * nothing throws.
 */

export interface Rendition {
  name: string;
  codec: string;
  width: number | null;
  height: number | null;
  fps: number | null;
  kbps: number;
}

/** Something the streamer can change to make the broadcast better or cheaper. */
export interface Warning {
  code: string;
  text: string;
  fix: string;
}

export interface Stream {
  id: string;
  state: 'offline' | 'starting' | 'live' | 'away';
  broadcast: string | null;
  /** ISO 8601, when the broadcast began. */
  started: string | null;
  mode: 'follow' | 'reencode' | 'audio-only' | null;
  /** Whether a viewer needs a ticket. */
  playback: 'public' | 'ticket';
  renditions: Rendition[];
  warnings: Warning[];
  /** Names of renditions the server does not make at the moment because it has no room for them. */
  shed: string[];
}

export type Answer<T> =
  | { kind: 'ok'; value: T; clockOffsetMs: number }
  | { kind: 'missing' }
  | { kind: 'unreachable' };

const TIMEOUT_MS = 8_000;

/** The stream with this id. */
export function fetchStream(id: string): Promise<Answer<Stream>> {
  return fetchJson(`/api/v1/streams/${encodeURIComponent(id)}`, (body) => readStream(body));
}

/** Every stream that is live. */
export function fetchLive(): Promise<Answer<Live>> {
  return fetchJson('/api/v1/streams?live=1', (body) => {
    if (!isObject(body) || !Array.isArray(body['streams'])) return null;
    const port = body['rtmp_port'];
    return {
      streams: body['streams'].map(readStream).filter((s) => s !== null),
      rtmpPort: typeof port === 'number' ? port : null,
    };
  });
}

export interface Live {
  streams: Stream[];
  /** Where this node takes publishers; null when it takes none. */
  rtmpPort: number | null;
}

/**
 * Why the server refuses this playlist: the `code` of its problem, empty where it gives none; null when it does not refuse
 * it or does not answer.
 */
export async function fetchRefusal(url: string): Promise<string | null> {
  try {
    const response = await fetch(url, { cache: 'no-store', signal: AbortSignal.timeout(TIMEOUT_MS) });
    if (response.status !== 401 && response.status !== 403) return null;
    const body: unknown = await response.json().catch(() => null);
    return isObject(body) ? (text(body['code']) ?? '') : '';
  } catch {
    return null;
  }
}

async function fetchJson<T>(url: string, read: (body: unknown) => T | null): Promise<Answer<T>> {
  try {
    const response = await fetch(url, {
      cache: 'no-store',
      headers: { accept: 'application/json' },
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    if (response.status === 404 || response.status === 410) return { kind: 'missing' };
    if (!response.ok) return { kind: 'unreachable' };
    const value = read(await response.json());
    if (value === null) return { kind: 'unreachable' };
    return { kind: 'ok', value, clockOffsetMs: clockOffset(response.headers.get('date'), Date.now()) };
  } catch {
    return { kind: 'unreachable' };
  }
}

/**
 * Milliseconds to add to the local clock to have the server's. A `Date` header has whole seconds, so a
 * difference it cannot resolve counts as none.
 */
export function clockOffset(header: string | null, nowMs: number): number {
  const server = header === null ? Number.NaN : Date.parse(header);
  if (Number.isNaN(server)) return 0;
  const offset = server + 500 - nowMs;
  return Math.abs(offset) < 2_000 ? 0 : offset;
}

/** Reads a stream as the server writes it; `null` when it is not one. Fields this page can do without may be missing. */
export function readStream(body: unknown): Stream | null {
  if (!isObject(body)) return null;
  const { id, state } = body;
  if (typeof id !== 'string') return null;
  if (state !== 'offline' && state !== 'starting' && state !== 'live' && state !== 'away') return null;
  const mode = body['mode'];
  return {
    id,
    state,
    broadcast: text(body['broadcast']),
    started: text(body['started']),
    mode: mode === 'follow' || mode === 'reencode' || mode === 'audio-only' ? mode : null,
    playback: body['playback'] === 'ticket' ? 'ticket' : 'public',
    renditions: list(body['renditions'], readRendition),
    warnings: list(body['warnings'], readWarning),
    shed: list(body['shed'], text),
  };
}

function readRendition(body: unknown): Rendition | null {
  if (!isObject(body) || typeof body['name'] !== 'string') return null;
  return {
    name: body['name'],
    codec: text(body['codec']) ?? '',
    width: number(body['width']),
    height: number(body['height']),
    fps: number(body['fps']),
    kbps: number(body['kbps']) ?? 0,
  };
}

function readWarning(body: unknown): Warning | null {
  if (!isObject(body) || typeof body['text'] !== 'string') return null;
  return { code: text(body['code']) ?? '', text: body['text'], fix: text(body['fix']) ?? '' };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function text(value: unknown): string | null {
  return typeof value === 'string' ? value : null;
}

function number(value: unknown): number | null {
  return typeof value === 'number' && Number.isFinite(value) ? value : null;
}

function list<T>(value: unknown, read: (item: unknown) => T | null): T[] {
  return Array.isArray(value) ? value.map(read).filter((item) => item !== null) : [];
}
