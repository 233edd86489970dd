/** The stream's past broadcasts, newest first, each with what was watched of it and that as a file. */
import type { Failure } from '../shared/api';
import { make, setText } from '../shared/dom';
import { clock, dateAndTime } from '../shared/format';
import { fetchBroadcasts, lengthOf, titleOf, type Broadcast } from '../shared/recordings';
import { broadcastPath, fetchBroadcastAudience, save, type Asker, type Total } from './api';
import { fileName, mean, number, percent, time, watched } from './words';

const PAGE = 10;

export interface Parts {
  asker: Asker;
  /** Shows its charts. */
  show(broadcast: Broadcast): void;
  refused(failure: Failure): void;
  /** All broadcasts of the newest page, also one that goes on. */
  heard(broadcasts: Broadcast[]): void;
}

export class Past {
  readonly element: HTMLElement;
  #parts: Parts;
  #list = make('ul', 'shows');
  #said = make('p', 'said');
  #more = make('button', 'button quiet', 'More');
  #rows = new Map<string, { item: HTMLElement; drawn: string }>();
  #unsettled = false;
  #next: string | null = null;
  #asking = false;
  /** One after the other: each is a lot of work for the server. */
  #queue: Promise<void> = Promise.resolve();

  constructor(parts: Parts) {
    this.#parts = parts;
    this.#more.type = 'button';
    this.#more.hidden = true;
    this.#said.setAttribute('role', 'status');
    this.#more.addEventListener('click', () => void this.#ask(this.#rows.size === 0 ? null : this.#next, true));
    this.element = make('section', 'past-shows', make('h2', '', 'Past broadcasts'), this.#list, this.#said, this.#more);
    this.element.setAttribute('aria-label', 'Past broadcasts');
  }

  /** Whether one has ended that is not yet told as the recording that it becomes. */
  get unsettled(): boolean {
    return this.#unsettled;
  }

  /** Asks for the newest; those that are listed stay. */
  refresh(): void {
    void this.#ask(null, false);
  }

  async #ask(before: string | null, asked: boolean): Promise<void> {
    if (this.#asking) return;
    this.#asking = true;
    const { stream, key } = this.#parts.asker;
    const answer = await fetchBroadcasts(stream, before, PAGE, null, key);
    this.#asking = false;
    if (answer.kind === 'refused') return this.#parts.refused(answer);
    if (answer.kind !== 'ok') {
      setText(this.#said, `Past broadcasts cannot be listed: ${answer.words}`);
      setText(this.#more, 'Try again');
      this.#more.hidden = false;
      return;
    }
    const { items, next } = answer.value;
    if (before === null) {
      this.#unsettled = items.some(({ state, duration }) => state !== 'ended' || duration === null);
      this.#parts.heard(items);
    }
    const first = this.#rows.size === 0;
    const rows: HTMLElement[] = [];
    for (const broadcast of items) {
      const drawn = JSON.stringify(broadcast);
      const row = this.#rows.get(broadcast.id);
      if (broadcast.state !== 'ended' || row?.drawn === drawn) continue;
      const item = this.#row(broadcast);
      this.#rows.set(broadcast.id, { item, drawn });
      // It has another title or length than before.
      if (row === undefined) rows.push(item);
      else row.item.replaceWith(item);
    }
    if (before === null) this.#list.prepend(...rows);
    else this.#list.append(...rows);
    if (before !== null || first) this.#next = next;
    setText(this.#more, 'More');
    this.#more.hidden = this.#next === null;
    setText(this.#said, this.#rows.size === 0 ? 'There are none yet. What is live now is listed here when it has ended.' : '');
    if (asked) rows[0]?.querySelector('button')?.focus({ preventScroll: true });
  }

  #row(broadcast: Broadcast): HTMLElement {
    const { asker, show } = this.#parts;
    const called = titleOf(broadcast);
    const link = make('a', '', called);
    link.href = broadcast.watch;
    const length = lengthOf(broadcast);
    const facts = [...(broadcast.title === '' ? [] : [dateAndTime(broadcast.started, 'medium')]), ...(length === null ? [] : [clock(length)])];
    const numbers = make('dl', 'show-numbers');
    const status = make('p', 'said');
    status.setAttribute('role', 'status');
    const button = (text: string, name: string, act: () => void): HTMLButtonElement => {
      const made = make('button', 'button quiet', text);
      made.type = 'button';
      made.setAttribute('aria-label', `${name} of ${called}`);
      made.addEventListener('click', act);
      return made;
    };
    const file = (kind: 'csv' | 'json', made: () => HTMLButtonElement) => async (): Promise<void> => {
      made().disabled = true;
      setText(status, 'The file is being prepared.');
      const failure = await save(broadcastPath(broadcast.id, kind === 'csv' ? '.csv' : ''), asker.key, fileName(asker.stream, broadcast.started, kind));
      made().disabled = false;
      setText(status, failure === null ? '' : `It cannot be downloaded: ${failure.words}`);
    };
    const csv: HTMLButtonElement = button('CSV', 'Numbers as CSV', () => void file('csv', () => csv)());
    const json: HTMLButtonElement = button('JSON', 'Numbers as JSON', () => void file('json', () => json)());
    const charts = button('Charts', 'Charts', () => show(broadcast));
    const item = make(
      'li', 'show',
      make('div', 'show-head', make('h3', 'show-name', link), make('p', 'muted', facts.join(' · '))),
      numbers,
      make('div', 'show-acts', charts, csv, json),
      status,
    );
    drawNumbers(numbers, undefined);
    this.#queue = this.#queue.then(async () => {
      const answer = await fetchBroadcastAudience(broadcast.id, asker.key);
      if (answer.kind === 'ok') drawNumbers(numbers, answer.value.total);
      else if (answer.kind === 'missing' || answer.kind === 'gone') drawNumbers(numbers, null);
      else setText(status, `Its numbers cannot be read: ${answer.words}`);
    });
    return item;
  }
}

/** `undefined`: not heard of yet; null: nobody watched, or it was not counted. */
function drawNumbers(list: HTMLElement, total: Total | null | undefined): void {
  const { p50 = null, p95 = null } = total?.startupMs ?? {};
  const rows = [
    ['People', number(total?.uniques ?? null)],
    ['Peak', number(total?.peak ?? null)],
    ['Average', mean(total?.average ?? null)],
    ['Watched', watched(total?.minutes ?? null)],
    ['Halted', percent(total?.stallRatio ?? null)],
    ['First picture', total === undefined || p50 === null ? '–' : `${time(p50)} / ${time(p95)}`],
  ] as const;
  list.dataset['known'] = total === undefined ? 'no' : 'yes';
  list.replaceChildren(...rows.map(([label, value]) => make('div', '', make('dt', '', label), make('dd', '', total === undefined ? '…' : value))));
}
