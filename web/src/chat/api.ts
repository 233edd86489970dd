/** What the chat asks of the server by requests; the socket is `line`'s. */
import { ask, isObject, list, number, text, type Answer } from '../shared/api';
import { ticketed } from '../shared/ticketed';
import type { Emotes, Event, Message, Settings } from './log';
import type { Part, Source } from './replay';

export interface You {
  user: string;
  name: string;
  roles: string[];
}

export interface Entered {
  mode: 'socket' | 'poll';
  pollMs: number;
  slotMs: number;
  slot: number;
  you: You | null;
  settings: Settings;
  emotes: Emotes;
  /** What is said is stored later. */
  delayed: boolean;
  events: Event[];
}

/** What was done. */
export interface Acted {
  id: string;
  /** It waits for a moderator. */
  held: boolean;
}

/** What moderators look at. */
export interface Rules {
  /** As the server has them, with what this page does not know. */
  settings: Record<string, unknown>;
  bans: { user: string; until: string | null; reason: string }[];
  addresses: string[];
  held: Message[];
}

/** Something that a moderator did. */
export interface Deed {
  id: string;
  time: string;
  name: string;
  act: Record<string, unknown>;
}

export interface Polled {
  mode: 'socket' | 'poll';
  events: Event[];
}

export class Api {
  constructor(
    readonly stream: string,
    private readonly ticket: () => string | null,
  ) {}

  /** The address of something of this room. */
  path(rest = ''): string {
    return ticketed(`/api/v1/streams/${encodeURIComponent(this.stream)}/chat${rest}`, this.ticket());
  }

  enter(): Promise<Answer<Entered>> {
    return ask({ url: this.path() }, (body) => {
      if (!isObject(body)) return null;
      return {
        mode: body['mode'] === 'poll' ? 'poll' : 'socket',
        pollMs: number(body['poll_ms']) ?? 2_000,
        slotMs: number(body['slot_ms']) ?? 2_000,
        slot: number(body['slot']) ?? 0,
        you: readYou(body['you']),
        settings: readSettings(body['settings']),
        emotes: readEmotes(body['emotes']),
        delayed: body['delayed'] === true,
        events: list(body['events'], readEvent),
      };
    });
  }

  poll(after: string): Promise<Answer<Polled>> {
    return ask({ url: this.path(`/poll?after=${after}`), patienceMs: 30_000 }, (body) => {
      if (!isObject(body)) return null;
      return { mode: body['mode'] === 'poll' ? 'poll' : 'socket', events: list(body['events'], readEvent) };
    });
  }

  /** What was told in two seconds: any cache may have it. */
  slot(slot: number): Promise<Answer<Event[]>> {
    return ask({ url: this.path(`/slots/${slot}`), patienceMs: 30_000, cached: true }, (body) => list(body, readEvent));
  }

  /** Messages before an event, newest first. */
  before(id: string): Promise<Answer<{ messages: Message[]; next: string | null }>> {
    return ask({ url: this.path(`/history?before=${id}&limit=10`) }, (body) => {
      if (!isObject(body)) return null;
      const events = list(body['messages'], readEvent);
      return { messages: events.filter((event) => event.type === 'message'), next: text(body['next']) };
    });
  }

  /** What was said while a broadcast ran. */
  replay(broadcast: string): Source {
    const ask = (query: string): Promise<Answer<Part>> => this.part(broadcast, query);
    const time = (ms: number): string => new Date(ms).toISOString();
    return {
      from: (from) => ask('ms' in from ? `from=${time(from.ms)}&limit=200` : `after=${from.after}&limit=500`),
      before: (before) => ask('ms' in before ? `until=${time(before.ms)}&limit=30` : `before=${before.id}&limit=10`),
    };
  }

  private part(broadcast: string, query: string): Promise<Answer<Part>> {
    return ask({ url: `${this.recording(broadcast)}?${query}`, cached: true }, (body) => {
      if (!isObject(body)) return null;
      const said = list(body['messages'], (one) => {
        const [event, time] = isObject(one) ? [readEvent(one), text(one['time'])] : [null, null];
        return event?.type === 'message' && time !== null ? { message: event, atMs: Date.parse(time) } : null;
      });
      return { said, next: text(body['next']) };
    });
  }

  /** The address of a recording's chat; `.jsonl`: all of it, as a file. */
  recording(broadcast: string, kind = ''): string {
    return ticketed(`/api/v1/broadcasts/${encodeURIComponent(broadcast)}/chat${kind}`, this.ticket());
  }

