/** The line to a room: a socket while there is room for one, polling while there is not, and back. Whoever holds it notices neither. */
import { backoffMs } from '../shared/backoff';
import { isObject, list, number, text } from '../shared/api';
import { readEmotes, readEvent, readSettings, readYou, type Acted, type Api, type You } from './api';
import type { Emotes, Event, Settings } from './log';

/** A socket that says nothing for so long is dead: the server asks twice in that time. */
const SILENT_MS = 70_000;
/** A request that is not answered by then is sent again, under its nonce. */
const ANSWER_MS = 10_000;
const BACKOFF = { firstMs: 500, longestMs: 15_000 };

export type State = 'connecting' | 'on' | 'off';

export interface Refusal {
  code: string;
  text: string;
  retryMs: number | null;
}

/** What the holder of a line is told. */
export interface Told {
  events(events: Event[]): void;
  state(state: State): void;
  you(you: You | null): void;
  settings(settings: Settings): void;
  emotes(emotes: Emotes): void;
  delayed(delayed: boolean): void;
  /** So many messages came faster than they were taken. */
  skipped(count: number): void;
}

interface Waiting {
  act: object;
  nonce: string;
  tries: number;
  timer: ReturnType<typeof setTimeout> | undefined;
  done(answer: Acted | Refusal): void;
}

export class Line {
  private socket: WebSocket | null = null;
  private waiting = new Map<string, Waiting>();
  private tries = 0;
  private closed = false;
  /** Polling goes on as long as this is the newest try. */
  private turn = 0;

  constructor(
    private readonly api: Api,
    private readonly newest: () => string | null,
    private readonly told: Told,
  ) {
    addEventListener('online', () => this.open());
    void this.enter();
  }

  /** Begins anew: whoever this is has changed. */
  reopen(): void {
    this.tries = 0;
    this.open();
  }

  close(): void {
    this.closed = true;
    this.turn += 1;
    this.socket?.close();
  }

  /** Has something done. Sent again until it is answered: what has one nonce is done once. */
  act(act: object): Promise<Acted | Refusal> {
    return new Promise((done) => {
      const nonce = crypto.randomUUID?.().slice(0, 18) ?? String(Math.random()).slice(2);
      const waiting = { act, nonce, tries: 0, timer: undefined, done };
      this.waiting.set(nonce, waiting);
      this.send(waiting);
    });
  }

  private send(waiting: Waiting): void {
    clearTimeout(waiting.timer);
    if (waiting.tries++ >= 4) {
      return this.answer(waiting.nonce, { code: 'late', text: 'The server does not answer.', retryMs: 1_000 });
    }
    waiting.timer = setTimeout(() => this.send(waiting), ANSWER_MS);
    const request = { ...waiting.act, nonce: waiting.nonce };
    if (this.socket?.readyState === WebSocket.OPEN) return this.socket.send(JSON.stringify(request));
    void this.api.act(request).then((answer) => {
      if (answer.kind === 'ok') this.answer(waiting.nonce, answer.value);
      else if (answer.kind !== 'unreachable') this.answer(waiting.nonce, { code: answer.code, text: answer.words, retryMs: answer.retryMs ?? null });
    });
  }

  private answer(nonce: string, answer: Acted | Refusal): void {
    const waiting = this.waiting.get(nonce);
    if (waiting === undefined) return;
    clearTimeout(waiting.timer);
    this.waiting.delete(nonce);
    waiting.done(answer);
  }

  private async enter(): Promise<void> {
    const turn = ++this.turn;
    const answer = await this.api.enter();
    if (turn !== this.turn || this.closed) return;
    if (answer.kind === 'missing') return this.told.state('off');
    if (answer.kind !== 'ok') return this.later();
    const { mode, events, you, settings, emotes } = answer.value;
    this.told.settings(settings);
    this.told.emotes(emotes);
    this.told.delayed(answer.value.delayed);
    this.told.you(you);
    this.told.events(events);
    if (mode === 'socket') this.open();
    else void this.poll(turn, answer.value.slot, answer.value.slotMs);
  }

  private later(withinMs?: number): void {
    const turn = ++this.turn;
    const waitMs = withinMs === undefined ? backoffMs(BACKOFF, this.tries++, Math.random()) : Math.random() * withinMs;
    if (this.tries > 2) this.told.state('connecting');
    setTimeout(() => {
      if (turn === this.turn && !this.closed) void this.enter();
    }, waitMs);
  }

  private open(): void {
    if (this.closed) return;
    const turn = ++this.turn;
    this.socket?.close();
    const after = this.newest();
    const url = new URL(this.api.path(after === null ? '' : `?after=${after}`), location.href);
    url.protocol = url.protocol.replace('http', 'ws');
    const socket = new WebSocket(url);
    this.socket = socket;
    let silence = setTimeout(() => socket.close(), SILENT_MS);
    let within: number | undefined;
    socket.addEventListener('message', ({ data }: MessageEvent<unknown>) => {
      clearTimeout(silence);
      silence = setTimeout(() => socket.close(), SILENT_MS);
      if (turn === this.turn) within = this.hear(data) ?? within;
    });
    socket.addEventListener('close', () => {
      clearTimeout(silence);
      if (turn === this.turn && !this.closed) this.later(within);
    });
  }

  /** Takes a message of the socket; gives within which time to come back, where it says so. */
  private hear(data: unknown): number | undefined {
    let within: number | undefined;
    const words: unknown = typeof data === 'string' ? JSON.parse(data) : null;
    const events: Event[] = [];
    for (const word of list(words, (word) => (isObject(word) ? word : null))) {
      const nonce = text(word['nonce']);
      switch (word['type']) {
        case 'hello':
          this.tries = 0;
          this.told.settings(readSettings(word['settings']));
          this.told.emotes(readEmotes(word['emotes']));
          this.told.you(readYou(word['you']));
          this.told.state('on');
          // What was on its way when the last socket was lost.
          this.waiting.forEach((waiting) => this.send(waiting));
          break;
        case 'ack':
          if (nonce !== null) this.answer(nonce, { id: text(word['id']) ?? '', held: word['held'] === true });
          break;
        case 'refused':
          if (nonce !== null) this.answer(nonce, { code: text(word['code']) ?? '', text: text(word['text']) ?? '', retryMs: number(word['retry_ms']) });
          break;
        case 'skipped':
          this.told.skipped(number(word['count']) ?? 0);
          break;
        case 'retry':
        case 'poll':
          within = number(word['within_ms']) ?? 0;
          break;
        default: {
          const event = readEvent(word);
          if (event !== null) events.push(event);
        }
      }
    }
    this.told.events(events);
    return within;
  }

  /** Reads slot after slot, which cost the server nothing, and asks now and then whether there is room for a socket. */
  private async poll(turn: number, from: number, slotMs: number): Promise<void> {
    this.told.state('on');
    for (let slot = from; turn === this.turn && !this.closed; slot += 1) {
      // Everybody asks a little later than the others, so that one answer is there for all.
      await new Promise((done) => setTimeout(done, slot === from ? Math.random() * slotMs : 0));
      const answer = await this.api.slot(slot);
      if (turn !== this.turn || this.closed) return;
      if (answer.kind !== 'ok') return this.later();
      this.told.events(answer.value);
      if ((slot - from) % 15 === 14) {
        const now = await this.api.poll(this.newest() ?? '0000000000000');
        if (turn !== this.turn || this.closed) return;
        if (now.kind === 'ok') this.told.events(now.value.events);
        if (now.kind === 'ok' && now.value.mode === 'socket') return this.open();
      }
    }
  }
}
