/** The studio behind its door: asks for everything again and again, and hands it to the parts that draw it. */
import type { Failure } from '../shared/api';
import { fetchStream, type Stream } from '../shared/api';
import { backoffMs } from '../shared/backoff';
import { byId, make, setText } from '../shared/dom';
import { since } from '../shared/format';
import { titleOf, type Broadcast } from '../shared/recordings';
import { fetchIngest, fetchMessages, makeMark, type Asker } from './api';
import { Charts } from './charts';
import { IngestPanel } from './ingest';
import { follow } from './live';
import { loop, type Loop } from './loop';
import { Past } from './past';
import { Errors, Qualities } from './tables';
import { Tiles } from './tiles';
import { chatRate, clock, eventMs } from './words';

const RETRY = { firstMs: 1_500, longestMs: 8_000 };
const STATE_MS = 4_000;
const INGEST_MS = { live: 2_000, away: 2_000, off: 8_000 };
const CHAT_MS = 10_000;
/** How many times in a row it is asked whether what has just ended has become a recording. */
const SETTLING = 8;
/** Messages that are looked at; more are reckoned. */
const MESSAGES = 100;
const LABEL_MAX = 80;

const BADGES: Record<Stream['state'], string> = { offline: 'Offline', starting: 'Starting', live: 'Live', away: 'Away' };

type Source = 'now' | 'charts' | 'ingest' | 'state';

export class Office {
  #asker: Asker;
  #ask: (why: string) => void;
  #tiles = new Tiles();
  #ingest = new IngestPanel();
  #qualities = new Qualities();
  #errors = new Errors();
  #charts: Charts;
  #past: Past;
  #status = make('p', 'away-line');
  #shelf = make('div', 'shelf');
  #loops: Loop[];
  #chartLoop: Loop;
  #unfollow: () => void;
  #stream: Stream | null = null;
  #titles = new Map<string, string>();
  #offsetMs = 0;
  #settling = 0;
  #tries: Record<Source | 'chat', number> = { now: 0, charts: 0, ingest: 0, state: 0, chat: 0 };
  /** What cannot be had at the moment, and why. */
  #failing = new Map<Source, string>();
  #heardMs: number | null = null;
  #closed = false;

