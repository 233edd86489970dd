/** The studio of a stream: lets in who holds its key, then shows how the broadcast is sent and watched. */
import '../style/base.css';
import '../style/dialogs.css';
import '../style/studio.css';
import { backoffMs } from '../shared/backoff';
import { byId, setText } from '../shared/dom';
import { fetchAccess } from '../shared/recordings';
import { keepKey, recallKey } from '../watch/key';
import { drawGate } from './gate';

const RETRY = { firstMs: 1_000, longestMs: 8_000 };

// The watch page's own way to read its address would be a file more for its first picture.
const stream = decodeURIComponent(location.pathname.split('/')[2] ?? '');
const gate = byId('gate', HTMLElement);
const office = byId('office', HTMLElement);
/** Whether it is live, which is told inside. */
const head = byId('state', HTMLElement);
/** What is shown with a key. */
let opened: { close(): void } | null = null;

function ask(why: string): void {
  opened?.close();
  opened = null;
  keepKey(stream, null);
  office.hidden = true;
  gate.hidden = false;
  head.hidden = true;
  drawGate(gate, stream, why, (key) => void open(key));
}

async function open(key: string): Promise<void> {
  keepKey(stream, key);
  const { Office } = await import('./office');
  gate.hidden = true;
  head.hidden = false;
  gate.replaceChildren();
  office.hidden = false;
  opened = new Office(office, { stream, key }, ask);
}

/** A key that is kept may be good no more. */
async function begin(): Promise<void> {
  const key = recallKey(stream);
  if (key === null) return ask('');
  for (let tries = 0; ; tries += 1) {
    const answer = await fetchAccess(stream, null, key);
    if (answer.kind === 'ok' && answer.value.role !== 'viewer') return open(key);
    if (answer.kind === 'ok' || answer.kind === 'refused') return ask('The key of before is not good any more.');
    if (answer.kind !== 'unreachable') return ask(answer.words);
    setText(byId('uptime', HTMLElement), 'The server does not answer. Trying again until it does.');
    await new Promise((done) => setTimeout(done, backoffMs(RETRY, tries, Math.random())));
  }
}

document.title = `${stream} · Studio · Weir`;
setText(byId('name', HTMLElement), stream);
byId('watch-link', HTMLAnchorElement).href = `/watch/${encodeURIComponent(stream)}`;
void begin();
