/** The numbers at the top: of now, and of the broadcast so far. */
import { make, setText } from '../shared/dom';
import { bitrate } from '../shared/format';
import type { Now, Total } from './api';
import { UNKNOWN, clock, mean, number, percent, time, watched } from './words';

interface Tile {
  element: HTMLElement;
  set(value: string, more?: string): void;
}

function tile(label: string, big = false): Tile {
  const [value, more] = [make('span', 'tile-value', UNKNOWN), make('span', 'tile-more muted')];
  return {
    element: make('div', big ? 'tile tile-big' : 'tile', make('dt', '', label), make('dd', '', value, more)),
    set(text, under = '') {
      setText(value, text);
      setText(more, under);
    },
  };
}

export class Tiles {
  #watching = tile('Watching now', true);
  #peak = tile('Peak');
  #average = tile('Average');
  #people = tile('People');
  #watched = tile('Time watched');
  #halted = tile('Halted');
  #startup = tile('First picture');
  #behind = tile('Behind live');
  #quality = tile('Bitrate');
  #chat = tile('Chat');
  readonly element: HTMLElement;

  constructor() {
    const tiles = [this.#watching, this.#peak, this.#average, this.#people, this.#watched, this.#halted, this.#startup, this.#behind, this.#quality, this.#chat];
    this.element = make('dl', 'tiles', ...tiles.map(({ element }) => element));
    this.setChat(null);
  }

  setNow({ viewers, paused, estimate, stalled, kbps, latencyMs }: Now): void {
    const more = [
      ...(paused > 0 ? [`${number(paused)} paused`] : []),
      ...(stalled > 0 ? [`${number(stalled)} waiting for data`] : []),
      // Players that send no reports are among these.
      ...(estimate !== null && estimate > 0 ? [`about ${number(estimate)} by requests for playlists`] : []),
    ];
    this.#watching.set(number(viewers), more.join(' · '));
    this.#behind.set(time(latencyMs), latencyMs === null ? '' : 'now, on average');
    this.#quality.set(kbps === null ? UNKNOWN : bitrate(kbps), kbps === null ? '' : 'now, on average');
  }

  /** Null: nothing was watched yet. */
  setTotal(total: Total | null): void {
    const peakMs = total?.peakAt == null ? Number.NaN : Date.parse(total.peakAt);
    this.#peak.set(number(total?.peak ?? null), Number.isNaN(peakMs) ? '' : `at ${clock(peakMs)}`);
    this.#average.set(mean(total?.average ?? null), total === null ? '' : 'at a time');
    this.#people.set(number(total?.uniques ?? null), total?.joins == null ? '' : `${number(total.joins)} ${total.joins === 1 ? 'visit' : 'visits'}`);
    this.#watched.set(watched(total?.minutes ?? null), total === null ? '' : 'by all together');
    this.#halted.set(percent(total?.stallRatio ?? null), total?.stalls == null ? '' : `of the time, ${number(total.stalls)} ${total.stalls === 1 ? 'halt' : 'halts'}`);
    const { p50 = null, p95 = null } = total?.startupMs ?? {};
    this.#startup.set(time(p50), p95 === null ? '' : `one in 20 waits ${time(p95)}`);
  }

  /** Messages a minute; null where there is no chat. */
  setChat(rate: number | null): void {
    this.#chat.element.hidden = rate === null;
    this.#chat.set(number(rate), rate === 1 ? 'message a minute' : 'messages a minute');
  }
}
