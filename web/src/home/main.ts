/** The page of who is live: cards, those that most people watch first, refreshed every ten seconds; and how to stream from OBS. */
import '../style/base.css';
import '../style/home.css';
import { fetchLive, type Answer, type Live, type Stream } from '../shared/api';
import { art } from '../shared/art';
import { backoffMs, poll } from '../shared/backoff';
import { byId, make, setText } from '../shared/dom';
import { quality, since, watching } from '../shared/format';
import { byViewers } from './order';

const REFRESH = { firstMs: 10_000, longestMs: 10_000 };
/** Streams of one page of the list. */
const PAGE = 48;
const RETRY = { firstMs: 2_000, longestMs: 10_000 };
/** A picture of what is live is renewed this often, at the same moments for everyone: one copy in a cache serves all. */
const POSTER_MS = 30_000;
/** Until the node has told its own. */
const RTMP_PORT = 1935;

const cards = byId('cards', HTMLElement);
const more = byId('more', HTMLButtonElement);
const empty = byId('empty', HTMLElement);
const summary = byId('summary', HTMLElement);
const how = byId('how', HTMLDetailsElement);
const server = byId('server', HTMLInputElement);
const copyServer = byId('copy-server', HTMLButtonElement);

interface Card {
  link: HTMLElement;
  picture: HTMLElement;
  /** The address of the poster shown or on its way; empty when there is none. */
  poster: string;
  badge: HTMLElement;
  viewers: HTMLElement;
  playing: HTMLElement;
  line: HTMLElement;
}

/** Cards by stream, kept from one refresh to the next so that focus and drawings stay. */
const shown = new Map<string, Card>();
/** Pages of the list that are shown. */
let pages = 1;
let failures = 0;
let answered = false;

/** The pages of the list that are shown, as one. */
async function askPages(): Promise<Answer<Live>> {
  const streams = new Map<string, Stream>();
  let after: string | null = null;
  for (let page = 1; ; page += 1) {
    const answer: Answer<Live> = await fetchLive(after, PAGE);
    if (answer.kind !== 'ok') return answer;
    // One that has moved on in the list meanwhile is there once.
    for (const stream of answer.value.streams) streams.set(stream.id, stream);
    after = answer.value.next;
    if (after === null || page >= pages) return { ...answer, value: { ...answer.value, streams: [...streams.values()] } };
  }
}

function draw({ streams, next }: Live, clockOffsetMs: number): void {
  const live = byViewers(streams.filter((stream) => stream.state === 'live' || stream.state === 'away'));
  const ids = new Set(live.map((stream) => stream.id));
  for (const [id, card] of shown) {
    if (ids.has(id)) continue;
    card.link.parentElement?.remove();
    shown.delete(id);
  }
  for (const stream of live) {
    let card = shown.get(stream.id);
    if (card === undefined) {
      card = makeCard(stream.id);
      shown.set(stream.id, card);
    }
    card.badge.dataset['state'] = stream.state;
    setText(card.badge, stream.state === 'away' ? 'Away' : 'Live');
    setText(card.viewers, watching(stream.viewers));
    setText(card.playing, [stream.now?.title, stream.now?.artist].filter(Boolean).join(' · '));
    setText(card.line, describe(stream, Date.now() + clockOffsetMs));
    void showPoster(card, stream.poster);
  }
  // Not under the hand of who is about to choose one.
  if (!cards.matches(':hover, :focus-within')) arrange(live);
  more.hidden = next === null;
  cards.hidden = live.length === 0;
  empty.hidden = live.length > 0;
  setText(summary, live.length === 0 ? '' : live.length === 1 ? 'one stream' : `${live.length}${next === null ? '' : ' or more'} streams`);
  if (!answered) how.open = live.length === 0;
  answered = true;
}

/** Puts the cards in the order of the streams; those that are in it already stay untouched. */
function arrange(streams: Stream[]): void {
  streams.forEach(({ id }, i) => {
    const item = shown.get(id)?.link.parentElement;
    const there = cards.children[i] ?? null;
    if (item != null && item !== there) cards.insertBefore(item, there);
  });
}

