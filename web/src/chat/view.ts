/** The chat as people see it: the list, the line to write in, and what moderators may do. */
import { byId, make, setText } from '../shared/dom';
import { fillPanel } from './panel';
import { drawRow, picture } from './row';
import type { Refusal, State } from './line';
import type { Acted, You } from './api';
import { Log, READABLE, changeEmotes, mentions, sample, type Emotes, type Event, type Message, type Settings } from './log';

/** Messages that stand in the page: what scrolls out above is taken out, and read again when it is scrolled to. */
const SHOWN = 150;
/** Within so many pixels of its end the list follows what comes. */
const AT_END = 60;
/** Pictures that are offered beside a chat's own. */
const EMOJI = [...'😀😂🥹😍😎🤔😮😢😡👍👎👏🙌🙏💪🔥❤💯🎉✨👀🚀🎮🎵⚽🍿☕🌈🐱🐶'];
/** Looks at what has come, where more comes than can be read. */
const BUSY_MS = 250;

/** What the view asks for. */
export interface Wishes {
  say(text: string, reply: string | null): Promise<Acted | Refusal>;
  act(act: object): Promise<Acted | Refusal>;
  name(name: string): Promise<string | null>;
  older(before: string): Promise<{ messages: Message[]; more: boolean } | null>;
  /** Who the reader is, where that is asked only when it matters. */
  who?(): Promise<You | null>;
  /** Opens what moderators look at. */
  moderate(): void;
  /** Where the picture of an emote is. */
  pictureUrl(file: string): string;
}

/** What a chat is shown for: to take part, or beside a recording. */
export type Kind = 'live' | 'replay';

export class View {
  private readonly panel = filled();
  private readonly list = byId('chat-list', HTMLElement);
  private readonly form = byId('chat-form', HTMLFormElement);
  private readonly input = byId('chat-input', HTMLTextAreaElement);
  private readonly sendButton = byId('chat-send', HTMLButtonElement);
  private readonly nameForm = byId('chat-name', HTMLFormElement);
  private readonly nameInput = byId('chat-name-input', HTMLInputElement);
  private readonly said = byId('chat-said', HTMLElement);
  private readonly jump = byId('chat-jump', HTMLButtonElement);
  private readonly rules = byId('chat-rules', HTMLElement);
  private readonly menu = byId('chat-menu', HTMLElement);
  private readonly log = new Log();
  private readonly rows = new Map<string, HTMLElement>();
  private readonly picker = byId('chat-picker', HTMLElement);
  private readonly moderating = byId('chat-moderate', HTMLButtonElement);
  private emotes: Emotes = new Map();
  private you: You | null = null;
  private reply: Message | null = null;
  /** New messages that are not drawn yet. */
  private fresh: Message[] = [];
  private drawing = false;
  private lastDrawn = Number.NEGATIVE_INFINITY;
  private more = true;
  private asking = false;
  /** Missed while the reader is further up. */
  private below = 0;
  private mayWriteAt = 0;

