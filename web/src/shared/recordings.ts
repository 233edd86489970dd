/**
 * What the pages ask of the server about broadcasts and clips, and who may do what with them. `ticket` is the viewer's, null for none;
 * `key` proves who asks, null for a viewer.
 */
import { ask, isObject, list, number, readRendition, text, type Answer, type Rendition } from './api';
import { dateAndTime } from './format';
import { ticketed } from './ticketed';

export interface Broadcast {
  id: string;
  stream: string;
  /** Empty when the streamer gave none. */
  title: string;
  note: string;
  state: 'live' | 'away' | 'ended';
  /** ISO 8601. */
  started: string;
  /** ISO 8601; null while it goes on. */
  ended: string | null;
  /** Seconds; null while it goes on, and until its chunks are counted. */
  duration: number | null;
  bytes: number | null;
  gaps: { count: number; seconds: number } | null;
  renditions: Rendition[];
  watch: string;
  poster: string | null;
  storyboard: string | null;
}

export interface Clip {
  id: string;
  stream: string;
  broadcast: string;
  title: string;
  /** Seconds from the broadcast's start. */
  from: number;
  to: number;
  /** ISO 8601. */
  created: string;
  playlist: string;
  download: string;
  watch: string;
}

export interface Page<T> {
  items: T[];
  /** Where the next page begins; null when this is the last. */
  next: string | null;
}

export interface Access {
  role: 'viewer' | 'owner' | 'admin';
  mayClip: boolean;
}

/** Bounds of a clip: seconds from the broadcast's start, or wall-clock times (ISO 8601) where that start is not known. */
export interface Cut {
  from: number | string;
  to: number | string;
  title: string;
}

const api = (path: string, ticket: string | null) => ticketed(`/api/v1/${path}`, ticket);
const part = encodeURIComponent;
const done = () => true as const;

export function fetchBroadcasts(stream: string, before: string | null, limit: number, ticket: string | null, key: string | null = null): Promise<Answer<Page<Broadcast>>> {
  return ask({ url: api(`streams/${part(stream)}/broadcasts${pageQuery(before, limit)}`, ticket), key }, (body) => readPage(body, 'broadcasts', readBroadcast));
}

export function fetchBroadcast(id: string, ticket: string | null): Promise<Answer<Broadcast>> {
  return ask({ url: api(`broadcasts/${part(id)}`, ticket) }, readBroadcast);
}

export function changeBroadcast(id: string, change: { title?: string; note?: string }, ticket: string | null, key: string): Promise<Answer<Broadcast>> {
  return ask({ method: 'PATCH', url: api(`broadcasts/${part(id)}`, ticket), key, body: change }, readBroadcast);
}

export function deleteBroadcast(id: string, ticket: string | null, key: string): Promise<Answer<true>> {
  return ask({ method: 'DELETE', url: api(`broadcasts/${part(id)}`, ticket), key }, done);
}

export function makeClip(broadcast: string, cut: Cut, ticket: string | null, key: string | null): Promise<Answer<Clip>> {
  return ask({ method: 'POST', url: api(`broadcasts/${part(broadcast)}/clips`, ticket), key, body: cut }, readClip);
}

export function fetchClip(id: string, ticket: string | null): Promise<Answer<Clip>> {
  return ask({ url: api(`clips/${part(id)}`, ticket) }, readClip);
}

export function deleteClip(id: string, ticket: string | null, key: string | null): Promise<Answer<true>> {
  return ask({ method: 'DELETE', url: api(`clips/${part(id)}`, ticket), key }, done);
}

export function fetchBroadcastClips(broadcast: string, ticket: string | null): Promise<Answer<Page<Clip>>> {
  return ask({ url: api(`broadcasts/${part(broadcast)}/clips`, ticket) }, (body) => readPage(body, 'clips', readClip));
}

export function fetchStreamClips(stream: string, before: string | null, limit: number, ticket: string | null): Promise<Answer<Page<Clip>>> {
  return ask({ url: api(`streams/${part(stream)}/clips${pageQuery(before, limit)}`, ticket) }, (body) => readPage(body, 'clips', readClip));
}

/** What this key lets do with the stream, or, without one, what every viewer may. */
export function fetchAccess(stream: string, ticket: string | null, key: string | null): Promise<Answer<Access>> {
  return ask({ url: api(`streams/${part(stream)}/access`, ticket), key }, (body) => {
    if (!isObject(body)) return null;
    const role = body['role'];
    if (role !== 'viewer' && role !== 'owner' && role !== 'admin') return null;
    return { role, mayClip: body['may_clip'] === true };
  });
}

function pageQuery(before: string | null, limit: number): string {
  return `?limit=${limit}${before === null ? '' : `&before=${part(before)}`}`;
}

function readPage<T>(body: unknown, field: string, read: (item: unknown) => T | null): Page<T> | null {
  if (!isObject(body) || !Array.isArray(body[field])) return null;
  return { items: list(body[field], read), next: text(body['next']) };
}

/** What a broadcast is called: by its title, or where it has none by when it was. */
export function titleOf({ title, started }: Pick<Broadcast, 'title' | 'started'>): string {
  return title === '' ? dateAndTime(started) : title;
}

/** How long it is, seconds: by the clock where that was not counted yet; null while it goes on. */
export function lengthOf({ duration, started, ended }: Pick<Broadcast, 'duration' | 'started' | 'ended'>): number | null {
  if (duration !== null || ended === null) return duration;
  const length = (Date.parse(ended) - Date.parse(started)) / 1000;
  return Number.isFinite(length) ? Math.max(0, length) : null;
}

/** Reads a broadcast as the server writes it; `null` when it is not one. */
export function readBroadcast(body: unknown): Broadcast | null {
  if (!isObject(body)) return null;
  const { id, stream, state, started, gaps } = body;
  if (typeof id !== 'string' || typeof stream !== 'string' || typeof started !== 'string') return null;
  if (state !== 'live' && state !== 'away' && state !== 'ended') return null;
  return {
    id,
    stream,
    title: text(body['title']) ?? '',
    note: text(body['note']) ?? '',
    state,
    started,
    ended: text(body['ended']),
    duration: number(body['duration_s']),
    bytes: number(body['bytes']),
    gaps: isObject(gaps) ? { count: number(gaps['count']) ?? 0, seconds: number(gaps['seconds']) ?? 0 } : null,
    renditions: list(body['renditions'], readRendition),
    watch: text(body['watch']) ?? `/watch/${part(stream)}/${part(id)}`,
    poster: text(body['poster']),
    storyboard: text(body['storyboard']),
  };
}

/** Reads a clip as the server writes it; `null` when it is not one. */
export function readClip(body: unknown): Clip | null {
  if (!isObject(body)) return null;
  const [id, stream, broadcast, playlist] = ['id', 'stream', 'broadcast', 'playlist'].map((field) => text(body[field]));
  const [from, to] = [number(body['from']), number(body['to'])];
  if (id == null || stream == null || broadcast == null || playlist == null || from === null || to === null) return null;
  return {
    id,
    stream,
    broadcast,
    title: text(body['title']) ?? '',
    from,
    to,
    created: text(body['created']) ?? '',
    playlist,
    download: text(body['download']) ?? '',
    watch: text(body['watch']) ?? `/watch/${part(stream)}/${part(broadcast)}?clip=${part(id)}`,
  };
}