  /** Chooses a name; with the stream's key, the streamer's. */
  name(name: string, key: string | null): Promise<Answer<{ user: string; name: string }>> {
    return ask({ url: this.path('/me'), method: 'POST', key, body: { name } }, (body) => {
      const [user, chosen] = isObject(body) ? [text(body['user']), text(body['name'])] : [null, null];
      return user === null || chosen === null ? null : { user, name: chosen };
    });
  }

  /** Has something done, where there is no socket. */
  act(act: object, key: string | null = null): Promise<Answer<Acted>> {
    return ask({ url: this.path('/acts'), method: 'POST', body: act, key }, readActed);
  }

  rules(): Promise<Answer<Rules>> {
    return ask({ url: this.path('/rules') }, (body) => {
      if (!isObject(body) || !isObject(body['settings'])) return null;
      const bans = isObject(body['bans']) ? Object.entries(body['bans']) : [];
      return {
        settings: body['settings'],
        bans: bans.map(([user, ban]) => ({
          user,
          until: isObject(ban) ? untilOf(ban['until']) : null,
          reason: (isObject(ban) ? text(ban['reason']) : null) ?? '',
        })),
        addresses: isObject(body['addresses']) ? Object.keys(body['addresses']) : [],
        held: list(body['held'], (one) => {
          const event = isObject(one) ? readEvent({ ...one, type: 'message' }) : null;
          return event?.type === 'message' ? event : null;
        }),
      };
    });
  }

  /** What moderators did, newest first. */
  audit(before: string | null): Promise<Answer<{ deeds: Deed[]; next: string | null }>> {
    return ask({ url: this.path(`/audit?limit=30${before === null ? '' : `&before=${before}`}`) }, (body) => {
      if (!isObject(body)) return null;
      const deeds = list(body['acts'], (one) => {
        if (!isObject(one) || !isObject(one['act'])) return null;
        const [id, time, name] = [text(one['id']), text(one['time']), text(one['name'])];
        return id === null || time === null || name === null ? null : { id, time, name, act: one['act'] };
      });
      return { deeds, next: text(body['next']) };
    });
  }

  /** Gives an emote its picture; nothing takes it away. */
  emote(name: string, picture: Blob | null, key: string): Promise<Answer<boolean>> {
    const url = this.path(`/emotes/${encodeURIComponent(name)}`);
    return ask(picture === null ? { url, method: 'DELETE', key } : { url, method: 'PUT', file: picture, patienceMs: 30_000, key }, () => true);
  }

  /** Where a picture of an emote is. */
  pictureUrl(file: string): string {
    return `/api/v1/streams/${encodeURIComponent(this.stream)}/chat/emotes/${file}`;
  }
}

function untilOf(until: unknown): string | null {
  const ms = number(until);
  return ms === null ? null : new Date(ms).toISOString();
}

function readActed(body: unknown): Acted | null {
  const id = isObject(body) ? text(body['id']) : null;
  return !isObject(body) || id === null ? null : { id, held: body['held'] === true };
}

export function readEmotes(body: unknown): Emotes {
  const pairs = isObject(body) ? Object.entries(body) : [];
  return new Map(pairs.filter((pair): pair is [string, string] => text(pair[1]) !== null));
}

export function readYou(body: unknown): You | null {
  if (!isObject(body)) return null;
  const [user, name] = [text(body['user']), text(body['name'])];
  return user === null || name === null ? null : { user, name, roles: list(body['roles'], text) };
}

export function readSettings(body: unknown): Settings {
  const settings = isObject(body) ? body : {};
  return {
    slow: number(settings['slow']) ?? 0,
    ticketsOnly: settings['tickets_only'] === true,
    emotesOnly: settings['emotes_only'] === true,
    noLinks: settings['no_links'] === true,
    holdAll: settings['hold_all'] === true,
  };
}

/** Reads an event; null for one of a newer version. */
export function readEvent(body: unknown): Event | null {
  if (!isObject(body)) return null;
  const [id, type, user] = [text(body['id']), body['type'], text(body['user'])];
  if (id === null) return null;
  if (type === 'message' && user !== null) {
    const [name, said] = [text(body['name']), text(body['text'])];
    if (name === null || said === null) return null;
    return { type, id, user, name, text: said, roles: list(body['roles'], text), reply: text(body['reply']), nonce: text(body['nonce']) };
  }
  if (type === 'delete') {
    const message = text(body['message']);
    return message === null ? null : { type, id, message };
  }
  if (type === 'purge') return user === null ? null : { type, id, user };
  if (type === 'emote') {
    const name = text(body['name']);
    return name === null ? null : { type, id, name, picture: text(body['picture']) };
  }
  return type === 'room' ? { type, id, settings: readSettings(body['settings']) } : null;
}