  constructor(element: HTMLElement, asker: Asker, ask: (why: string) => void) {
    this.#asker = asker;
    this.#ask = ask;
    this.#charts = new Charts(asker, () => this.#chartLoop.now());
    this.#past = new Past({
      asker,
      show: (broadcast) => this.#charts.show({ past: broadcast.id, title: titleOf(broadcast) }),
      refused: (failure) => this.#refused(failure),
      heard: (broadcasts) => this.#hear(broadcasts),
    });
    this.#status.setAttribute('role', 'status');
    const side = make('div', 'office-side', this.#ingest.element, this.#qualities.element, this.#errors.element);
    this.#shelf.append(this.#tiles.element, make('div', 'office-columns', this.#charts.element, side));
    element.replaceChildren(this.#marker(), this.#status, this.#shelf, this.#past.element);
    this.#chartLoop = loop(() => this.#askCharts());
    this.#loops = [this.#chartLoop, loop(() => this.#askState()), loop(() => this.#askIngest()), loop(() => this.#askChat())];
    this.#unfollow = follow(asker, {
      now: (now) => {
        this.#answered('now');
        this.#tiles.setNow(now);
        this.#qualities.setNow(now);
        this.#charts.setNow(now);
      },
      failed: (failure) => this.#failed('now', failure),
    });
    const clockwork = setInterval(() => (this.#closed ? clearInterval(clockwork) : this.#drawHead()), 10_000);
    this.#past.refresh();
  }

  close(): void {
    this.#closed = true;
    this.#unfollow();
    for (const one of this.#loops) one.stop();
  }

  /** Asks for a label and marks the moment, and lets go of the key. */
  #marker(): HTMLElement {
    const label = make('input', 'input');
    Object.assign(label, { type: 'text', id: 'mark-label', maxLength: LABEL_MAX, placeholder: 'What happens now', autocomplete: 'off' });
    const named = make('label', 'visually-hidden', 'Label of the mark');
    named.htmlFor = label.id;
    const go = make('button', 'button', 'Mark');
    go.type = 'submit';
    const said = make('p', 'said');
    said.setAttribute('role', 'status');
    const forget = make('button', 'button quiet', 'Forget the key');
    forget.type = 'button';
    forget.addEventListener('click', () => this.#ask(''));
    const form = make('form', 'marker', named, label, go);
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      go.disabled = true;
      const text = label.value.trim() || 'Mark';
      const atMs = this.#serverMs;
      void makeMark(this.#asker, text).then((answer) => {
        go.disabled = false;
        if (answer.kind === 'refused') return this.#refused(answer);
        if (answer.kind !== 'ok') {
          said.dataset['bad'] = 'yes';
          return setText(said, `Not marked: ${answer.words}`);
        }
        said.dataset['bad'] = 'no';
        setText(said, `Marked at ${clock(atMs)}: ${text}`);
        label.value = '';
        this.#charts.addMark({ atMs, label: text });
      });
    });
    return make('div', 'desk', form, forget, said);
  }

  async #askState(): Promise<number> {
    const answer = await fetchStream(this.#asker.stream);
    if (this.#closed) return STATE_MS;
    if (answer.kind !== 'ok') return this.#failed('state', answer);
    this.#answered('state');
    this.#offsetMs = answer.clockOffsetMs;
    const before = this.#stream;
    this.#stream = answer.value;
    const { state, broadcast } = answer.value;
    this.#charts.setLive(state === 'offline' ? null : broadcast);
    // What has just ended is one of the past, and what has begun has a title.
    const changed = before !== null && (before.broadcast !== broadcast || before.state !== state);
    if (changed) this.#settling = SETTLING;
    if (changed || (state === 'offline' && this.#past.unsettled && this.#settling-- > 0)) this.#past.refresh();
    this.#drawHead();
    return STATE_MS;
  }

  async #askCharts(): Promise<number> {
    const answer = await this.#charts.load(this.#serverMs);
    if (this.#closed) return 0;
    if (answer.kind !== 'ok') return this.#failed('charts', answer);
    this.#answered('charts');
    if (this.#charts.present) {
      this.#tiles.setTotal(answer.value.total);
      this.#qualities.setTotal(answer.value.total);
      this.#errors.setTotal(answer.value.total);
    }
    return this.#charts.freshMs;
  }

  async #askIngest(): Promise<number> {
    const answer = await fetchIngest(this.#asker);
    if (this.#closed) return 0;
    if (answer.kind !== 'ok') return this.#failed('ingest', answer);
    this.#answered('ingest');
    this.#ingest.set(answer.value, this.#serverMs);
    const { state } = answer.value;
    return state === 'live' || state === 'starting' ? INGEST_MS.live : state === 'away' ? INGEST_MS.away : INGEST_MS.off;
  }

  async #askChat(): Promise<number> {
    const answer = await fetchMessages(this.#asker, MESSAGES);
    if (this.#closed) return 0;
    if (answer.kind === 'ok') {
      const times = answer.value.map(eventMs).filter((at) => at !== null);
      this.#tiles.setChat(chatRate(times, answer.value.length < MESSAGES, this.#serverMs));
    } else if (answer.kind !== 'unreachable') {
      this.#tiles.setChat(null);
    }
    return CHAT_MS;
  }

  get #serverMs(): number {
    return Date.now() + this.#offsetMs;
  }

  #hear(broadcasts: Broadcast[]): void {
    for (const { id, title } of broadcasts) this.#titles.set(id, title);
    this.#drawHead();
  }

  #drawHead(): void {
    const stream = this.#stream;
    if (stream === null) return;
    const badge = byId('badge', HTMLElement);
    badge.dataset['state'] = stream.state === 'starting' ? 'live' : stream.state;
    setText(badge, BADGES[stream.state]);
    const on = stream.state !== 'offline' && stream.started !== null;
    const lasted = on ? since(Date.parse(stream.started ?? ''), this.#serverMs) : '';
    setText(byId('uptime', HTMLElement), lasted === '' ? 'The numbers begin when you go live.' : lasted === 'just now' ? 'went live just now' : `live for ${lasted}`);
    setText(byId('title', HTMLElement), on ? (this.#titles.get(stream.broadcast ?? '') ?? '') : '');
  }

  #answered(source: Source): void {
    this.#tries[source] = 0;
    this.#heardMs = Date.now();
    if (this.#failing.delete(source)) this.#drawStatus();
  }

  /** Gives the wait until it is tried again. */
  #failed(source: Source, failure: Failure): number {
    if (this.#closed) return 0;
    if (failure.kind === 'refused') {
      this.#refused(failure);
      return 0;
    }
    this.#tries[source] += 1;
    this.#failing.set(source, failure.words);
    this.#drawStatus();
    return backoffMs(RETRY, this.#tries[source], Math.random());
  }

  #refused({ words }: Failure): void {
    if (this.#closed) return;
    this.close();
    this.#ask(`The key is not good any more. ${words}`);
  }

  /** What is shown stays, and says of when it is. */
  #drawStatus(): void {
    const away = this.#failing.has('now') || this.#failing.size > 1;
    this.#shelf.dataset['stale'] = away ? 'yes' : 'no';
    const [words = ''] = this.#failing.values();
    const of = this.#heardMs === null ? '' : ` The numbers are those of ${clock(this.#heardMs, 'seconds')}.`;
    const parts: Record<Source, string> = { now: '', charts: 'The charts cannot be brought up to date', ingest: 'What comes from the encoder cannot be told', state: 'Whether it is live cannot be told' };
    const [source] = this.#failing.keys();
    setText(this.#status, source === undefined ? '' : away ? `The server does not answer. Trying again until it does.${of}` : `${parts[source]}: ${words}`);
  }
}
