/** Small pictures of a broadcast for the time line: a WebVTT file whose cues name a rectangle of a sheet (`sheet.jpg#xywh=0,90,160,90`). */
import { pictureUrl } from '../shared/picture';
import { ticketed } from '../shared/ticketed';

export interface Tile {
  /** Seconds. */
  from: number;
  to: number;
  /** Address of the sheet, relative to that of the WebVTT file. */
  sheet: string;
  x: number;
  y: number;
  width: number;
  height: number;
}

/** The one of a broadcast that goes on is asked for anew after this. */
const STALE_MS = 30_000;
/** What could not be had is asked for again after this: a busy server puts pictures off. */
const AGAIN_MS = 5_000;

/** Reads the cues; what is not one is left out. Pure. */
export function readStoryboard(text: string): Tile[] {
  const tiles: Tile[] = [];
  for (const block of text.replaceAll('\r', '').split(/\n{2,}/)) {
    const lines = block.split('\n');
    const at = lines.findIndex((line) => line.includes('-->'));
    const [from, to] = (lines[at] ?? '').split('-->').map(seconds);
    const [, sheet, ...rectangle] = /^(\S+)#xywh=(?:pixel:)?(\d+),(\d+),(\d+),(\d+)$/.exec(lines[at + 1]?.trim() ?? '') ?? [];
    const [x = 0, y = 0, width = 0, height = 0] = rectangle.map(Number);
    if (at < 0 || sheet === undefined || from == null || to == null || !(from < to) || width === 0 || height === 0) continue;
    tiles.push({ from, to, sheet, x, y, width, height });
  }
  return tiles;
}

/** `01:02:03.500` or `02:03.500`; null when it is neither. */
function seconds(text: string): number | null {
  const parts = /^(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:\.\d+)?)/.exec(text.trim());
  return parts === null ? null : Number(parts[1] ?? 0) * 3600 + Number(parts[2]) * 60 + Number(parts[3]);
}

/** An address of the picture, once it can be shown; null when it cannot. */
async function loaded(path: string, ticket: string | null): Promise<string | null> {
  const url = await pictureUrl(path, ticket);
  if (url === null) return null;
  const image = new Image();
  image.src = url;
  return image.decode().then(
    () => url,
    () => null,
  );
}

/** Fetches a broadcast's storyboard when it is first wanted. */
export class Storyboard {
  readonly path: string;
  #ticket: string | null;
  #grows: boolean;
  #tiles: Tile[] = [];
  /** Shown addresses by sheet; null while one is on its way, and for a while where it could not be had. */
  #sheets = new Map<string, string | null>();
  /** When the tiles are asked for next. */
  #dueMs = Number.NEGATIVE_INFINITY;

  /** `grows`: of a broadcast that goes on. */
  constructor(path: string, ticket: string | null, grows: boolean) {
    this.path = path;
    this.#ticket = ticket;
    this.#grows = grows;
  }

  /** The picture at this time, with an address to show its sheet by; null when there is none, or none yet. */
  tile(time: number): Tile | null {
    this.#refresh();
    const tile = this.#tiles.find(({ from, to }) => time >= from && time < to);
    const sheet = tile === undefined ? null : this.#sheet(tile.sheet);
    return tile === undefined || sheet === null ? null : { ...tile, sheet };
  }

  #sheet(name: string): string | null {
    const path = new URL(name, new URL(this.path, location.href));
    if (path.origin !== location.origin) return null;
    const known = this.#sheets.get(path.href);
    if (known !== undefined) return known;
    this.#sheets.set(path.href, null);
    void loaded(path.pathname + path.search, this.#ticket).then((url) => {
      if (url !== null) this.#sheets.set(path.href, url);
      else setTimeout(() => this.#sheets.delete(path.href), AGAIN_MS);
    });
    return null;
  }

  #refresh(): void {
    const nowMs = performance.now();
    if (nowMs < this.#dueMs) return;
    this.#dueMs = Number.POSITIVE_INFINITY;
    // Without pictures the time line shows times: nothing to tell the viewer.
    void fetch(ticketed(this.path, this.#ticket))
      .then((response) => (response.ok ? response.text() : null))
      .then((text) => {
        if (text !== null) this.#tiles = readStoryboard(text);
        return text !== null;
      })
      .catch(() => false)
      .then((had) => {
        if (!had || this.#grows) this.#dueMs = nowMs + (had ? STALE_MS : AGAIN_MS);
      });
  }
}