  constructor(
    private readonly kind: Kind,
    private readonly wishes: Wishes,
  ) {
    if (kind === 'replay') setText(byId('chat-title', HTMLElement), 'Chat replay');
    this.form.addEventListener('submit', (event) => {
      event.preventDefault();
      void this.send();
    });
    this.nameForm.addEventListener('submit', (event) => {
      event.preventDefault();
      void this.choose();
    });
    this.input.addEventListener('keydown', (event) => {
      if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        void this.send();
      } else if (event.key === 'Escape' && this.reply !== null) {
        this.setReply(null);
      }
    });
    this.input.addEventListener('input', () => this.fit());
    this.list.addEventListener('scroll', () => this.scrolled(), { passive: true });
    this.list.addEventListener('click', (event) => this.clicked(event));
    this.jump.addEventListener('click', () => this.toEnd());
    this.menu.addEventListener('toggle', () => {
      if (!this.menu.matches(':popover-open')) this.menu.replaceChildren();
    });
    byId('chat-reply-off', HTMLButtonElement).addEventListener('click', () => this.setReply(null));
    this.moderating.addEventListener('click', () => wishes.moderate());
    byId('chat-pick', HTMLButtonElement).addEventListener('click', (event) => this.openPicker(event.currentTarget as Element));
    byId('chat-rename', HTMLButtonElement).addEventListener('click', () => this.askName());
  }

  get newest(): string | null {
    return this.log.newest;
  }

  setState(state: State): void {
    this.panel.hidden = state === 'off';
    this.panel.dataset['state'] = state;
    if (state === 'connecting') this.tell('Connecting…');
    else if (this.said.textContent === 'Connecting…') this.tell('');
  }

  setYou(you: You | null): void {
    this.you = you;
    this.form.hidden = you === null || this.kind === 'replay';
    this.nameForm.hidden = you !== null || this.kind === 'replay';
    setText(byId('chat-you', HTMLElement), you === null ? '' : you.name);
    this.panel.dataset['staff'] = String(this.isStaff());
    this.moderating.hidden = !this.isStaff() || this.kind === 'replay';
  }

  /** So many messages wait for a moderator. */
  setWaiting(count: number): void {
    setText(this.moderating, count === 0 ? 'Moderate' : `Moderate (${count})`);
  }

  /** What is said is told at once, and stored later. */
  setDelayed(delayed: boolean): void {
    if (delayed) this.tell('The history is delayed: what is said here is stored later.');
  }

  setEmotes(emotes: Emotes): void {
    this.emotes = emotes;
  }

  setSettings(settings: Settings): void {
    const rules = [
      settings.slow > 0 ? `Slow mode: one message each ${settings.slow} s.` : '',
      settings.ticketsOnly ? 'Only viewers with a ticket may write.' : '',
      settings.emotesOnly ? 'Only emotes and pictures.' : '',
      settings.noLinks ? 'No links.' : '',
      settings.holdAll ? 'A moderator looks at each message first.' : '',
    ];
    const text = rules.filter((rule) => rule !== '').join(' ');
    setText(this.rules, text);
    this.rules.hidden = text === '';
  }

  take(events: Event[]): void {
    const { added, removed } = this.log.take(events);
    removed.forEach((id) => this.takeOut(id));
    this.fresh = this.fresh.filter((message) => !removed.includes(message.id));
    const settings = events.some((event) => event.type === 'room') ? this.log.settings : null;
    if (settings !== null) this.setSettings(settings);
    changeEmotes(this.emotes, events);
    if (added.length === 0) return;
    this.fresh.push(...added);
    if (this.drawing) return;
    this.drawing = true;
    // At once where it is quiet; where it is not, all of a while together.
    const waitMs = Math.max(0, this.lastDrawn + BUSY_MS - performance.now());
    setTimeout(() => requestAnimationFrame(() => this.draw()), this.fresh.length > 2 ? waitMs : Math.min(waitMs, 50));
  }

  /** Forgets all that it shows. */
  clear(): void {
    this.log.clear();
    this.rows.clear();
    this.list.replaceChildren();
    this.fresh = [];
    this.more = true;
    this.below = 0;
    this.drawJump();
  }

  /** Where all of it can be had as a file; nothing: nowhere. */
  setExport(url: string | null): void {
    const link = byId('chat-export', HTMLAnchorElement);
    link.hidden = url === null;
    if (url !== null) link.href = url;
  }

  /** Where the chat can be had in a window of its own. */
  setOut(url: string): void {
    const link = byId('chat-out', HTMLAnchorElement);
    link.hidden = false;
    link.href = url;
  }

  /** Takes out what a moderator has taken back, where no event tells of it. */
  takeBack(act: object, id: string): void {
    const { type, message, user }: { type?: unknown; message?: unknown; user?: unknown } = act;
    if (type === 'delete') this.take([{ type, id, message: String(message) }]);
    else if (type === 'purge' || type === 'ban') this.take([{ type: 'purge', id, user: String(user) }]);
  }

  skipped(count: number): void {
    this.note(`${count} messages went by too fast`);
  }

  private draw(): void {
    const elapsedMs = Math.min(2_000, performance.now() - this.lastDrawn);
    this.drawing = false;
    this.lastDrawn = performance.now();
    const room = Math.max(3, Math.ceil((READABLE * elapsedMs) / 1_000));
    const { shown, left } = sample(this.fresh, room, (message) => this.concerns(message));
    this.fresh = [];
    const follows = this.atEnd();
    const made = shown.map((message) => this.row(message));
    for (const [at, message] of shown.entries()) this.place(message, made[at]!);
    if (left > 0) this.note(`and ${left} more`);
    this.log.trim();
    if (follows) {
      this.cut();
      this.list.scrollTop = this.list.scrollHeight;
    } else {
      this.below += shown.length + left;
      this.drawJump();
    }
    // A crowd is not read out.
    this.list.setAttribute('aria-live', shown.length + left > 3 ? 'off' : 'polite');
  }

  /** Puts a row where its id belongs: nearly always at the end. */
  private place(message: Message, row: HTMLElement): void {
    const own = message.nonce === null ? undefined : this.rows.get(`pending ${message.nonce}`);
    if (own !== undefined) {
      this.rows.delete(`pending ${message.nonce}`);
      own.remove();
    }
    this.rows.set(message.id, row);
    let after = this.list.lastElementChild;
    while (after !== null && (after.getAttribute('data-id') ?? '') > message.id) after = after.previousElementSibling;
    if (after === null) this.list.prepend(row);
    else after.after(row);
  }

  private row(message: Message): HTMLElement {
    const name = make('button', 'chat-who', message.name);
    name.type = 'button';
    name.title = `Mention ${message.name}`;
    const more = make('button', 'chat-more', '⋯');
    more.type = 'button';
    more.setAttribute('aria-label', `What to do with ${message.name}'s message`);
    const answered = message.reply === null ? undefined : this.log.messages.find(({ id }) => id === message.reply);
    return drawRow(message, name, { answered, concerns: this.isMention(message), emote: this.emote }, more);
  }

  private readonly emote = (name: string): string | undefined => {
    const file = this.emotes.get(name);
    return file === undefined ? undefined : this.wishes.pictureUrl(file);
  };

  private isMention(message: Message): boolean {
    return this.you !== null && message.user !== this.you.user && mentions(message.text, this.you.name);
  }

  private concerns(message: Message): boolean {
    return message.user === this.you?.user || message.roles.includes('streamer') || message.roles.includes('moderator') || this.isMention(message);
  }

  private note(text: string): void {
    const last = this.list.lastElementChild;
    const row = make('div', 'chat-note', text);
    row.dataset['id'] = last?.getAttribute('data-id') ?? '';
    this.list.append(row);
  }

  private takeOut(id: string): void {
    this.rows.get(id)?.remove();
    this.rows.delete(id);
  }

  /** Takes out what stands far above, while the end is read. */
  private cut(): void {
    while (this.list.childElementCount > SHOWN) {
      const first = this.list.firstElementChild!;
      this.rows.delete(first.getAttribute('data-id') ?? '');
      first.remove();
      this.more = true;
    }
  }

  private atEnd(): boolean {
    return this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < AT_END;
  }

  private scrolled(): void {
    if (this.atEnd()) {
      this.below = 0;
      this.drawJump();
    } else if (this.list.scrollTop < 200) {
      void this.older();
    }
  }

  private async older(): Promise<void> {
    const first = this.list.querySelector('[data-id]:not(.chat-note)')?.getAttribute('data-id');
    if (this.asking || !this.more || first == null) return;
    this.asking = true;
    const found = await this.wishes.older(first);
    this.asking = false;
    if (found === null) return this.tell('What was said before cannot be read now. It comes back by itself.');
    this.more = found.more;
    this.log.takeOlder(found.messages);
    const height = this.list.scrollHeight - this.list.scrollTop;
    for (const message of found.messages) if (!this.rows.has(message.id)) this.place(message, this.row(message));
    this.list.scrollTop = this.list.scrollHeight - height;
  }

  private toEnd(): void {
    this.cut();
    this.list.scrollTop = this.list.scrollHeight;
  }

  private drawJump(): void {
    this.jump.hidden = this.below === 0;
    setText(this.jump, `${this.below > 99 ? '99+' : this.below} new ↓`);
  }

  private fit(): void {
    this.input.style.height = 'auto';
    this.input.style.height = `${Math.min(this.input.scrollHeight, 120)}px`;
  }

  private async send(): Promise<void> {
    const text = this.input.value.trim();
    if (text === '' || this.you === null) return;
    if (performance.now() < this.mayWriteAt) return;
    this.input.value = '';
    this.fit();
    const reply = this.reply?.id ?? null;
    this.setReply(null);
    // Seen at once; what comes back takes its place.
    const pending = make('div', 'chat-row chat-pending', make('span', 'chat-who', this.you.name), make('span', 'chat-text', text));
    pending.dataset['id'] = '~';
    this.list.append(pending);
    this.list.scrollTop = this.list.scrollHeight;
    const answer = await this.wishes.say(text, reply);
    pending.remove();
    if ('id' in answer) return this.tell(answer.held ? 'A moderator looks at it first.' : '');
    // Nothing that was written is lost.
    if (this.input.value === '') this.input.value = text;
    this.fit();
    this.refused(answer);
  }

  /** Says why not, and counts down to when it may be tried again. */
  private refused({ text, retryMs }: Refusal): void {
    const words = `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;
    if (retryMs === null || retryMs > 600_000) return this.tell(words);
    this.mayWriteAt = performance.now() + retryMs;
    this.sendButton.disabled = true;
    const count = (): void => {
      const left = Math.ceil((this.mayWriteAt - performance.now()) / 1_000);
      this.sendButton.disabled = left > 0;
      this.tell(left > 0 ? `${words} You may write again in ${left} s.` : '');
      if (left > 0) setTimeout(count, 1_000);
    };
    count();
  }

  /** Emotes of this chat and some pictures, to be put where the cursor is. */
  private openPicker(at: Element): void {
    const put = (text: string): void => {
      this.picker.hidePopover();
      const { selectionStart: from, selectionEnd: to, value } = this.input;
      const before = from === 0 || value[from - 1] === ' ' ? '' : ' ';
      this.input.setRangeText(`${before}${text} `, from, to, 'end');
      this.input.focus();
    };
    const choices = [...this.emotes.keys()].map((name) => {
      const button = make('button', 'chat-choice', picture(`:${name}:`, this.emote(name) ?? ''));
      button.addEventListener('click', () => put(`:${name}:`));
      return button;
    });
    for (const emoji of EMOJI) {
      const button = make('button', 'chat-choice', emoji);
      button.addEventListener('click', () => put(emoji));
      choices.push(button);
    }
    choices.forEach((button) => (button.type = 'button'));
    this.picker.replaceChildren(...choices);
    this.picker.showPopover();
    const box = at.getBoundingClientRect();
    this.picker.style.top = `${Math.max(8, box.top - this.picker.offsetHeight - 6)}px`;
    this.picker.style.left = `${Math.max(8, box.right - this.picker.offsetWidth)}px`;
    choices[0]?.focus();
  }

  private async choose(): Promise<void> {
    const button = byId('chat-name-go', HTMLButtonElement);
    button.disabled = true;
    const why = await this.wishes.name(this.nameInput.value);
    button.disabled = false;
    this.tell(why ?? '');
    if (why === null) this.input.focus();
    else this.nameInput.focus();
  }

  private askName(): void {
    this.nameInput.value = this.you?.name ?? '';
    this.form.hidden = true;
    this.nameForm.hidden = false;
    this.nameInput.focus();
  }

  private setReply(message: Message | null): void {
    this.reply = message;
    byId('chat-reply', HTMLElement).hidden = message === null;
    setText(byId('chat-reply-to', HTMLElement), message === null ? '' : `Answer to ${message.name}`);
    if (message !== null) this.input.focus();
  }

  private clicked(event: MouseEvent): void {
    const target = event.target instanceof Element ? event.target : null;
    const row = target?.closest<HTMLElement>('.chat-row');
    const message = this.log.messages.find(({ id }) => id === row?.dataset['id']);
    if (message === undefined) return;
    if (target?.matches('.chat-who') === true) {
      if (this.kind === 'replay') return;
      if (this.you === null) return this.nameInput.focus();
      this.input.value = `${this.input.value}${this.input.value === '' || this.input.value.endsWith(' ') ? '' : ' '}@${message.name} `;
      this.input.focus();
    } else if (target?.matches('.chat-more') === true) {
      void this.openMenu(message, target);
    }
  }

  private isStaff(): boolean {
    return this.you?.roles.some((role) => role === 'streamer' || role === 'moderator') ?? false;
  }

  /** What may be done with a message. */
  private async openMenu(message: Message, at: Element): Promise<void> {
    const you = await this.wishes.who?.();
    if (you !== undefined) this.setYou(you);
    const own = message.user === this.you?.user;
    const wishes: [string, () => void][] = [];
    const does = (label: string, act: object): unknown => wishes.push([label, () => void this.does(act)]);
    if (this.you !== null && this.kind === 'live') wishes.push(['Answer', () => this.setReply(message)]);
    if (own || this.isStaff()) does('Delete', { type: 'delete', message: message.id });
    if (!own && this.isStaff()) {
      does('Time out for 10 minutes', { type: 'ban', user: message.user, seconds: 600 });
      does('Remove all of it', { type: 'purge', user: message.user });
      does(`Ban ${message.name}`, { type: 'ban', user: message.user });
    }
    if (!own && this.you?.roles.includes('streamer') === true) {
      const on = !message.roles.includes('moderator');
      does(on ? 'Make moderator' : 'No longer a moderator', { type: 'moderator', user: message.user, on });
    }
    const buttons = wishes.map(([label, does]) => {
      const button = make('button', 'chat-wish', label);
      button.type = 'button';
      button.addEventListener('click', () => {
        this.menu.hidePopover();
        does();
      });
      return button;
    });
    this.menu.replaceChildren(...(buttons.length > 0 ? buttons : [make('p', 'chat-wish', this.kind === 'live' ? 'Choose a name to answer.' : 'This is for moderators.')]));
    this.menu.showPopover();
    const box = at.getBoundingClientRect();
    this.menu.style.top = `${Math.min(box.bottom, innerHeight - this.menu.offsetHeight - 8)}px`;
    this.menu.style.left = `${Math.max(8, box.right - this.menu.offsetWidth)}px`;
    buttons[0]?.focus();
  }

  private async does(act: object): Promise<void> {
    const answer = await this.wishes.act(act);
    if (!('id' in answer)) this.refused(answer);
  }

  private tell(words: string): void {
    setText(this.said, words);
  }
}

function filled(): HTMLElement {
  const panel = byId('chat', HTMLElement);
  fillPanel(panel);
  return panel;
}
