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
  /** Address of a recent picture; null where there is none. */
  poster: string | null;
  /** How many watch; null where that is not told. */
  viewers: number | null;
  /** What it plays, where that is told. */
  now: { title: string | null; artist: string | null } | null;
}

export interface Failure {
  /** 404; 410, it was there; 401 or 403; another fault of the request; none of the request's. */
  kind: 'missing' | 'gone' | 'refused' | 'wrong' | 'unreachable';
  /** The server's word for programs, empty where it gives none. */
  code: string;
  /** A sentence for people. */
  words: string;
  /** When it may be tried again (ms), where the server says so. */
  retryMs?: number;
}

export type Answer<T> = { kind: 'ok'; value: T; clockOffsetMs: number } | Failure;

/** A request to the API. */
export interface Question {
  url: string;
  /** `GET` when nothing is said. */
  method?: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  /** Proof of who asks: a stream key's secret or the admin token. */
  key?: string | null;
  body?: unknown;
  /** Bytes that are sent as they are, in the place of a body. */
  file?: Blob;
  /** How long the answer may take, where the server waits for something to tell. */
  patienceMs?: number;
  /** Whether an answer that a cache has is as good. */
  cached?: boolean;
}

const TIMEOUT_MS = 8_000;

/** The stream with this id. */
export function fetchStream(id: string): Promise<Answer<Stream>> {
  return ask({ url: `/api/v1/streams/${encodeURIComponent(id)}` }, readStream);
}

/** Streams that are live, so many after this one; null begins with the first. */
export function fetchLive(after: string | null, limit: number): Promise<Answer<Live>> {
  const from = after === null ? '' : `&after=${encodeURIComponent(after)}`;
  return ask({ url: `/api/v1/streams?live=1&limit=${limit}${from}` }, (body) => {
    if (!isObject(body) || !Array.isArray(body['streams'])) return null;
    return { streams: list(body['streams'], readStream), next: text(body['next']), rtmpPort: number(body['rtmp_port']) };
  });
}

export interface Live {
  streams: Stream[];
  /** After which the next page begins; null when this is the last. */
  next: string | null;
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
    const failure = response.ok ? null : await failureOf(response);
    return failure?.kind === 'refused' ? failure.code : null;
  } catch {
    return null;
  }
}

/** Puts a question to the API; `read` gives null for an answer it does not understand. */
export async function ask<T>({ url, method = 'GET', key = null, body, file, patienceMs = TIMEOUT_MS, cached = false }: Question, read: (body: unknown) => T | null): Promise<Answer<T>> {
  try {
    const response = await fetch(url, {
      method,
      cache: cached ? 'default' : 'no-store',
      headers: {
        accept: 'application/json',
        ...(key === null ? {} : { authorization: `Bearer ${key}` }),
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      },
      ...(file !== undefined ? { body: file } : body === undefined ? {} : { body: JSON.stringify(body) }),
      signal: AbortSignal.timeout(patienceMs),
    });
    if (!response.ok) return await failureOf(response);
    const value = read(response.status === 204 ? true : await response.json().catch(() => null));
    if (value === null) return UNREACHABLE;
    return { kind: 'ok', value, clockOffsetMs: clockOffset(response.headers.get('date'), Date.now()) };
  } catch {
    return UNREACHABLE;
  }
}

const UNREACHABLE: Failure = { kind: 'unreachable', code: '', words: 'The server does not answer. Try again in a moment.' };

/** What an answer that is not a good one says. */
export async function failureOf(response: Response): Promise<Failure> {
  const { status } = response;
  const body: unknown = await response.json().catch(() => null);
  const code = (isObject(body) ? text(body['code']) : null) ?? '';
  const detail = (isObject(body) ? text(body['detail']) : null) ?? '';
  const known = { 401: 'refused', 403: 'refused', 404: 'missing', 410: 'gone' } as const;
  const kind = status in known ? known[status as keyof typeof known] : status >= 500 ? 'unreachable' : 'wrong';
  const retryMs = isObject(body) ? number(body['retry_ms']) : null;
  return { kind, code, words: detail === '' ? WORDS[kind] : sentence(detail), ...(retryMs === null ? {} : { retryMs }) };
}

const WORDS: Record<Failure['kind'], string> = {
  missing: 'There is no such thing on the server.',
  gone: 'It was deleted.',
  refused: 'You may not do this.',
  wrong: 'The server does not accept this.',
  unreachable: 'The server cannot do this now. Try again in a moment.',
};

/** `no such stream` as `No such stream.` */
function sentence(detail: string): string {
  const end = /[.!?]$/.test(detail) ? '' : '.';
  return `${detail.charAt(0).toUpperCase()}${detail.slice(1)}${end}`;
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
    poster: text(body['poster']),
    viewers: number(body['viewers']),
    now: isObject(body['now']) ? { title: text(body['now']['title']), artist: text(body['now']['artist']) } : null,
  };
}

export function readRendition(body: unknown): Rendition | null {
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

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export function text(value: unknown): string | null {
  return typeof value === 'string' ? value : null;
}

export function number(value: unknown): number | null {
  return typeof value === 'number' && Number.isFinite(value) ? value : null;
}

export function list<T>(value: unknown, read: (item: unknown) => T | null): T[] {
  return Array.isArray(value) ? value.map(read).filter((item) => item !== null) : [];
}
