/**
 * What stands around the picture and is not needed for the first one: the time line, the list of past broadcasts, and what a viewer or the
 * owner can do; also what the server is told of how play goes. The page starts it once and tells it to draw.
 */
import { readingOf, type Stats } from '../audience/reading';
import { start as startBeacon } from '../audience/start';
import type { Player } from '../player/player';
import type { Stream } from '../shared/api';
import type { Broadcast, Clip } from '../shared/recordings';
import { Actions } from './actions';
import { Past } from './past';
import type { Place } from './place';
import type { Rewind } from './rewind';
import { Scrubber } from './scrubber';
import { Storyboard } from './storyboard';

/** How often, and how many times in a row, it is asked whether what has just ended has become a recording. */
const SETTLING = { everyMs: 4_000, times: 8 };

export interface Context {
  player: Player;
  rewind: Rewind;
  place: Place;
  ticket(): string | null;
  stream(): Stream | null;
  /** The broadcast on screen, once it is known. */
  broadcast(): Broadcast | null;
  clip(): Clip | null;
  /** The id of the broadcast on screen. */
  loadedBroadcast(): string | null;
  setBroadcast(broadcast: Broadcast): void;
  /** Whether the server has told about this page's subject, if only that there is none. */
  heard(): boolean;
  stats(): Stats;
  /** How long the first picture took (ms); null before there was one. */
  startupMs(): number | null;
  /** Asks the API again now. */
  askNow(): void;
}

export function start(context: Context): { draw(): void } {
  const { player, rewind, place } = context;
  let storyboard: Storyboard | null = null;

  /** Pictures of what is on screen. */
  const tile = (time: number) => {
    const broadcast = context.broadcast();
    if (broadcast === null || broadcast.storyboard === null || broadcast.id !== context.loadedBroadcast()) return null;
    if (storyboard?.path !== broadcast.storyboard) storyboard = new Storyboard(broadcast.storyboard, context.ticket(), broadcast.state !== 'ended');
    return storyboard.tile(time + (context.clip()?.from ?? 0));
  };

  const scrubber = new Scrubber({
    times: () => rewind.times,
    atEdge: () => player.atEdge,
    seek: (time) => rewind.seek(time),
    tile,
  });
  player.video.addEventListener('timeupdate', () => scrubber.draw());
  player.video.addEventListener('seeking', () => scrubber.draw());

  const past = new Past({
    stream: place.stream,
    ticket: context.ticket,
    // Offline, the broadcast that was on screen is one of the past.
    shown: () => place.broadcast ?? (context.stream()?.state === 'offline' ? null : (context.stream()?.broadcast ?? null)),
    onHeard: (broadcasts) => {
      // The stream's page knows its live broadcast by id only.
      const shown = broadcasts.find(({ id }) => place.broadcast === null && id === context.loadedBroadcast());
      if (shown !== undefined) context.setBroadcast(shown);
    },
  });
  const actions = new Actions({ ...context, onChanged: (broadcast) => past.update(broadcast) });

  const beacon = startBeacon(place, context.ticket, () => {
    const stream = context.stream();
    const live = stream !== null && stream.state !== 'offline' && context.clip() === null;
    return readingOf(context.stats(), { startupMs: context.startupMs(), renditions: stream?.renditions ?? [], soundOnly: stream?.mode === 'audio-only', live });
  });

  let known = '';
  let asked = { atMs: 0, times: 0 };
  const draw = (): void => {
    beacon.tick();
    scrubber.draw();
    actions.draw();
    const stream = context.stream();
    const now = JSON.stringify([stream?.state === 'offline', context.loadedBroadcast(), stream?.broadcast, context.ticket()]);
    if (now !== known && context.heard()) {
      known = now;
      asked = { atMs: performance.now(), times: 0 };
      past.refresh();
    } else if (place.broadcast === null && past.unsettled && asked.times < SETTLING.times && performance.now() - asked.atMs > SETTLING.everyMs) {
      asked = { atMs: performance.now(), times: asked.times + 1 };
      past.refresh();
    }
    past.draw();
  };
  draw();
  return { draw };
}
