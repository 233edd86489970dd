/**
 * One chart: a title, what the cursor points at in words, and lines over time with marks. Drawn by uPlot; read by mouse, by touch, by the arrow keys,
 * and, summed up, by screen readers. It keeps its height whatever it shows.
 */
import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';
import { make, setText } from '../shared/dom';
import type { Mark } from './api';
import { stacked as pile, type Columns } from './columns';
import { clock } from './words';

export interface Line {
  label: string;
  /** A custom property that holds its colour. */
  color: string;
  format(value: number): string;
  fill?: boolean;
  /** On a scale of its own, without an axis. */
  apart?: boolean;
}

export interface Options {
  title: string;
  lines: Line[];
  /** Lines on top of each other, the first one highest. */
  stacked?: boolean;
  /** How the values on the axis are written. */
  axis(value: number): string;
  /** Only whole numbers on the axis. */
  whole?: boolean;
  /** The least that the axis reaches up to. */
  least: number;
  /** Said where there is nothing to draw. */
  empty: string;
  /** Charts with one name move their cursors together. */
  sync?: string;
  /** Whether seconds matter. */
  seconds?: boolean;
  /** What it shows is too small for an axis. */
  small?: boolean;
}

export class Chart {
  readonly element: HTMLElement;
  #options: Options;
  #plot: uPlot | null = null;
  #host = make('div', 'plot');
  #readout = make('p', 'readout');
  #legend = make('ul', 'legend');
  #empty = make('p', 'plot-empty muted');
  #data: Columns = { times: [], lines: [] };
  #marks: readonly Mark[] = [];
  #fromMs = 0;
  #toMs = 1;

