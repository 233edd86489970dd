/** Does something again and again while somebody looks, until it is told to stop. */

export interface Loop {
  /** Now, and from then on again. */
  now(): void;
  stop(): void;
}

/** `run` gives the wait until the next time (ms). In the background it is at least this long: */
const HIDDEN_MS = 15_000;

export function loop(run: () => Promise<number>): Loop {
  const over = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  let running = false;
  let again = false;
  const now = async (): Promise<void> => {
    // Whoever wants it now wants what is newer than that which is on its way.
    again = running;
    if (running || over.signal.aborted) return;
    running = true;
    clearTimeout(timer);
    const waitMs = await run();
    running = false;
    if (over.signal.aborted) return;
    timer = setTimeout(() => void now(), again ? 0 : document.hidden ? Math.max(HIDDEN_MS, waitMs) : waitMs);
    again = false;
  };
  document.addEventListener('visibilitychange', () => void (document.hidden ? undefined : now()), { signal: over.signal });
  addEventListener('online', () => void now(), { signal: over.signal });
  void now();
  return {
    now: () => void now(),
    stop: () => {
      over.abort();
      clearTimeout(timer);
    },
  };
}
