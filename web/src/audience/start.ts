/** The beacon of a page: how its reports get to the server. */
import { ticketed } from '../shared/ticketed';
import type { Place } from '../watch/place';
import { Beacon } from './beacon';
import type { Reading } from './reading';
import { Session } from './session';

const TYPE = 'application/cmcd';
const TIMEOUT_MS = 8_000;

export function start(place: Place, ticket: () => string | null, read: () => Reading | null): Beacon {
  const url = (): string => ticketed('/api/v1/cmcd', ticket());
  const content = place.broadcast === null ? place.stream : `${place.stream}/${place.broadcast}`;
  const send = (body: string, more: RequestInit): Promise<Response> => fetch(url(), { method: 'POST', headers: { 'content-type': TYPE }, body, cache: 'no-store', ...more });
  const beacon = new Beacon({
    content,
    session: new Session(content),
    read,
    post: async (lines) => {
      try {
        const response = await send(lines, { signal: AbortSignal.timeout(TIMEOUT_MS) });
        const told = response.status === 200 ? await response.json().catch(() => null) : null;
        return { status: response.status, body: told };
      } catch {
        return { status: 0, body: null };
      }
    },
    part: (line) => {
      if (navigator.sendBeacon?.(url(), new Blob([line], { type: TYPE })) !== true) void send(line, { keepalive: true }).catch(() => undefined);
    },
    nowMs: () => performance.now(),
    wallMs: () => Date.now(),
    random: () => Math.random(),
  });
  addEventListener('pagehide', () => beacon.leave());
  addEventListener('pageshow', ({ persisted }) => {
    if (persisted) beacon.enter();
  });
  return beacon;
}