  constructor(options: Options) {
    this.#options = options;
    const title = make('h3', 'chart-title', options.title);
    this.#host.tabIndex = 0;
    this.#host.setAttribute('role', 'img');
    this.#host.append(this.#empty);
    this.element = make('figure', options.small === true ? 'chart chart-small' : 'chart', make('figcaption', 'chart-head', title, this.#legend), this.#readout, this.#host);
    this.#host.addEventListener('keydown', (event) => this.#handleKey(event));
    this.#host.addEventListener('blur', () => this.#point(null));
    new ResizeObserver(() => this.#fit()).observe(this.#host);
    // The picture is drawn in the page's colours.
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.#build());
    if (options.stacked === true) this.#readout.classList.add('readout-long');
    this.#drawLegend();
    this.#say();
  }

  /** Shows these numbers between two moments; other lines than before are drawn anew. */
  set(data: Columns, fromMs: number, toMs: number, marks: readonly Mark[] = [], lines: Line[] = this.#options.lines): void {
    const same = lines.length === this.#options.lines.length && lines.every(({ label }, i) => label === this.#options.lines[i]?.label);
    this.#options = { ...this.#options, lines };
    this.#data = data;
    this.#marks = marks;
    this.#fromMs = fromMs;
    this.#toMs = Math.max(toMs, fromMs + 1_000);
    if (this.#plot === null || !same) return this.#build();
    this.#fill(this.#plot);
  }

  #fill(plot: uPlot): void {
    const { left = -1 } = plot.cursor;
    plot.batch(() => {
      plot.setData(this.#aligned(), false);
      plot.setScale('x', { min: this.#fromMs / 1000, max: this.#toMs / 1000 });
      if (left >= 0) plot.setCursor({ left, top: 0 });
    });
    this.#say();
  }

  #aligned(): uPlot.AlignedData {
    const { times, lines } = this.#options.stacked === true ? pile(this.#data) : this.#data;
    return [times, ...lines];
  }

  #build(): void {
    this.#drawLegend();
    const { clientWidth: width, clientHeight: height } = this.#host;
    this.#plot?.destroy();
    this.#plot = null;
    // Not on the page yet: once it has a size.
    if (width === 0 || height === 0) return this.#say();
    const { lines, axis, whole, least, stacked, sync, small } = this.#options;
    const styles = getComputedStyle(document.documentElement);
    const color = (name: string): string => styles.getPropertyValue(name).trim();
    const [muted, grid] = [color('--muted'), color('--line')];
    const font = `12px ${color('--sans') || 'sans-serif'}`;
    const upTo: uPlot.Range.Function = (_plot, _min, max) => [0, Math.max(least, (Number.isFinite(max) ? max : 0) * 1.08)];
    const line: Partial<uPlot.Axis> = { stroke: muted, font, ticks: { show: false }, grid: { stroke: grid, width: 1 } };
    const plot = new uPlot(
      {
        width,
        height,
        padding: small === true ? [4, 0, 0, 0] : [10, null, 0, null],
        legend: { show: false },
        cursor: {
          drag: { x: false, y: false, setScale: false },
          y: false,
          points: { size: 8 },
          ...(sync === undefined ? {} : { sync: { key: sync, setSeries: false } }),
        },
        scales: { x: { time: true, range: () => [this.#fromMs / 1000, this.#toMs / 1000] }, y: { range: upTo }, apart: { range: upTo } },
        axes: [
          { ...line, show: small !== true, size: 28, space: 64, grid: { show: false }, values: (_plot, splits, _axis, _space, step) => splits.map((at) => this.#timeOnAxis(at, step)) },
          {
            ...line, show: small !== true, size: 52, space: 34, values: (_plot, splits) => splits.map(axis),
            ...(whole === true ? { incrs: [1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1e3, 2e3, 2.5e3, 5e3, 1e4, 2e4, 2.5e4, 5e4, 1e5, 2e5, 5e5, 1e6, 2e6, 5e6, 1e7] } : {}),
          },
        ],
        series: [
          {},
          ...lines.map(({ label, color: name, fill, apart }): uPlot.Series => ({
            label,
            scale: apart === true ? 'apart' : 'y',
            stroke: color(name),
            width: stacked === true ? 1 : 2,
            ...(apart === true ? { dash: [4, 4], width: 1.5 } : {}),
            ...(stacked === true ? { fill: `${color(name)}b8` } : fill === true ? { fill: `${color(name)}2e` } : {}),
            spanGaps: false,
            points: { show: false },
          })),
        ],
        ...(stacked === true ? { bands: lines.slice(1).map((_line, i): uPlot.Band => ({ series: [i + 1, i + 2] })) } : {}),
        hooks: {
          setCursor: [() => this.#say()],
          draw: [(drawn) => this.#drawMarks(drawn, color('--away'), font)],
        },
      },
      this.#aligned(),
      this.#host,
    );
    plot.root.setAttribute('aria-hidden', 'true');
    this.#plot = plot;
    this.#say();
  }

  #fit(): void {
    const { clientWidth: width, clientHeight: height } = this.#host;
    if (width === 0 || height === 0) return;
    if (this.#plot === null) this.#build();
    else if (this.#plot.width !== width || this.#plot.height !== height) this.#plot.setSize({ width, height });
  }

  #timeOnAxis(at: number, step: number): string {
    if (step < 60) return clock(at * 1000, 'seconds');
    const date = new Date(at * 1000);
    const newDay = date.getHours() === 0 && date.getMinutes() === 0;
    return newDay || step >= 86_400 ? new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'short' }).format(date) : clock(at * 1000);
  }

  /** Marks are lines over the chart; a label that would lie on another one, or on another's line, is left out. */
  #drawMarks(plot: uPlot, color: string, font: string): void {
    const { ctx, bbox } = plot;
    const scale = devicePixelRatio;
    const right = bbox.left + bbox.width;
    const places = this.#marks.map(({ atMs, label }) => ({ x: plot.valToPos(atMs / 1000, 'x', true), label })).filter(({ x }) => x >= bbox.left && x <= right);
    let free = bbox.left;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = color;
    ctx.lineWidth = 1.5 * scale;
    ctx.font = font.replace('12px', `${11 * scale}px`);
    ctx.textBaseline = 'top';
    ctx.textAlign = 'left';
    places.forEach(({ x, label }, i) => {
      ctx.setLineDash([3 * scale, 3 * scale]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      const short = label.length > 18 ? `${label.slice(0, 17)}…` : label;
      const { width } = ctx.measureText(short);
      const gap = 4 * scale;
      const left = x + gap + width <= right ? x + gap : x - gap - width;
      const fits = left >= free && left + width <= Math.max(x, places[i + 1]?.x ?? right);
      if (fits) ctx.fillText(short, left, bbox.top);
      free = Math.max(x, fits ? left + width : x) + gap;
    });
    ctx.restore();
  }

  #drawLegend(): void {
    const { lines } = this.#options;
    this.#legend.hidden = lines.length < 2;
    this.#legend.replaceChildren(
      ...lines.map(({ label, color }) => {
        const swatch = make('span', 'swatch');
        swatch.dataset['color'] = color.replace('--', '');
        return make('li', '', swatch, label);
      }),
    );
  }

  /** Says in words what the cursor points at, or the newest there is. */
  #say(): void {
    const { times, lines } = this.#data;
    const { lines: about, title, empty, seconds } = this.#options;
    const any = lines.some((line) => line.some((value) => value !== null));
    setText(this.#empty, any ? '' : empty);
    this.#host.dataset['empty'] = any ? 'no' : 'yes';
    const pointed = this.#plot?.cursor.idx ?? null;
    const last = times.reduce((newest, _at, i) => (lines.some((line) => line[i] != null) ? i : newest), -1);
    const i = pointed ?? last;
    const at = times[i];
    const values = about.flatMap(({ label, format }, n) => {
      const value = lines[n]?.[i];
      return value == null ? [] : [about.length === 1 ? format(value) : `${label} ${format(value)}`];
    });
    const long = this.#toMs - this.#fromMs > 86_400_000;
    const when = at === undefined ? '' : clock(at * 1000, seconds === true ? 'seconds' : long ? 'day' : '');
    setText(this.#readout, at === undefined || i < 0 ? '' : `${when}: ${values.length === 0 ? 'nothing is known' : values.join(' · ')}`);
    if (pointed === null) this.#host.setAttribute('aria-label', !any ? `${title}. ${empty}` : `${title}. ${this.#summary()} The arrow keys read it out.`);
  }

  #summary(): string {
    const { times, lines } = this.#data;
    return this.#options.lines
      .map(({ label, format }, n) => {
        const line = lines[n] ?? [];
        const most = line.reduce<number>((best, value, i) => (value !== null && value > (line[best] ?? Number.NEGATIVE_INFINITY) ? i : best), -1);
        const value = line[most];
        return value == null ? '' : `${label}: at most ${format(value)}, at ${clock((times[most] ?? 0) * 1000)}.`;
      })
      .join(' ');
  }

  #handleKey(event: KeyboardEvent): void {
    const { times } = this.#data;
    const now = this.#plot?.cursor.idx ?? null;
    const to = { ArrowLeft: (now ?? times.length) - 1, ArrowRight: (now ?? -1) + 1, Home: 0, End: times.length - 1 }[event.key];
    if (event.key === 'Escape') this.#point(null);
    if (to === undefined || times.length === 0) return;
    event.preventDefault();
    this.#readout.setAttribute('aria-live', 'polite');
    this.#point(Math.min(times.length - 1, Math.max(0, to)));
  }

  #point(index: number | null): void {
    const at = index === null ? undefined : this.#data.times[index];
    if (at === undefined) this.#readout.removeAttribute('aria-live');
    this.#plot?.setCursor(at === undefined ? { left: -10, top: -10 } : { left: this.#plot.valToPos(at, 'x'), top: 0 });
  }
}
