/**
 * The time line under the picture: where play is, and by pointer, touch or keys where it shall be. In: the times and pictures of them.
 * Out: wishes. A native slider below, so that every way to operate one works.
 */
import { byId, setText } from '../shared/dom';
import { clock, spoken } from '../shared/format';
import { keyLeadsTo, type Times } from './timeline';
import type { Tile } from './storyboard';

export interface Parts {
  times(): Times | null;
  /** Whether play is as near to live as it can be. */
  atEdge(): boolean;
  seek(time: number): void;
  /** A picture of that time; null when there is none. */
  tile(time: number): Tile | null;
}

/** A broadcast this young (seconds) has no time line yet: there is nowhere to go. */
const YOUNG = 2;

export class Scrubber {
  #parts: Parts;
  #line = byId('line', HTMLElement);
  #input = byId('scrub', HTMLInputElement);
  #position = byId('position', HTMLElement);
  #lag = byId('lag', HTMLElement);
  #preview = byId('preview', HTMLElement);
  #picture = byId('preview-picture', HTMLElement);
  #time = byId('preview-time', HTMLElement);
  /** Held by pointer or finger: what it shows is a wish, not where play is. */
  #held = false;
  /** The time that the preview shows; null while there is none. */
  #previewed: number | null = null;

  constructor(parts: Parts) {
    this.#parts = parts;
    const input = this.#input;
    input.addEventListener('input', () => {
      this.#held = true;
      this.#show(Number(input.value));
      this.draw();
    });
    input.addEventListener('change', () => {
      const wanted = Number(input.value);
      this.#release();
      parts.seek(wanted);
      this.draw();
    });
    input.addEventListener('pointermove', (event) => {
      if (!this.#held && event.pointerType !== 'touch') this.#show(this.#timeAt(event.clientX));
    });
    for (const type of ['pointerleave', 'pointercancel', 'blur'] as const) input.addEventListener(type, () => this.#release());
    input.addEventListener('pointerup', (event) => {
      if (event.pointerType === 'touch') this.#release();
    });
    document.addEventListener('keydown', (event) => this.#handleKey(event));
  }

  draw(): void {
    const times = this.#parts.times();
    this.#line.hidden = times === null || times.end < YOUNG;
    if (times === null) return;
    const atEdge = times.growing && (this.#parts.atEdge() || times.end - times.position < 1);
    const end = Math.max(times.end, 0.1);
    const position = this.#held ? Number(this.#input.value) : atEdge ? end : Math.min(times.position, end);
    if (!this.#held) {
      this.#input.max = String(end);
      this.#input.value = String(position);
    }
    this.#input.style.setProperty('--played', `${((position / Number(this.#input.max)) * 100).toFixed(2)}%`);
    const shown = this.#held ? position : times.position;
    setText(this.#position, clock(shown));
    const behind = end - shown;
    setText(this.#lag, !times.growing ? clock(end) : atEdge && !this.#held ? '' : `−${clock(behind)}`);
    this.#lag.title = times.growing ? 'Behind live' : 'Length';
    const where = !times.growing ? `of ${spoken(end)}` : atEdge && !this.#held ? 'live' : `${spoken(behind)} behind live`;
    // Its picture may have come meanwhile.
    if (this.#previewed !== null) this.#show(this.#previewed);
    this.#input.setAttribute('aria-valuetext', `${spoken(shown)}${times.growing ? ', ' : ' '}${where}`);
  }

  #release(): void {
    this.#held = false;
    this.#previewed = null;
    this.#preview.hidden = true;
  }

  /** Shows time and picture over that place of the line. */
  #show(time: number): void {
    this.#previewed = time;
    const box = this.#input.getBoundingClientRect();
    const share = time / Math.max(0.1, Number(this.#input.max));
    const tile = this.#parts.tile(time);
    this.#picture.hidden = tile === null;
    if (tile !== null) {
      const { style } = this.#picture;
      style.width = `${tile.width}px`;
      style.height = `${tile.height}px`;
      style.backgroundImage = `url("${tile.sheet}")`;
      style.backgroundPosition = `-${tile.x}px -${tile.y}px`;
    }
    setText(this.#time, clock(time));
    this.#preview.hidden = false;
    const half = this.#preview.offsetWidth / 2;
    const outer = this.#line.getBoundingClientRect();
    const centre = Math.min(Math.max(box.left - outer.left + this.#along(share, box.width), half), outer.width - half);
    this.#preview.style.left = `${centre - half}px`;
  }

  /** The thumb goes from half its width to half its width before the end. */
  #along(share: number, width: number): number {
    return THUMB / 2 + share * (width - THUMB);
  }

  #timeAt(clientX: number): number {
    const box = this.#input.getBoundingClientRect();
    const share = (clientX - box.left - THUMB / 2) / Math.max(1, box.width - THUMB);
    return Math.min(1, Math.max(0, share)) * Number(this.#input.max);
  }

  #handleKey(event: KeyboardEvent): void {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    const onLine = event.target === this.#input;
    if (!onLine && !meansThePlayer(event)) return;
    // Up and down are the volume, unless the line has the focus.
    if (!onLine && /^(ArrowUp|ArrowDown|Page)/.test(event.key)) return;
    const times = this.#parts.times();
    const to = times === null || this.#line.hidden ? null : keyLeadsTo(event.key, times);
    if (to === null) return;
    event.preventDefault();
    this.#parts.seek(to);
    this.draw();
  }
}

/** Width of the thumb, CSS pixels, as watch.css has it. */
const THUMB = 14;

/** Whether a key is for the player: nothing else has the focus, or something in the player that has no use for it itself. */
function meansThePlayer(event: KeyboardEvent): boolean {
  const { target } = event;
  if (!(target instanceof Element) || document.querySelector('dialog[open]') !== null) return false;
  if (target === document.body) return !/^[a-z]$/.test(event.key);
  return target.closest('media-controller') !== null && target.closest('media-volume-range, media-rendition-menu, input, textarea, select') === null;
}
