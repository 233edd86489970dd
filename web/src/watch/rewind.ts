/**
 * Lets a viewer go anywhere in a broadcast: within the live window where it reaches, else in the playlist of everything, and back to
 * live. In: times from the broadcast's start. Out: what the player loads and where it stands on that time line.
 */
import type { Player } from '../player/player';
import { destination, type Times } from './timeline';

/** While a viewer holds a key or moves on quickly, nothing is loaded before this long after the last wish. */
const SETTLE_MS = 200;

/** Where the player finds things now; null where there is no such thing. */
export interface Sources {
  /** The live edge of what is on screen, or of what came after it. */
  live: string | null;
  /** The whole of what is on screen. */
  whole: string | null;
  /** When the broadcast on screen began, by the API (milliseconds since 1970). */
  startedMs: number | null;
}

export class Rewind {
  #player: Player;
  #sources: () => Sources;
  /** Where the viewer is about to be, until there is a picture from there. */
  #wanted: number | null = null;
  #last: Times | null = null;
  /** The start of the broadcast (milliseconds since 1970) by which `#last` was reckoned. */
  #lastZeroMs: number | null = null;
  /** What is done about the last wish, once no other comes. */
  #timer: ReturnType<typeof setTimeout> | null = null;
  /** When the broadcast of this whole began, by its playlist. */
  #zero: { whole: string | null; ms: number } | null = null;

  constructor(player: Player, sources: () => Sources) {
    this.#player = player;
    this.#sources = sources;
    player.video.addEventListener('play', () => this.#goOn());
  }

  /** Where play is on the time line; null while that is not known. */
  get times(): Times | null {
    const player = this.#player;
    const zeroMs = this.#zeroMs();
    const media = player.video.currentTime;
    const { edge } = player;
    if (edge === null || !player.begun) return this.#guess();
    if (player.whole) {
      const end = edge - player.origin;
      const played = player.motion === 'ended' ? end : media - player.origin;
      const position = this.#wanted !== null && this.#onTheWay ? this.#wanted : played;
      this.#last = { position: Math.max(0, position), end, reach: 0, growing: !player.finished };
    } else {
      const madeMs = player.pictureMs;
      if (madeMs === null || zeroMs === null) return this.#guess();
      const position = Math.max(0, (madeMs - zeroMs) / 1000);
      const oldest = Math.max((player.oldest ?? media) + 1, edge - player.reach);
      const end = position + Math.max(0, edge - media);
      this.#last = { position, end, reach: Math.max(0, position - (media - oldest)), growing: !player.finished };
    }
    this.#lastZeroMs = zeroMs;
    if (!this.#onTheWay) this.#wanted = null;
    return this.#last;
  }

  /** Wall-clock time (milliseconds since 1970) of a time given by `times`; null while the broadcast's start is not known. */
  dateMs(time: number): number | null {
    return this.#lastZeroMs === null ? null : this.#lastZeroMs + time * 1000;
  }

  /** Goes to this time, or to the live edge when it is that late. */
  seek(time: number): void {
    const { times } = this;
    if (times === null) return;
    const player = this.#player;
    const to = destination(time, times, player.targetLatency ?? 0);
    this.#forget();
    if (to.kind === 'edge') return this.goLive();
    const loading = this.#wanted !== null;
    this.#wanted = Math.min(Math.max(0, time), times.end);
    if (to.kind === 'here' && player.whole) {
      const target = this.#wanted + player.origin;
      this.#soon(() => player.seek(target), loading);
    } else if (to.kind === 'here') {
      player.seek(player.video.currentTime + to.by);
      this.#wanted = null;
    } else {
      const dateMs = this.dateMs(to.at);
      this.#soon(() => this.#loadWhole(to.at, dateMs), loading);
    }
  }

  /** Back to the live edge. */
  goLive(): void {
    this.#forget();
    this.#wanted = null;
    const player = this.#player;
    const { live } = this.#sources();
    player.wishToPlay();
    if (!player.whole) return player.seekToLive();
    if (live === null) return;
    this.#wanted = this.#last?.end ?? null;
    player.load(live, { keepPicture: true });
  }

  /** Forgets where the viewer wanted to be: something else is loaded. */
  reset(): void {
    this.#forget();
    this.#wanted = null;
    this.#last = null;
  }

  #loadWhole(at: number, dateMs: number | null): void {
    const { whole } = this.#sources();
    if (whole === null) return;
    this.#player.load(whole, { from: at, dateMs, keepPicture: true });
  }

  /** Who paused for so long that the live window has moved on goes on where it was. */
  #goOn(): void {
    const { times } = this;
    if (this.#player.whole || !this.#player.begun || times === null || !times.growing) return;
    if (times.end - times.position > this.#player.reach) this.#loadWhole(times.position, this.dateMs(times.position));
  }

  /** At once, unless something is on its way already: then once nothing else is wanted for a moment. */
  #soon(run: () => void, later: boolean): void {
    if (!later) return run();
    this.#timer = setTimeout(() => {
      this.#timer = null;
      run();
    }, SETTLE_MS);
  }

  #forget(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }

  get #onTheWay(): boolean {
    return this.#timer !== null || this.#player.video.seeking;
  }

  #guess(): Times | null {
    if (this.#last === null || this.#wanted === null) return this.#last;
    return { ...this.#last, position: this.#wanted };
  }

  #zeroMs(): number | null {
    const { whole, startedMs } = this.#sources();
    const ms = this.#player.zeroMs;
    if (ms !== null) this.#zero = { whole, ms };
    return this.#zero !== null && this.#zero.whole === whole ? this.#zero.ms : startedMs;
  }
}
