/** The list of a stream's past broadcasts, newest first, page by page. Quiet while there are none. */
import type { Failure } from '../shared/api';
import { byId, make, setText } from '../shared/dom';
import { clock, dateAndTime } from '../shared/format';
import { pictureUrl } from '../shared/picture';
import { fetchBroadcasts, lengthOf, titleOf, type Broadcast } from '../shared/recordings';

const PAGE = 20;

export interface Parts {
  stream: string;
  ticket(): string | null;
  /** The broadcast on screen, which the list leaves out; null when there is none. */
  shown(): string | null;
  /** What was heard of broadcasts, for whoever needs it. */
  onHeard(broadcasts: Broadcast[]): void;
}

export class Past {
  #parts: Parts;
  #section = byId('past', HTMLElement);
  #list = byId('past-list', HTMLElement);
  #said = byId('past-said', HTMLElement);
  #more = byId('past-more', HTMLButtonElement);
  #rows = new Map<string, { item: HTMLElement; drawn: string }>();
  #heard: Broadcast[] = [];
  #next: string | null = null;
  #asking = false;
  #failed = false;

  constructor(parts: Parts) {
    this.#parts = parts;
    this.#more.addEventListener('click', () => void this.#ask(this.#heard.length === 0 ? null : this.#next, true));
  }

  /** Asks for the newest again; what was listed stays. */
  refresh(): void {
    void this.#ask(null, false);
  }

  /** Takes over what was changed elsewhere. */
  update(broadcast: Broadcast): void {
    this.#heard = this.#heard.map((one) => (one.id === broadcast.id ? broadcast : one));
    this.draw();
  }

  /** Whether something in the list has ended and is not yet told as the recording that it becomes. */
  get unsettled(): boolean {
    const shown = this.#parts.shown();
    return this.#heard.some(({ id, state, duration }) => id !== shown && (state !== 'ended' || duration === null));
  }

  draw(): void {
    const shown = this.#parts.shown();
    const listed = this.#heard.filter(({ id }) => id !== shown);
    const ids = new Set(listed.map(({ id }) => id));
    for (const [id, { item }] of this.#rows) {
      if (ids.has(id)) continue;
      item.remove();
      this.#rows.delete(id);
    }
    listed.forEach((broadcast, i) => {
      const drawn = JSON.stringify(broadcast);
      const row = this.#rows.get(broadcast.id);
      if (row?.drawn === drawn && this.#list.children[i] === row.item) return;
      const item = row?.drawn === drawn ? row.item : this.#row(broadcast);
      if (row !== undefined && row.item !== item) row.item.remove();
      this.#rows.set(broadcast.id, { item, drawn });
      this.#list.insertBefore(item, this.#list.children[i] ?? null);
    });
    this.#section.hidden = listed.length === 0 && !this.#failed;
    this.#more.hidden = this.#next === null && !this.#failed;
    setText(this.#more, this.#failed ? 'Try again' : 'More');
  }

  async #ask(before: string | null, asked: boolean): Promise<void> {
    if (this.#asking) return;
    this.#asking = true;
    const answer = await fetchBroadcasts(this.#parts.stream, before, PAGE, this.#parts.ticket());
    this.#asking = false;
    if (answer.kind !== 'ok') return this.#fail(answer);
    this.#failed = false;
    setText(this.#said, '');
    const { items, next } = answer.value;
    this.#take(items, next, before);
    this.#parts.onHeard(items);
    this.draw();
    if (!asked || items.length === 0) return;
    this.#rows.get(items[0]?.id ?? '')?.item.querySelector('a')?.focus({ preventScroll: true });
    setText(this.#said, this.#next === null ? 'That is all.' : '');
  }

  /** Puts a page to what was heard before. */
  #take(items: Broadcast[], next: string | null, before: string | null): void {
    const ids = new Set(items.map(({ id }) => id));
    const last = this.#heard.reduce((at, { id }, i) => (ids.has(id) ? i : at), -1);
    if (before !== null) {
      this.#heard = [...this.#heard.filter(({ id }) => !ids.has(id)), ...items];
    } else if (last >= 0) {
      // What is older than the newest page stays as it was listed, and so does its end.
      this.#heard = [...items, ...this.#heard.slice(last + 1)];
      return;
    } else {
      this.#heard = items;
    }
    this.#next = next;
  }

  #fail(failure: Failure): void {
    // Who may not watch is told so over the picture, and a server without recordings has no list.
    if (failure.kind !== 'unreachable' && failure.kind !== 'wrong') return;
    this.#failed = true;
    setText(this.#said, this.#heard.length === 0 ? 'Past broadcasts cannot be listed now.' : 'More cannot be listed now.');
    this.draw();
  }

  #row(broadcast: Broadcast): HTMLElement {
    const picture = make('div', 'row-picture');
    if (broadcast.poster !== null) void this.#show(picture, broadcast.poster);
    const live = broadcast.state !== 'ended';
    const length = lengthOf(broadcast);
    if (live) picture.append(make('span', 'row-length row-live', 'Live'));
    else if (length !== null) picture.append(make('span', 'row-length', clock(length)));
    const line = broadcast.title === '' ? [] : [dateAndTime(broadcast.started, 'medium')];
    const missing = broadcast.gaps?.seconds ?? 0;
    if (live) line.push(broadcast.state === 'away' ? 'the streamer is away' : 'live now');
    if (missing >= 1) line.push(`${clock(missing)} missing`);
    const body = make('div', 'row-body', make('span', 'row-title', titleOf(broadcast)), make('span', 'row-line', line.join(' · ')));
    const link = make('a', 'row', picture, body);
    link.href = live ? `/watch/${encodeURIComponent(broadcast.stream)}` : broadcast.watch;
    return make('li', '', link);
  }

  async #show(picture: HTMLElement, poster: string): Promise<void> {
    const url = await pictureUrl(poster, this.#parts.ticket());
    if (url === null) return;
    const image = make('img', '');
    Object.assign(image, { alt: '', width: 320, height: 180, loading: 'lazy', decoding: 'async', src: url });
    // Without it there is the drawn ground.
    image.addEventListener('error', () => image.remove());
    picture.prepend(image);
  }
}
