/**
 * The newest messages on nothing, for a browser source in OBS: `/overlay/{stream}/chat`. `?size=` is that of the text (pixels),
 * `?fade=` the seconds after which a message goes (0: it stays), `?align=right` puts them to the other side.
 */
import '../style/overlay.css';
import { byId, make } from '../shared/dom';
import { ticketIn } from '../watch/ticket';
import { Api } from './api';
import { Line } from './line';
import { Log, READABLE, changeEmotes, sample, type Emotes } from './log';
import { drawRow } from './row';

/** More messages than these do not fit any picture. */
const SHOWN = 40;
/** Looks at what has come. */
const DRAW_MS = 250;
/** How long a message takes to go. */
const GOES_MS = 600;

const query = new URLSearchParams(location.search);
const stream = decodeURIComponent(location.pathname.split('/')[2] ?? '');
const list = byId('overlay', HTMLElement);
const log = new Log();
const rows = new Map<string, HTMLElement>();
let lastDrawn = Number.NEGATIVE_INFINITY;
let emotes: Emotes = new Map();
let fresh: ReturnType<Log['take']>['added'] = [];

const size = within('size', 8, 120, 22);
const fadeMs = within('fade', 0, 3_600, 0) * 1_000;
list.style.setProperty('--size', `${size}px`);
if (query.get('align') === 'right') list.classList.add('overlay-right');

const api = new Api(stream, () => ticketIn(location.hash));
const emote = (name: string): string | undefined => {
  const file = emotes.get(name);
  return file === undefined ? undefined : api.pictureUrl(file);
};
new Line(api, () => log.newest, {
  events: (events) => {
    const { added, removed } = log.take(events);
    changeEmotes(emotes, events);
    removed.forEach(takeOut);
    fresh = [...fresh, ...added].filter(({ id }) => !removed.includes(id));
  },
  // A picture has nobody to tell them to.
  state: () => undefined,
  you: () => undefined,
  settings: () => undefined,
  emotes: (all) => (emotes = all),
  delayed: () => undefined,
  skipped: () => undefined,
});
setInterval(draw, DRAW_MS);

function draw(): void {
  if (fresh.length === 0) return;
  const elapsedMs = Math.min(2_000, performance.now() - lastDrawn);
  lastDrawn = performance.now();
  const { shown } = sample(fresh, Math.ceil((READABLE * elapsedMs) / 1_000), ({ roles }) => roles.includes('streamer'));
  fresh = [];
  for (const message of shown) {
    const row = drawRow(message, make('span', 'chat-who', message.name), { answered: undefined, concerns: false, emote });
    rows.set(message.id, row);
    list.append(row);
    if (fadeMs > 0) setTimeout(() => fade(message.id), fadeMs);
  }
  while (list.childElementCount > SHOWN) takeOut(list.firstElementChild?.getAttribute('data-id') ?? '');
  log.trim();
}

function fade(id: string): void {
  rows.get(id)?.classList.add('overlay-goes');
  setTimeout(() => takeOut(id), GOES_MS);
}

function takeOut(id: string): void {
  rows.get(id)?.remove();
  rows.delete(id);
}

/** A number that the address gives, as far as it makes sense. */
function within(name: string, least: number, most: number, otherwise: number): number {
  const given = Number(query.get(name) ?? Number.NaN);
  return Number.isFinite(given) ? Math.min(most, Math.max(least, given)) : otherwise;
}
