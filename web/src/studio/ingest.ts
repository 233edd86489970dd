/** How what the encoder sends arrives, and what to change in it. */
import { make, setText } from '../shared/dom';
import { bitrate, since } from '../shared/format';
import type { Ingest } from './api';
import { Chart } from './chart';
import { columns } from './columns';
import { UNKNOWN, codec, number, time } from './words';

const HISTORY_MS = 120_000;
const HISTORY_STEP_S = 2;

export class IngestPanel {
  readonly element: HTMLElement;
  #health = make('span', '');
  #rows = new Map<string, HTMLElement>();
  #warnings = make('ul', 'warnings');
  #drawn = '';
  #chart = new Chart({
    title: 'Bitrate of the last 2 minutes',
    lines: [
      { label: 'Bitrate', color: '--c1', format: bitrate, fill: true },
      { label: 'Frames', color: '--c2', format: (fps) => `${Math.round(fps)} fps`, apart: true },
    ],
    axis: () => '',
    least: 100,
    empty: 'Nothing is sent.',
    seconds: true,
    small: true,
  });

  constructor() {
    const row = (label: string): HTMLElement => {
      const value = make('dd', '', UNKNOWN);
      this.#rows.set(label, value);
      return make('div', '', make('dt', '', label), value);
    };
    const names = ['Bitrate', 'Frame rate', 'Keyframes', 'Picture', 'Codecs', 'Dropped frames', 'Late by', 'Node', 'Connected'];
    this.element = make(
      'section',
      'panel ingest',
      make('h2', '', 'From the encoder'),
      make('p', 'health', make('span', 'dot'), this.#health),
      this.#warnings,
      make('dl', 'readings', ...names.map(row)),
      this.#chart.element,
    );
    this.element.setAttribute('aria-label', 'From the encoder');
    this.element.dataset['health'] = 'none';
    setText(this.#health, '…');
  }

  set(ingest: Ingest, nowMs: number): void {
    const health = healthOf(ingest);
    this.element.dataset['health'] = health.level;
    setText(this.#health, health.words);
    this.#drawWarnings(ingest);
    const { kbps, audioKbps, fps, keyframeS, width, height, video, audio, dropped, behindMs, gateway, since: begun } = ingest;
    const put = (label: string, value: string | null): void => setText(this.#rows.get(label) as HTMLElement, value ?? UNKNOWN);
    put('Bitrate', kbps === null ? null : `${bitrate(kbps)}${audioKbps === null ? '' : `, sound ${bitrate(audioKbps)}`}`);
    put('Frame rate', fps === null ? null : `${Math.round(fps * 100) / 100} fps`);
    put('Keyframes', keyframeS === null ? null : `every ${Math.round(keyframeS * 100) / 100} s`);
    put('Picture', width === null || height === null ? null : `${width} × ${height}`);
    const codecs = [codec(video), codec(audio)].filter((name) => name !== null);
    put('Codecs', codecs.length === 0 ? null : codecs.join(', '));
    put('Dropped frames', number(dropped));
    put('Late by', behindMs === null ? null : time(behindMs));
    put('Node', gateway);
    const begunMs = begun === null ? Number.NaN : Date.parse(begun);
    put('Connected', Number.isNaN(begunMs) || kbps === null ? null : since(begunMs, nowMs));
    const to = ingest.history.at(-1)?.atMs ?? nowMs;
    this.#chart.set(columns(ingest.history, HISTORY_STEP_S, [({ kbps }) => kbps, ({ fps }) => fps]), to - HISTORY_MS, to);
  }

  #drawWarnings({ warnings }: Ingest): void {
    const drawn = JSON.stringify(warnings);
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    this.#warnings.replaceChildren(
      ...warnings.map(({ text, fix }) => {
        const item = make('li', 'warning', make('p', '', text));
        if (fix !== '') item.append(make('p', 'warning-fix', fix));
        return item;
      }),
    );
  }
}

/** Sums it up. Pure. */
export function healthOf({ state, kbps, warnings }: Pick<Ingest, 'state' | 'kbps' | 'warnings'>): { level: 'good' | 'fair' | 'poor' | 'none'; words: string } {
  if (state === 'away') return { level: 'poor', words: 'The encoder is away' };
  if (state !== 'live' && state !== 'starting') return { level: 'none', words: 'Nothing is sent' };
  if (kbps === 0) return { level: 'poor', words: 'Connected, but nothing comes' };
  if (warnings.length > 0) return { level: 'fair', words: warnings.length === 1 ? 'One thing to change' : `${warnings.length} things to change` };
  return { level: 'good', words: 'All is well' };
}
