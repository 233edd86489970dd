/** What can be done with what is on screen: clip it, download it, manage it. The dialogs are loaded when they are first opened. */
import type { Failure } from '../shared/api';
import { byId, make, setText } from '../shared/dom';
import { quality, size } from '../shared/format';
import { fetchAccess, lengthOf, makeClip, type Access, type Broadcast, type Cut } from '../shared/recordings';
import { broadcastUrl } from './ticket';
import { download } from './download';
import { keepKey, recallKey } from './key';
import type { Context } from './rest';

/** Seconds before the playhead that one click clips. */
const CLIP = 30;

export interface ActionsContext extends Context {
  /** A broadcast has a new title or note. */
  onChanged(broadcast: Broadcast): void;
}

export class Actions {
  #context: ActionsContext;
  #said = byId('actions-said', HTMLElement);
  #clip = make('button', 'button', `Clip the last ${CLIP} s`);
  #download = make('details', 'menu');
  #downloads = make('ul', 'menu-list');
  #manage = make('button', 'button quiet', 'Manage');
  #access: Access = { role: 'viewer', mayClip: false };
  #key: string | null;
  #asked: string | null = null;
  #listed = '';
  #busy = false;

  constructor(context: ActionsContext) {
    this.#context = context;
    this.#key = recallKey(context.place.stream);
    this.#clip.type = 'button';
    this.#manage.type = 'button';
    this.#download.append(make('summary', 'button quiet', 'Download'), this.#downloads);
    this.#clip.hidden = this.#download.hidden = this.#manage.hidden = true;
    byId('actions', HTMLElement).append(this.#clip, this.#download, this.#manage);
    this.#clip.addEventListener('click', () => void this.#makeClip());
    this.#manage.addEventListener('click', () => void this.#openManage());
    closesLikeAMenu(this.#download);
  }

  draw(): void {
    const context = this.#context;
    const stream = context.stream();
    if (stream === null) {
      this.#clip.hidden = this.#download.hidden = this.#manage.hidden = true;
      return;
    }
    this.#ask();
    const { role, mayClip } = this.#access;
    const there = context.loadedBroadcast() !== null && (context.place.clip === null || context.broadcast() !== null);
    this.#clip.hidden = !(mayClip || role !== 'viewer') || !there || !context.player.begun;
    this.#clip.disabled = this.#busy;
    this.#manage.hidden = false;
    this.#drawDownloads();
  }

  /** Asks what this viewer may do: once, and again with another key or ticket. */
  #ask(): void {
    const { place, ticket } = this.#context;
    const asked = JSON.stringify([ticket(), this.#key]);
    if (asked === this.#asked) return;
    this.#asked = asked;
    const key = this.#key;
    void fetchAccess(place.stream, ticket(), key).then((answer) => {
      if (asked !== this.#asked) return;
      if (answer.kind === 'ok') this.#access = answer.value;
      // A key that was good and is no more: a viewer again.
      else if (key !== null && answer.kind === 'refused') this.#setKey(null);
      this.draw();
    });
  }

  #setKey(key: string | null): void {
    this.#key = key;
    keepKey(this.#context.place.stream, key);
    if (key === null) this.#access = { role: 'viewer', mayClip: false };
    this.draw();
  }

  /** The renditions of a finished recording or of a clip. */
  #drawDownloads(): void {
    const { place } = this.#context;
    const [broadcast, clip] = [this.#context.broadcast(), this.#context.clip()];
    const whole = broadcast !== null && broadcast.state === 'ended' && place.broadcast !== null;
    const base = clip !== null ? clip.download : whole ? broadcastUrl(broadcast.stream, broadcast.id, null).replace(/m3u8$/, 'mp4') : '';
    this.#download.hidden = base === '';
    const renditions = broadcast?.renditions ?? [];
    const listed = JSON.stringify([renditions, base]);
    if (base === '' || listed === this.#listed) return;
    this.#listed = listed;
    const lasts = clip === null ? (broadcast === null ? 0 : (lengthOf(broadcast) ?? 0)) : clip.to - clip.from;
    // The best first, sound alone last.
    const choices = renditions.length === 0 ? [null] : [...renditions].sort((a, b) => (b.height ?? 0) - (a.height ?? 0) || b.kbps - a.kbps);
    this.#downloads.replaceChildren(
      ...choices.map((rendition) => {
        const path = rendition === null ? base : `${base}${base.includes('?') ? '&' : '?'}rendition=${encodeURIComponent(rendition.name)}`;
        const called = rendition === null ? 'Best quality' : `${quality(rendition.width ?? 0, rendition.height ?? 0)}${rendition.name === 'source' ? ' source' : ''}`;
        const about = rendition === null ? 0 : (rendition.kbps * 1000 * lasts) / 8;
        const link = make('a', 'menu-item', make('span', '', called), make('span', 'muted', about > 0 ? `MP4, about ${size(about)}` : 'MP4'));
        link.href = path;
        link.addEventListener('click', (event) => {
          event.preventDefault();
          this.#download.open = false;
          void this.#fetch(path);
        });
        return make('li', '', link);
      }),
    );
  }

  async #fetch(path: string): Promise<void> {
    setText(this.#said, 'The download is being prepared.');
    const failure = await download(path, this.#context.ticket());
    setText(this.#said, failure === null ? 'The download has started.' : `It cannot be downloaded: ${failure.words}`);
  }

  async #makeClip(): Promise<void> {
    const { ticket } = this.#context;
    const broadcast = this.#context.loadedBroadcast();
    const cut = this.#cut();
    if (broadcast === null || cut === null) {
      setText(this.#said, 'There is nothing to clip yet.');
      return;
    }
    this.#busy = true;
    setText(this.#clip, 'Clipping…');
    const answer = await makeClip(broadcast, cut, ticket(), this.#key);
    this.#busy = false;
    setText(this.#clip, `Clip the last ${CLIP} s`);
    this.draw();
    if (answer.kind !== 'ok') return this.#tell('No clip was made', answer);
    setText(this.#said, '');
    const { openClip } = await import('./dialogs/clip');
    openClip({ clip: answer.value, ticket, key: this.#key, renditions: this.#context.broadcast()?.renditions ?? [] });
  }

  /** The seconds before the playhead; null when nothing was played. */
  #cut(): Cut | null {
    const { rewind, player } = this.#context;
    const { times } = rewind;
    if (times === null) return null;
    const shift = this.#context.clip()?.from ?? 0;
    const to = times.position + shift;
    const from = Math.max(0, to - CLIP);
    if (player.whole) return { from: round(from), to: round(to), title: '' };
    // The live window does not say where in the broadcast it is, only when.
    const [fromMs, toMs] = [rewind.dateMs(from), rewind.dateMs(to)];
    if (fromMs === null || toMs === null) return null;
    return { from: new Date(fromMs).toISOString(), to: new Date(toMs).toISOString(), title: '' };
  }

  #tell(what: string, { kind, words }: Failure): void {
    if (kind === 'refused') this.#asked = null;
    setText(this.#said, `${what}: ${words}`);
  }

  async #openManage(): Promise<void> {
    const { openManage } = await import('./dialogs/manage');
    openManage({
      ...this.#context,
      key: () => this.#key,
      access: () => this.#access,
      enter: (key, access) => {
        this.#setKey(key);
        this.#asked = JSON.stringify([this.#context.ticket(), key]);
        this.#access = access;
        this.draw();
      },
      leave: () => this.#setKey(null),
    });
  }
}

function round(seconds: number): number {
  return Math.round(seconds * 1000) / 1000;
}

/** Lets a `<details>` close as menus do: by Escape, by a click elsewhere, when the focus leaves it. */
function closesLikeAMenu(menu: HTMLDetailsElement): void {
  menu.addEventListener('keydown', (event) => {
    if (event.key !== 'Escape' || !menu.open) return;
    menu.open = false;
    menu.querySelector('summary')?.focus();
  });
  menu.addEventListener('focusout', (event) => {
    if (event.relatedTarget instanceof Node && !menu.contains(event.relatedTarget)) menu.open = false;
  });
  document.addEventListener('click', (event) => {
    if (event.target instanceof Node && !menu.contains(event.target)) menu.open = false;
  });
}
