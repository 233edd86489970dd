/** The numbers of now, told by the server every two seconds. Where it tells nothing by itself, it is asked. */
import { backoffMs } from '../shared/backoff';
import { failureOf, type Failure } from '../shared/api';
import { fetchAudience, readNow, streamPath, type Asker, type Now } from './api';

/** A server that is silent for so long is gone. */
const SILENT_MS = 15_000;
const ASK_MS = 5_000;
/** How often it is asked before it is listened to again. */
const ASKS = 6;
const BACKOFF = { firstMs: 1_000, longestMs: 10_000 };

export interface Told {
  now(now: Now): void;
  failed(failure: Failure): void;
}

/** Listens until what this gives is called. */
export function follow(asker: Asker, told: Told): () => void {
  let over = false;
  let abort = new AbortController();
  const sleep = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));

  /** Gives why it ended, null when it worked for a while. */
  const listen = async (): Promise<Failure | null> => {
    abort = new AbortController();
    let heard = false;
    let silence = setTimeout(() => abort.abort(), SILENT_MS);
    try {
      const response = await fetch(streamPath(asker.stream, 'audience/events'), {
        cache: 'no-store',
        headers: { accept: 'text/event-stream', authorization: `Bearer ${asker.key}` },
        signal: abort.signal,
      });
      if (!response.ok) return await failureOf(response);
      if (response.body === null) return MUTE;
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      const events = new Events();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return heard ? null : MUTE;
        clearTimeout(silence);
        silence = setTimeout(() => abort.abort(), SILENT_MS);
        for (const { type, data } of events.take(value)) {
          const now = type === 'now' ? readNow(parse(data)) : null;
          if (now === null || over) continue;
          heard = true;
          told.now(now);
        }
      }
    } catch {
      return heard ? null : MUTE;
    } finally {
      clearTimeout(silence);
    }
  };

  const ask = async (): Promise<Failure | null> => {
    const to = Date.now();
    const answer = await fetchAudience(asker, to - 60_000, to, 1);
    if (answer.kind !== 'ok') return answer;
    if (answer.value.now !== null && !over) told.now(answer.value.now);
    return null;
  };

  void (async () => {
    for (let tries = 0; !over; ) {
      const failure = await listen();
      if (over) return;
      if (failure?.kind === 'refused') return told.failed(failure);
      if (failure === null) {
        // It worked and broke off: a server that restarts is there again soon.
        tries = 0;
        await sleep(backoffMs(BACKOFF, 0, Math.random()));
        continue;
      }
      for (let i = 0; i < ASKS && !over; i += 1) {
        const missed = await ask();
        if (missed !== null && !over) told.failed(missed);
        if (missed?.kind === 'refused') return;
        tries = missed === null ? 0 : tries + 1;
        await sleep(missed === null ? ASK_MS : backoffMs(BACKOFF, tries, Math.random()));
        // Once it is there again it may tell by itself as well.
        if (missed !== null) break;
      }
    }
  })();

  return () => {
    over = true;
    abort.abort();
  };
}

const MUTE: Failure = { kind: 'unreachable', code: '', words: 'The server does not answer.' };

function parse(data: string): unknown {
  try {
    return JSON.parse(data);
  } catch {
    return null;
  }
}

/** Server-sent events out of a text that comes in pieces (HTML 9.2.6). Pure. */
export class Events {
  #rest = '';
  #type = '';
  #data: string[] = [];

  take(piece: string): { type: string; data: string }[] {
    const lines = (this.#rest + piece).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop() ?? '';
    const events: { type: string; data: string }[] = [];
    for (const line of lines) {
      if (line === '') {
        if (this.#data.length > 0) events.push({ type: this.#type || 'message', data: this.#data.join('\n') });
        this.#type = '';
        this.#data = [];
        continue;
      }
      const colon = line.indexOf(':');
      const name = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
      if (name === 'event') this.#type = value;
      else if (name === 'data') this.#data.push(value);
    }
    return events;
  }
}
