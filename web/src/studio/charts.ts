/** The charts of who watched and how it went, over a range of time that is chosen here. */
import type { Answer } from '../shared/api';
import { make, setText } from '../shared/dom';
import { bitrate, count } from '../shared/format';
import { fetchAudience, fetchBroadcastAudience, type Asker, type Audience, type Mark, type Now, type Point } from './api';
import { Chart, type Line } from './chart';
import { bestFirst, columns, goOn, haltedPercent, type Columns } from './columns';
import { clock, mean, percent, time } from './words';

/** What is shown: so many minutes until now, the broadcast that goes on, or one that is over. */
export type View = { minutes: number } | { whole: true } | { past: string; title: string };

const RANGES: { label: string; view: View }[] = [
  { label: '30 min', view: { minutes: 30 } },
  { label: '3 h', view: { minutes: 180 } },
  { label: '24 h', view: { minutes: 1_440 } },
  { label: 'Whole', view: { whole: true } },
];
/** No chart is wide enough for more. */
const POINTS = 300;
const COLORS = ['--c1', '--c2', '--c3', '--c4', '--c5', '--c6'];
const EMPTY = 'Nobody watched in this time.';

const seconds = (ms: number): string => `${ms / 1000} s`;
const viewersLine: Line = { label: 'Watching', color: '--c1', format: (n) => `${mean(n)} watching`, fill: true };

