/** What the stream plays now, under its name: asked for every few seconds, and drawn when it has changed. */
import { ask, isObject, text } from '../shared/api';
import { backoffMs, poll } from '../shared/backoff';
import { byId, setText } from '../shared/dom';
import { ticketed } from '../shared/ticketed';

const AGAIN = { firstMs: 4_000, longestMs: 4_000 };
/** Where nobody looks at the page, or the server does not answer. */
const SELDOM = { firstMs: 20_000, longestMs: 60_000 };

interface Now {
  title: string;
  artist: string;
  /** An address of http, https or of this server; empty where there is none. */
  artwork: string;
}

export function start(id: string, ticket: () => string | null): void {
  const line = byId('playing', HTMLElement);
  const title = byId('playing-title', HTMLElement);
  const artist = byId('playing-artist', HTMLElement);
  const picture = byId('playing-artwork', HTMLImageElement);
  let failures = 0;
  let drawn = '';

  const draw = (now: Now): void => {
    setText(title, now.title);
    setText(artist, now.artist);
    line.hidden = now.title === '' && now.artist === '' && now.artwork === '';
    if (now.artwork === drawn) return;
    drawn = now.artwork;
    picture.hidden = true;
    if (now.artwork === '') picture.removeAttribute('src');
    else picture.src = now.artwork;
  };
  // What cannot be loaded leaves no hole.
  picture.addEventListener('load', () => (picture.hidden = false));
  picture.addEventListener('error', () => (picture.hidden = true));

  poll(async () => {
    const answer = await ask({ url: ticketed(`/api/v1/streams/${encodeURIComponent(id)}/now`, ticket()), cached: true }, readNow);
    failures = answer.kind === 'ok' ? 0 : failures + 1;
    if (answer.kind === 'ok') draw(answer.value);
    return failures > 0 ? backoffMs(SELDOM, failures, Math.random()) : backoffMs(document.hidden ? SELDOM : AGAIN, 0, Math.random());
  });
}

/** Reads what the server tells; null when it is nothing of the kind. */
export function readNow(body: unknown): Now | null {
  if (!isObject(body)) return null;
  const artwork = text(body['artwork']) ?? '';
  return { title: text(body['title']) ?? '', artist: text(body['artist']) ?? '', artwork: /^(https?:\/\/|\/(?!\/))/.test(artwork) ? artwork : '' };
}
