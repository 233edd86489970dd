/**
 * The list of qualities as media-chrome's quality menu reads it: the `videoRenditions` of the video element
 * (video-dev/media-ui-extensions). Selecting an index calls back; -1 is automatic.
 */
import type { Level } from 'hls.js';

export interface VideoRendition {
  /** Without white space or colon: media-chrome keeps the list in an attribute. */
  id: string;
  width: number;
  height: number;
  bitrate: number;
}

export class VideoRenditions extends EventTarget implements Iterable<VideoRendition> {
  [index: number]: VideoRendition;
  #length = 0;
  #selected = -1;

  /** Called when the viewer chooses. */
  onSelect: (index: number) => void = () => {};

  get length(): number {
    return this.#length;
  }

  get selectedIndex(): number {
    return this.#selected;
  }

  set selectedIndex(index: number) {
    if (index === this.#selected) return;
    this.#selected = index;
    this.onSelect(index);
    this.dispatchEvent(new Event('change'));
  }

  /** Takes a new list; the selection goes to `selected` without calling back. */
  replace(renditions: VideoRendition[], selected: number): void {
    for (let i = 0; i < this.#length; i += 1) delete this[i];
    renditions.forEach((rendition, i) => (this[i] = rendition));
    this.#length = renditions.length;
    this.#selected = selected;
    this.dispatchEvent(new Event(renditions.length > 0 ? 'addrendition' : 'removerendition'));
    this.dispatchEvent(new Event('change'));
  }

  *[Symbol.iterator](): Iterator<VideoRendition> {
    for (let i = 0; i < this.#length; i += 1) yield this[i] as VideoRendition;
  }
}

/** Names each level by the rendition in its address (`.../720p/index.m3u8`), which the server keeps unique. */
export function named(levels: readonly Level[]): VideoRendition[] {
  return levels.map((level, i) => {
    const folder = level.uri.split('?')[0]?.split('/').at(-2) ?? '';
    const id = /^[A-Za-z0-9_-]+$/.test(folder) ? folder : `level-${i}`;
    return { id, width: level.width, height: level.height, bitrate: level.bitrate };
  });
}

/** The video element with what media-chrome reads beyond HTMLVideoElement. */
export type ChromeVideo = HTMLVideoElement & {
  streamType?: 'live';
  targetLiveWindow?: number;
  videoRenditions?: VideoRenditions;
  readonly liveEdgeStart?: number;
};
