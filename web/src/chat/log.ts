/** What was said, as this page knows it: in the order of ids, each once, without what was taken back. No document, no network. */

export interface Message {
  id: string;
  user: string;
  name: string;
  roles: string[];
  text: string;
  reply: string | null;
  nonce: string | null;
}

export type Event =
  | ({ type: 'message' } & Message)
  | { type: 'delete'; id: string; message: string }
  | { type: 'purge'; id: string; user: string }
  | { type: 'emote'; id: string; name: string; picture: string | null }
  | { type: 'room'; id: string; settings: Settings };

/** The file names of pictures by the names of emotes. */
export type Emotes = Map<string, string>;

/** Changes emotes as events say. */
export function changeEmotes(emotes: Emotes, events: Event[]): void {
  for (const event of events) {
    if (event.type !== 'emote') continue;
    if (event.picture === null) emotes.delete(event.name);
    else emotes.set(event.name, event.picture);
  }
}

export interface Settings {
  slow: number;
  ticketsOnly: boolean;
  emotesOnly: boolean;
  noLinks: boolean;
  /** Every message waits for a moderator. */
  holdAll: boolean;
}

/** What changed: messages that are new, by id, and those that are gone. */
export interface Change {
  added: Message[];
  removed: string[];
}

/** Messages that are kept; older ones are read again when they are scrolled to. */
export const KEPT = 500;

export class Log {
  /** Ascending by id. */
  messages: Message[] = [];
  settings: Settings | null = null;
  /** The newest event that is known. */
  newest: string | null = null;
  /** Events that were seen: what comes twice is one. */
  private seen = new Set<string>();
  private gone = new Set<string>();
  /** Until which id nothing of a user is shown. */
  private purged = new Map<string, string>();

  /** Takes events in whatever order they come. */
  take(events: Event[]): Change {
    const change: Change = { added: [], removed: [] };
    for (const event of events) {
      if (this.seen.has(event.id)) continue;
      this.seen.add(event.id);
      if (this.newest === null || event.id > this.newest) this.newest = event.id;
      if (event.type === 'message') {
        if (this.isHidden(event)) continue;
        insert(this.messages, event);
        change.added.push(event);
      } else if (event.type === 'delete') {
        this.gone.add(event.message);
        change.removed.push(...this.drop((message) => message.id === event.message));
      } else if (event.type === 'purge') {
        this.purged.set(event.user, event.id);
        change.removed.push(...this.drop((message) => message.user === event.user && message.id < event.id));
      } else if (event.type === 'room') {
        this.settings = event.settings;
      }
    }
    change.added = change.added.filter((message) => !change.removed.includes(message.id));
    return change;
  }

  /** Takes older messages, which were asked for. */
  takeOlder(messages: Message[]): Message[] {
    const fresh = messages.filter((message) => !this.seen.has(message.id) && !this.isHidden(message));
    fresh.forEach((message) => {
      this.seen.add(message.id);
      insert(this.messages, message);
    });
    return fresh;
  }

  /** Forgets all messages, but not what was taken back. */
  clear(): void {
    this.messages = [];
    this.seen.clear();
  }

  /** Lets go of the oldest, and gives their ids. */
  trim(): string[] {
    const gone = this.messages.splice(0, Math.max(0, this.messages.length - KEPT)).map(({ id }) => id);
    // They may be asked for again.
    gone.forEach((id) => this.seen.delete(id));
    return gone;
  }

  private isHidden(message: Message): boolean {
    const until = this.purged.get(message.user);
    return this.gone.has(message.id) || (until !== undefined && message.id < until);
  }

  private drop(which: (message: Message) => boolean): string[] {
    const dropped = this.messages.filter(which).map(({ id }) => id);
    this.messages = this.messages.filter((message) => !which(message));
    return dropped;
  }
}

/** Puts a message in its place: nearly always the last. */
function insert(messages: Message[], message: Message): void {
  let at = messages.length;
  while (at > 0 && (messages[at - 1]?.id ?? '') > message.id) at -= 1;
  messages.splice(at, 0, message);
}

/** More messages in a second than anyone reads. */
export const READABLE = 20;

/**
 * Which of many messages are shown, where more come than can be read: those that concern the reader, and as many others as fit,
 * spread over all.
 */
export function sample(messages: Message[], room: number, concerns: (message: Message) => boolean): { shown: Message[]; left: number } {
  if (messages.length <= room) return { shown: messages, left: 0 };
  const others = messages.filter((message) => !concerns(message));
  const places = Math.max(0, room - (messages.length - others.length));
  const step = places === 0 ? Infinity : others.length / places;
  const chosen = new Set(Array.from({ length: Math.min(places, others.length) }, (_, n) => others[Math.floor(n * step)]));
  const shown = messages.filter((message) => concerns(message) || chosen.has(message));
  return { shown, left: messages.length - shown.length };
}

/** Whether a text names somebody: `@Ann`, not `@Anna`. */
export function mentions(text: string, name: string): boolean {
  const found = text.toLowerCase().indexOf(`@${name.toLowerCase()}`);
  if (found < 0 || name === '') return false;
  const after = text.slice(found + name.length + 1);
  return !/^[\p{L}\p{N}_]/u.test(after);
}
