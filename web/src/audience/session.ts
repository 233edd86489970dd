/**
 * One viewing of one thing in one tab: its id, the number of its next report, and what was counted before the page was loaded anew. Kept
 * for the tab, so that a reload goes on with it.
 */
import { isObject, number, text } from '../shared/api';

export interface Counts {
  stalls: number;
  stallMs: number;
  dropped: number;
}

export class Session {
  readonly id: string;
  /** Whether the time to the first picture was told. */
  started = false;
  #name: string;
  #next = 0;
  /** What earlier pages counted, and what this one has. */
  #before: Counts = { stalls: 0, stallMs: 0, dropped: 0 };
  #here: Counts = { stalls: 0, stallMs: 0, dropped: 0 };
  #open = true;

  constructor(content: string) {
    this.#name = `weir.view.${content}`;
    const kept = read(this.#name);
    // Who copies a tab has its storage too: what is open is that of the other one.
    const mine = isObject(kept) && kept['open'] === false ? kept : {};
    this.id = text(mine['id']) ?? uuid(crypto.getRandomValues(new Uint8Array(16)));
    this.started = mine['started'] === true;
    this.#next = number(mine['next']) ?? 0;
    for (const key of ['stalls', 'stallMs', 'dropped'] as const) this.#before[key] = number(mine[key]) ?? 0;
    this.#keep();
  }

  /** The number of the next report. */
  take(): number {
    this.#next += 1;
    return this.#next - 1;
  }

  /** What this page has counted since it was loaded, as what the session has. */
  total(here: Counts): Counts {
    this.#here = here;
    return this.#sum();
  }

  /** The page goes, perhaps to come back. */
  leave(): void {
    this.#open = false;
    this.#keep();
  }

  /** It came back as it was. */
  enter(): void {
    this.#open = true;
    this.#keep();
  }

  #sum(): Counts {
    const [a, b] = [this.#before, this.#here];
    return { stalls: a.stalls + b.stalls, stallMs: a.stallMs + b.stallMs, dropped: a.dropped + b.dropped };
  }

  #keep(): void {
    try {
      sessionStorage.setItem(this.#name, JSON.stringify({ id: this.id, next: this.#next, started: this.started, open: this.#open, ...this.#sum() }));
    } catch {
      // No storage: a reload is another session.
    }
  }
}

function read(name: string): unknown {
  try {
    return JSON.parse(sessionStorage.getItem(name) ?? 'null');
  } catch {
    return null;
  }
}

/** A random UUID (RFC 9562, version 4); the browser's own needs https. */
export function uuid(bytes: Uint8Array): string {
  bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x40;
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
}
