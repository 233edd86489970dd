/** Who watches which quality, and what went wrong in players. */
import { make, setText } from '../shared/dom';
import type { Now, Total } from './api';
import { bestFirst } from './columns';
import { UNKNOWN, number, percent } from './words';

/** More kinds of errors are of no use to a streamer. */
const ERRORS = 10;

export class Qualities {
  readonly element: HTMLElement;
  #body = make('tbody', '');
  #said = make('p', 'muted', 'Nobody has watched yet.');
  #table: HTMLElement;
  #now: Now | null = null;
  #total: Total | null = null;
  #drawn = '';

  constructor() {
    const head = ['Quality', 'Now', 'Of all time watched'].map((text, i) => {
      const cell = make('th', i === 0 ? '' : 'figure', text);
      cell.scope = 'col';
      return cell;
    });
    this.#table = make('table', 'table', make('thead', '', make('tr', '', ...head)), this.#body);
    this.element = make('section', 'panel', make('h2', '', 'Qualities'), this.#said, this.#table);
    this.#draw();
  }

  setNow(now: Now): void {
    this.#now = now;
    this.#draw();
  }

  setTotal(total: Total | null): void {
    this.#total = total;
    this.#draw();
  }

  #draw(): void {
    const viewers = new Map(this.#now?.renditions.map(({ name, viewers }) => [name, viewers]));
    const minutes = new Map(this.#total?.renditions.map(({ name, minutes }) => [name, minutes]));
    const sum = [...minutes.values()].reduce((all, one) => all + one, 0);
    const rows = bestFirst([...viewers.keys(), ...minutes.keys()]).map((name) => ({ name, now: viewers.get(name) ?? 0, share: sum > 0 ? (minutes.get(name) ?? 0) / sum : null }));
    const drawn = JSON.stringify(rows);
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    this.#said.hidden = rows.length > 0;
    this.#table.hidden = rows.length === 0;
    this.#body.replaceChildren(
      ...rows.map(({ name, now, share }) => {
        const title = make('th', '', name);
        title.scope = 'row';
        const bar = make('span', 'bar');
        bar.style.setProperty('--share', String(share ?? 0));
        return make('tr', '', title, make('td', 'figure', number(now)), make('td', 'figure', make('span', '', share === null ? UNKNOWN : percent(share)), bar));
      }),
    );
  }
}

export class Errors {
  readonly element: HTMLElement;
  #list = make('dl', 'readings');
  #said = make('p', 'muted');
  #drawn = '';

  constructor() {
    this.element = make('section', 'panel', make('h2', '', 'Errors in players'), this.#said, this.#list);
    this.setTotal(null);
  }

  setTotal(total: Total | null): void {
    const errors = [...(total?.errors ?? [])].sort((a, b) => b.count - a.count).slice(0, ERRORS);
    setText(this.#said, errors.length > 0 ? '' : total === null ? 'Nobody has watched yet.' : 'None in this broadcast.');
    const drawn = JSON.stringify(errors);
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    this.#list.replaceChildren(...errors.map(({ code, count }) => make('div', '', make('dt', 'code', code), make('dd', '', number(count)))));
  }
}
