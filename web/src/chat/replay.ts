/** The chat of a recording, in step with its picture: what was said by the time that is shown. */
import type { Answer } from '../shared/api';
import type { Message } from './log';

/** A message with the time at which it was written, milliseconds since 1970. */
export interface Said {
  message: Message;
  atMs: number;
}

export interface Part {
  said: Said[];
  /** From where to go on; null where there is no more, or not yet. */
  next: string | null;
}

/** Where parts of a chat come from. */
export interface Source {
  /** Oldest first, from a time on or after a message. */
  from(from: { ms: number } | { after: string }): Promise<Answer<Part>>;
  /** Newest first, before a time or a message. */
  before(before: { ms: number } | { id: string }): Promise<Answer<Part>>;
}

/** What a replay tells. */
export interface Stage {
  /** Forgets all that was shown: the viewer is somewhere else. */
  clear(): void;
  show(messages: Message[]): void;
  /** Whether anything was said at all. */
  found(any: boolean): void;
}

/** Requests begin at such times, so that caches have the answer for the next viewer (ms). */
const STEP_MS = 10_000;
/** A picture that is so much later than the last one was leapt to (ms). */
const LEAP_MS = 30_000;
/** More is asked for when less is left (ms). */
const AHEAD_MS = 15_000;
/** Where there was no more, or no answer, it is asked again after this (ms). */
const AGAIN_MS = 5_000;

export class Replay {
  /** What comes, oldest first. */
  private waiting: Said[] = [];
  private next: string | null = null;
  /** The newest message that is known. */
  private last: string | null = null;
  private shownMs: number | null = null;
  private turn = 0;
  private asking = false;
  private askAgainMs = 0;

  constructor(
    private readonly source: Source,
    private readonly stage: Stage,
    /** Whether more may be said yet. */
    private readonly goesOn: () => boolean,
  ) {}

  /** Shows what belongs to the picture of this time (ms since 1970); null while there is none. */
  tick(pictureMs: number | null, nowMs: number): void {
    if (pictureMs === null || (this.shownMs === null && nowMs < this.askAgainMs)) return;
    const leapt = this.shownMs === null || pictureMs < this.shownMs - 1_000 || pictureMs > this.shownMs + LEAP_MS;
    this.shownMs = leapt ? pictureMs : Math.max(pictureMs, this.shownMs ?? 0);
    if (leapt) return void this.begin(pictureMs, nowMs);
    const due = this.waiting.findIndex(({ atMs }) => atMs > pictureMs);
    const shown = this.waiting.splice(0, due < 0 ? this.waiting.length : due);
    if (shown.length > 0) this.stage.show(shown.map(({ message }) => message));
    const left = (this.waiting.at(-1)?.atMs ?? pictureMs) - pictureMs;
    if (this.asking || left > AHEAD_MS || nowMs < this.askAgainMs) return;
    if (this.next !== null) {
      void this.more(this.next, nowMs);
    } else if (this.goesOn()) {
      this.askAgainMs = nowMs + AGAIN_MS;
      void this.more(this.last, nowMs);
    }
  }

  private async begin(pictureMs: number, nowMs: number): Promise<void> {
    const turn = ++this.turn;
    this.asking = true;
    this.waiting = [];
    this.next = null;
    const ms = Math.floor(pictureMs / STEP_MS) * STEP_MS;
    const [before, from] = await Promise.all([this.source.before({ ms }), this.source.from({ ms })]);
    if (turn !== this.turn) return;
    this.asking = false;
    if (before.kind !== 'ok' || from.kind !== 'ok') {
      // There may be no chat; only a server that does not answer is asked again.
      if (before.kind !== 'unreachable' && from.kind !== 'unreachable') return;
      this.shownMs = null;
      this.askAgainMs = nowMs + AGAIN_MS;
      return;
    }
    const earlier = [...before.value.said].reverse();
    this.last = earlier.at(-1)?.message.id ?? null;
    this.stage.clear();
    this.stage.show(earlier.map(({ message }) => message));
    this.take(from.value);
    this.stage.found(earlier.length + from.value.said.length > 0);
  }

  private async more(after: string | null, nowMs: number): Promise<void> {
    const turn = this.turn;
    this.asking = true;
    const answer = await this.source.from(after === null ? { ms: this.shownMs ?? 0 } : { after });
    if (turn !== this.turn) return;
    this.asking = false;
    if (answer.kind !== 'ok') {
      this.askAgainMs = nowMs + AGAIN_MS;
      return;
    }
    this.take(answer.value);
    if (answer.value.said.length > 0) this.stage.found(true);
  }

  private take({ said, next }: Part): void {
    this.waiting.push(...said);
    this.next = next;
    this.last = said.at(-1)?.message.id ?? this.last;
  }
}