export class Charts {
  readonly element: HTMLElement;
  #asker: Asker;
  #changed: () => void;
  #view: View = RANGES[0]?.view as View;
  #audience: Audience | null = null;
  #live: string | null = null;
  #now: Now | null = null;
  #extra: Mark[] = [];
  #toMs = 0;
  #turn = 0;
  #buttons: HTMLButtonElement[];
  #shown = make('p', 'shown');
  #shownText = make('span', '');
  #markList = make('ul', 'marks');
  #viewers = new Chart({ title: 'Viewers', lines: [viewersLine], axis: count, whole: true, least: 5, empty: EMPTY, sync: 'studio' });
  #qualities = new Chart({ title: 'Qualities', lines: [], stacked: true, axis: count, whole: true, least: 5, empty: EMPTY, sync: 'studio' });
  #halted = new Chart({
    title: 'Halted, of the time watched', lines: [{ label: 'Halted', color: '--c5', format: (n) => percent(n / 100), fill: true }], axis: (n) => `${n} %`, least: 1, empty: EMPTY, sync: 'studio',
  });
  #times = new Chart({
    title: 'Start-up and latency',
    lines: [{ label: 'Start-up', color: '--c3', format: time }, { label: 'Latency', color: '--c2', format: time }],
    axis: seconds, least: 1_000, empty: EMPTY, sync: 'studio',
  });
  #bitrate = new Chart({ title: 'Bitrate played, Mb/s', lines: [{ label: 'Bitrate', color: '--c4', format: bitrate, fill: true }], axis: (n) => String(n / 1000), least: 1_000, empty: EMPTY, sync: 'studio' });

  /** `changed`: another range was chosen, and is to be loaded. */
  constructor(asker: Asker, changed: () => void) {
    this.#asker = asker;
    this.#changed = changed;
    this.#buttons = RANGES.map(({ label, view }) => {
      const button = make('button', 'range', label);
      button.type = 'button';
      if ('whole' in view) button.setAttribute('aria-label', 'Whole broadcast');
      button.addEventListener('click', () => this.show(view));
      return button;
    });
    const group = make('div', 'ranges', ...this.#buttons);
    group.setAttribute('role', 'group');
    group.setAttribute('aria-label', 'Time shown');
    const back = make('button', 'button quiet', 'Back to now');
    back.type = 'button';
    back.addEventListener('click', () => this.show(RANGES[0]?.view as View));
    this.#shown.append(this.#shownText, back);
    const charts = [this.#halted, this.#times, this.#bitrate].map(({ element }) => element);
    this.element = make(
      'section', 'charts',
      make('div', 'charts-head', make('h2', '', 'Over time'), group),
      this.#shown,
      make('div', 'panel', this.#viewers.element, this.#markList),
      make('div', 'panel', this.#qualities.element),
      make('div', 'charts-row', ...charts.map((chart) => make('div', 'panel', chart))),
    );
    this.element.setAttribute('aria-label', 'Over time');
    this.#press();
  }

  /** How long what is shown stays true, milliseconds; nothing changes in what is over. */
  get freshMs(): number {
    const view = this.#view;
    if ('past' in view) return 600_000;
    return 'whole' in view ? 30_000 : view.minutes <= 30 ? 10_000 : view.minutes <= 180 ? 20_000 : 60_000;
  }

  show(view: View): void {
    this.#view = view;
    this.#turn += 1;
    this.element.setAttribute('aria-busy', 'true');
    this.#press();
    this.#changed();
    if ('past' in view) this.element.scrollIntoView({ block: 'start', behavior: matchMedia('(prefers-reduced-motion: reduce)').matches ? 'auto' : 'smooth' });
  }

  /** The broadcast that goes on; null when there is none. */
  setLive(broadcast: string | null): void {
    if (broadcast === this.#live) return;
    this.#live = broadcast;
    this.#press();
    if ('whole' in this.#view) this.show(broadcast === null ? (RANGES[0]?.view as View) : this.#view);
  }

  setNow(now: Now): void {
    this.#now = now;
    if (!('past' in this.#view) && this.#audience !== null) this.#drawViewers();
  }

  /** A mark that was just made. */
  addMark(mark: Mark): void {
    this.#extra.push(mark);
    this.#draw();
  }

  /** Loads what is to be shown; what it gives is also of another use where it is of the present. */
  async load(serverMs: number): Promise<Answer<Audience>> {
    const [view, turn] = [this.#view, this.#turn];
    const { key } = this.#asker;
    const id = 'past' in view ? view.past : 'whole' in view ? this.#live : null;
    const minutes = 'minutes' in view ? view.minutes : 30;
    const answer = id === null ? await fetchAudience(this.#asker, serverMs - minutes * 60_000, serverMs, Math.min(POINTS, minutes)) : await fetchBroadcastAudience(id, key);
    if (turn !== this.#turn || answer.kind !== 'ok') return answer;
    this.#audience = answer.value;
    this.#toMs = serverMs;
    // The server has told of them itself by now.
    this.#extra = this.#extra.filter(({ atMs, label }) => !answer.value.marks.some((mark) => mark.label === label && Math.abs(mark.atMs - atMs) < 10_000));
    this.element.setAttribute('aria-busy', 'false');
    this.#draw();
    return answer;
  }

  /** Whether what is shown is of the present. */
  get present(): boolean {
    return !('past' in this.#view);
  }

  #press(): void {
    RANGES.forEach(({ view }, i) => {
      const button = this.#buttons[i];
      if (button === undefined) return;
      button.setAttribute('aria-pressed', String(JSON.stringify(view) === JSON.stringify(this.#view)));
      button.disabled = 'whole' in view && this.#live === null;
    });
    this.#shown.hidden = this.present;
    if ('past' in this.#view) setText(this.#shownText, `Shown: ${this.#view.title}`);
  }

  /** The moments at which the charts begin and end. */
  #bounds({ series, stepS }: Audience): [number, number] {
    const [first, last] = [series[0], series.at(-1)];
    const toMs = this.present ? Math.max(this.#toMs, this.#now?.atMs ?? 0) : (last?.atMs ?? this.#toMs) + stepS * 1000;
    if ('minutes' in this.#view) return [toMs - this.#view.minutes * 60_000, toMs];
    return [Math.min(first?.atMs ?? toMs, toMs - 10 * 60_000), toMs];
  }

  #marks({ marks }: Audience): Mark[] {
    return this.present ? [...marks, ...this.#extra] : marks;
  }

  #columns(audience: Audience, picks: ((point: Point) => number | null)[]): Columns {
    return columns(audience.series, audience.stepS, picks);
  }

  #drawViewers(): void {
    const audience = this.#audience;
    if (audience === null) return;
    const past = this.#columns(audience, [({ viewers }) => viewers]);
    const now = this.present && this.#live !== null ? this.#now : null;
    const data = now === null ? past : goOn(past, now.atMs, audience.stepS, [now.viewers]);
    this.#viewers.set(data, ...this.#bounds(audience), this.#marks(audience));
  }

  #draw(): void {
    const audience = this.#audience;
    if (audience === null) return;
    this.#drawViewers();
    const [fromMs, toMs] = this.#bounds(audience);
    const marks = this.#marks(audience);
    const names = bestFirst(audience.series.flatMap(({ renditions }) => Object.keys(renditions)));
    const lines = names.map((name, i): Line => ({ label: name, color: COLORS[i % COLORS.length] as string, format: mean }));
    const shares = this.#columns(audience, names.map((name) => ({ renditions }) => renditions[name] ?? null));
    this.#qualities.set(shares, fromMs, toMs, marks, lines);
    this.#halted.set(this.#columns(audience, [haltedPercent]), fromMs, toMs, marks);
    this.#times.set(this.#columns(audience, [({ startupMs }) => startupMs, ({ latencyMs }) => latencyMs]), fromMs, toMs, marks);
    this.#bitrate.set(this.#columns(audience, [({ kbps }) => kbps]), fromMs, toMs, marks);
    this.#markList.hidden = marks.length === 0;
    const drawn = marks.map(({ atMs, label }) => `${clock(atMs)} ${label}`);
    if (this.#markList.dataset['drawn'] === drawn.join('\n')) return;
    this.#markList.dataset['drawn'] = drawn.join('\n');
    this.#markList.replaceChildren(...drawn.map((text) => make('li', '', text)));
  }
}
