/**
 * Tells the server now and then how play goes on this page: at intervals, when what the player does changes, on errors, and at the end.
 * What a report says is `reading`'s; how it is written, `cmcd`'s. A report that does not arrive is not sent again: the next one says all
 * that it said, and the server is left alone until then.
 */
import { isObject } from '../shared/api';
import { INTERVAL, encode, intervalIn, waitMs, type Report, type State } from './cmcd';
import type { Reading } from './reading';
import type { Session } from './session';

/** Changes of what the player does are told at most this often; the newest counts. */
const CHANGES_MS = 1_000;

/** After these there is nothing to tell until something else begins. */
const FINAL: readonly State[] = ['e', 'f', 'q'];

export interface Parts {
  /** The name of what is played, for the server. */
  content: string;
  session: Session;
  /** How play goes; null while nothing is loaded. */
  read(): Reading | null;
  /** Sends lines, and gives the status and the body of the answer; status 0 when there was none. */
  post(lines: string): Promise<{ status: number; body: unknown }>;
  /** Sends a line while the page goes. */
  part(line: string): void;
  /** Milliseconds of a clock that never goes back, and since 1970. */
  nowMs(): number;
  wallMs(): number;
  random(): number;
}

export class Beacon {
  #parts: Parts;
  #interval = INTERVAL;
  #dueMs = Number.POSITIVE_INFINITY;
  /** Until then no change is told. */
  #quietUntilMs = Number.NEGATIVE_INFINITY;
  #told: State | null = null;
  /** Numbers that have arrived at the server, of this page. */
  #arrived = { stalls: 0, fatal: 0 };
  #last: Reading | null = null;
  #busy = false;
  #stopped = false;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** Reports if something is due. Call it a few times a second. */
  tick(): void {
    if (this.#stopped || this.#busy) return;
    const { nowMs, read } = this.#parts;
    const now = nowMs();
    const reading = read() ?? this.#dropped();
    if (reading === null) return;
    this.#last = reading;
    if (!Number.isFinite(this.#dueMs)) this.#dueMs = now + waitMs(this.#interval, this.#parts.random());
    const due = now >= this.#dueMs && !FINAL.includes(reading.state);
    const may = now >= this.#quietUntilMs;
    const events: Report['e'][] = [];
    if (reading.fatal > this.#arrived.fatal && (may || due)) events.push('e');
    if (reading.state !== this.#told && (may || due)) events.push('ps');
    else if (due) events.push('t');
    if (events.length > 0) void this.#report(reading, events, now);
  }

  /** The page goes. It may come back as it was, by the browser's buttons. */
  leave(): void {
    const reading = this.#parts.read() ?? this.#last;
    const going = this.#told !== null && !FINAL.includes(this.#told);
    if (going && !this.#stopped && reading !== null) this.#parts.part(encode(this.#line({ ...reading, state: 'q' }, 'ps')));
    this.#told = null;
    this.#parts.session.leave();
  }

  /** It came back. */
  enter(): void {
    this.#quietUntilMs = Number.NEGATIVE_INFINITY;
    this.#dueMs = Number.POSITIVE_INFINITY;
    this.#parts.session.enter();
  }

  /** What was played and is no longer loaded was quit. */
  #dropped(): Reading | null {
    return this.#told === null || FINAL.includes(this.#told) || this.#last === null ? null : { ...this.#last, state: 'q' };
  }

  #line({ state, fatal: _fatal, error, startupMs, counts, ...rest }: Reading, e: Report['e']): Report {
    const { content, session, wallMs } = this.#parts;
    const { stalls, stallMs, dropped } = session.total(counts);
    return {
      ...rest,
      e,
      cid: content,
      sid: session.id,
      sn: session.take(),
      sta: state,
      ts: wallMs(),
      bsa: stalls,
      bsda: stallMs,
      dfa: dropped,
      ...(counts.stalls > this.#arrived.stalls ? { bs: true } : {}),
      ...(e === 'e' ? { ec: [error] } : {}),
      ...(startupMs === null || session.started ? {} : { msd: startupMs }),
    };
  }

  async #report(reading: Reading, events: Report['e'][], now: number): Promise<void> {
    const { post, session, nowMs, random } = this.#parts;
    this.#busy = true;
    this.#quietUntilMs = now + CHANGES_MS;
    const before = this.#told;
    this.#told = reading.state;
    const { status, body } = await post(events.map((e) => encode(this.#line(reading, e))).join('\n'));
    this.#busy = false;
    if (status === 410) this.#stopped = true;
    const arrived = status >= 200 && status < 300;
    if (arrived) {
      this.#arrived = { stalls: reading.counts.stalls, fatal: reading.fatal };
      if (reading.startupMs !== null) session.started = true;
      if (isObject(body)) this.#interval = intervalIn(body) ?? this.#interval;
    }
    this.#dueMs = nowMs() + waitMs(this.#interval, random());
    // What did not arrive is told at the next interval, not again and again.
    if (!arrived) {
      this.#quietUntilMs = this.#dueMs;
      if (this.#told === reading.state) this.#told = before;
    }
  }
}
