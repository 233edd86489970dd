/**
 * Counts stalls: the playhead stands still for more than 200 ms although it should move. What it is told is
 * the video element's state, many times a second; it never reads a clock.
 */

/** Shorter halts are not seen by people; hls.js nudges over most of them. */
const STALL_MS = 200;

export interface Moment {
  nowMs: number;
  position: number;
  /** Paused, ended, seeking or without media: the playhead may stand still. */
  mayRest: boolean;
}

export interface Stall {
  /** When it began, in the clock of `Moment.nowMs`. */
  atMs: number;
  durationMs: number;
}

export class StallMeter {
  readonly stalls: Stall[] = [];
  #position = -1;
  #movedMs = 0;
  #played = false;
  #open: Stall | null = null;

  /** Whether the playhead stands still right now although it should move. */
  get stalled(): boolean {
    return this.#open !== null;
  }

  /** Whether the playhead has moved by itself since the start. */
  get played(): boolean {
    return this.#played;
  }

  handle({ nowMs, position, mayRest }: Moment): void {
    const moved = position !== this.#position;
    if (moved && !mayRest && this.#position >= 0) this.#played = true;
    if (moved || mayRest || !this.#played) {
      this.#position = position;
      this.#movedMs = nowMs;
      this.#open = null;
      return;
    }
    const still = nowMs - this.#movedMs;
    if (still <= STALL_MS) return;
    if (this.#open === null) {
      this.#open = { atMs: this.#movedMs, durationMs: still };
      this.stalls.push(this.#open);
      // A page left open for days must not grow: the numbers below keep the total.
      if (this.stalls.length > 100) this.#forgottenMs += this.stalls.shift()?.durationMs ?? 0;
      this.#count += 1;
    }
    this.#open.durationMs = still;
  }

  /** Stalls since the page opened. */
  get count(): number {
    return this.#count;
  }

  /** How long they were together, milliseconds. */
  get totalMs(): number {
    return this.stalls.reduce((sum, stall) => sum + stall.durationMs, this.#forgottenMs);
  }

  #count = 0;
  #forgottenMs = 0;
}
