/** Waiting times that grow and never march in step with everyone else's. */

export interface Backoff {
  /** First wait, milliseconds. */
  firstMs: number;
  /** Longest wait, milliseconds. */
  longestMs: number;
}

/**
 * The wait before attempt `attempt` (0 is the first), milliseconds: doubles up to the longest, then a
 * quarter either way by `random` in [0, 1).
 */
export function backoffMs({ firstMs, longestMs }: Backoff, attempt: number, random: number): number {
  const base = Math.min(longestMs, firstMs * 2 ** Math.min(attempt, 30));
  return Math.round(base * (0.75 + random / 2));
}

/**
 * Calls `ask` again and again, one call at a time: after `waitMs` of its last answer, at once when
 * the page comes back to the front or the network returns, or the caller uses what this gives.
 */
export function poll(ask: () => Promise<number>): () => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let asking = false;
  const run = async (): Promise<void> => {
    if (asking) return;
    asking = true;
    clearTimeout(timer);
    const waitMs = await ask();
    asking = false;
    timer = setTimeout(() => void run(), waitMs);
  };
  document.addEventListener('visibilitychange', () => {
    if (!document.hidden) void run();
  });
  addEventListener('online', () => void run());
  void run();
  return () => void run();
}