function makeCard(id: string): Card {
  const badge = make('span', 'badge');
  const line = make('p', 'card-line');
  const viewers = make('span', 'card-viewers');
  const playing = make('p', 'card-playing');
  const picture = make('div', 'card-picture', art(id), badge, viewers);
  const link = make(
    'a',
    'card',
    picture,
    make('div', 'card-body', make('h2', 'card-name', id), playing, line),
  );
  link.href = `/watch/${encodeURIComponent(id)}`;
  cards.append(make('li', '', link));
  return { link, picture, poster: '', badge, viewers, playing, line };
}

/** Puts the newest picture of a stream over the drawn one, once it is here; without one the drawn one stays. */
async function showPoster(card: Card, path: string | null): Promise<void> {
  const shown = card.picture.querySelector('img');
  if (path === null) {
    card.poster = '';
    shown?.remove();
    return;
  }
  const address = `${path}${path.includes('?') ? '&' : '?'}at=${Math.floor(Date.now() / POSTER_MS)}`;
  if (address === card.poster) return;
  card.poster = address;
  const image = new Image(320, 180);
  image.alt = '';
  image.src = address;
  try {
    await image.decode();
  } catch {
    // There is none yet, or the server is busy: it is asked for again at the next turn.
    return;
  }
  if (card.poster !== address) return;
  card.picture.querySelector('img')?.remove();
  card.picture.querySelector('.art')?.after(image);
}

/** `live for 12 min · up to 720p`. */
function describe(stream: Stream, nowMs: number): string {
  const parts: string[] = [];
  const begun = stream.started === null ? Number.NaN : Date.parse(stream.started);
  if (!Number.isNaN(begun)) {
    const lasted = since(begun, nowMs);
    parts.push(lasted === 'just now' ? lasted : `live for ${lasted}`);
  }
  const best = stream.renditions.reduce((most, r) => Math.max(most, Math.min(r.width ?? 0, r.height ?? 0)), 0);
  if (stream.mode === 'audio-only') parts.push('sound only');
  else if (best > 0) parts.push(`up to ${quality(best, best)}`);
  return parts.join(' · ');
}

/** What OBS wants as its server. */
function rtmpServer(port: number): string {
  const host = location.hostname || 'localhost';
  return `rtmp://${host.includes(':') ? `[${host.replace(/[[\]]/g, '')}]` : host}:${port}/live`;
}

server.value = rtmpServer(RTMP_PORT);
setText(byId('watch-form', HTMLElement), `${location.origin}/watch/`);
byId('watch-form', HTMLElement).append(make('i', '', 'name'));
byId('empty-art', HTMLElement).append(art('weir'));
copyServer.addEventListener('click', () => {
  server.select();
  // The clipboard needs https or localhost; elsewhere the selected text is what is left to copy.
  const copied = navigator.clipboard?.writeText(server.value) ?? Promise.reject(new Error('no clipboard'));
  copied.then(
    () => setText(copyServer, 'Copied'),
    () => setText(copyServer, 'Press Ctrl+C'),
  );
  setTimeout(() => setText(copyServer, 'Copy'), 3_000);
});

more.addEventListener('click', () => {
  pages += 1;
  more.disabled = true;
  const last = cards.lastElementChild;
  void askPages().then((answer) => {
    more.disabled = false;
    if (answer.kind !== 'ok') {
      pages -= 1;
      return setText(summary, 'The server does not answer. Try again in a moment.');
    }
    draw(answer.value, answer.clockOffsetMs);
    // The button may be gone, and is far below what came.
    last?.nextElementSibling?.querySelector('a')?.focus({ preventScroll: true });
  });
});

poll(async () => {
  const answer = await askPages();
  if (answer.kind === 'ok') {
    failures = 0;
    draw(answer.value, answer.clockOffsetMs);
    if (answer.value.rtmpPort !== null) server.value = rtmpServer(answer.value.rtmpPort);
    return backoffMs(REFRESH, 0, Math.random());
  }
  setText(summary, 'The server does not answer. Trying again.');
  failures += 1;
  return backoffMs(RETRY, failures, Math.random());
});
