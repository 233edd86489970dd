/** The owner's dialog: who it is by a key; then title and note of the broadcast, its clips, and how to be rid of either. */
import type { Failure } from '../../shared/api';
import { make, setText } from '../../shared/dom';
import { clock, dateAndTime, size } from '../../shared/format';
import {
  changeBroadcast, deleteBroadcast, deleteClip, fetchAccess, fetchBroadcast, fetchBroadcastClips, fetchStreamClips, lengthOf, titleOf,
  type Access, type Broadcast, type Clip, type Page,
} from '../../shared/recordings';
import type { Answer } from '../../shared/api';
import type { ActionsContext } from '../actions';
import { readKey } from '../key';
import { button, confirmed, field, openDialog, sayer, type Dialog } from './dialog';

export interface Parts extends ActionsContext {
  key(): string | null;
  access(): Access;
  /** A key that was found good, and what it lets do. */
  enter(key: string, access: Access): void;
  leave(): void;
}

const PAGE = 20;
const TITLE_MAX = 120;
const NOTE_MAX = 2_000;

export function openManage(parts: Parts): void {
  const dialog = openDialog(`Manage ${parts.place.stream}`);
  if (parts.key() !== null && parts.access().role !== 'viewer') drawOffice(dialog, parts);
  else drawEntry(dialog, parts, '');
}

/** Asks for the key. */
function drawEntry(dialog: Dialog, parts: Parts, why: string): void {
  const { stream } = parts.place;
  const input = make('input', 'input');
  Object.assign(input, { type: 'password', autocomplete: 'off', spellcheck: false });
  const status = sayer();
  status.say(why, true);
  const go = make('button', 'button', 'Go on');
  go.type = 'submit';
  const form = make(
    'form',
    'form',
    field('Stream key or admin token', input),
    make('p', 'hint', 'The stream key as it is in OBS, or its secret alone. It is kept until this tab is closed.'),
    make('div', 'dialog-row', go),
    status.element,
  );
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    const key = readKey(input.value, stream);
    if ('wrong' in key) return status.say(key.wrong, true);
    go.disabled = true;
    status.say('Looking…');
    void fetchAccess(stream, parts.ticket(), key.secret).then((answer) => {
      go.disabled = false;
      if (answer.kind === 'refused') status.say('This key does not open this stream. Copy it once more, or make a new one.', true);
      else if (answer.kind !== 'ok') status.say(answer.words, true);
      else if (answer.value.role === 'viewer') status.say('This key does not open this stream.', true);
      else {
        parts.enter(key.secret, answer.value);
        drawOffice(dialog, parts);
      }
    });
  });
  dialog.body.replaceChildren(form);
  input.focus();
}

function drawOffice(dialog: Dialog, parts: Parts): void {
  const { role } = parts.access();
  const leave = button('Forget the key', 'button quiet');
  leave.addEventListener('click', () => {
    parts.leave();
    dialog.close();
  });
  const studio = make('a', 'office-studio', 'Studio: viewers, and how the broadcast arrives');
  studio.href = `/studio/${encodeURIComponent(parts.place.stream)}`;
  const who = make('div', 'office-who', make('p', 'muted', role === 'admin' ? 'You are the admin.' : 'You are the owner.'), leave);
  const show = make('div', 'office-part');
  const clips = make('div', 'office-part');
  dialog.body.replaceChildren(show, clips, studio, who);
  drawShow(dialog, parts, show);
  drawClips(dialog, parts, clips);
  if (matchMedia('(hover: hover)').matches) dialog.body.querySelector('input')?.focus();
}

/** What is done with a failure: a key that is no longer good is asked for again. */
function failed(dialog: Dialog, parts: Parts, say: (text: string, bad?: boolean) => void): (what: string, failure: Failure) => void {
  return (what, failure) => {
    if (failure.kind !== 'refused') return say(`${what}: ${failure.words}`, true);
    parts.leave();
    drawEntry(dialog, parts, `${what}: ${failure.words}`);
  };
}

/** Title and note of the broadcast on screen, and its end. */
function drawShow(dialog: Dialog, parts: Parts, part: HTMLElement): void {
  const id = parts.place.broadcast ?? parts.stream()?.broadcast ?? null;
  const shown = parts.broadcast();
  if (parts.clip() !== null && shown === null) {
    part.append(make('p', 'muted', 'The recording of this clip was deleted.'));
    return;
  }
  if (id === null) {
    part.append(make('p', 'muted', 'Nothing is live now. To change a recording, open it from the list of past broadcasts.'));
    return;
  }
  if (shown === null || shown.id !== id) {
    // Not yet heard of: the page was quicker than the list.
    void fetchBroadcast(id, parts.ticket()).then((answer) => {
      if (answer.kind !== 'ok') return part.append(make('p', 'said', answer.words));
      drawForm(dialog, parts, part, answer.value);
    });
    return;
  }
  drawForm(dialog, parts, part, shown);
}

function drawForm(dialog: Dialog, parts: Parts, part: HTMLElement, first: Broadcast): void {
  let broadcast = first;
  const title = make('input', 'input');
  Object.assign(title, { type: 'text', maxLength: TITLE_MAX, value: broadcast.title, placeholder: dateAndTime(broadcast.started), autocomplete: 'off' });
  const note = make('textarea', 'input');
  Object.assign(note, { maxLength: NOTE_MAX, rows: 4, value: broadcast.note });
  const status = sayer();
  const fail = failed(dialog, parts, status.say);
  const save = make('button', 'button', 'Save');
  save.type = 'submit';
  const remove = button('Delete the recording', 'button danger');
  const live = broadcast.state !== 'ended';
  remove.hidden = live;
  const form = make('form', 'form', field('Title', title), field('Note', note), make('div', 'dialog-row', save, remove), status.element);
  if (live) form.append(make('p', 'hint', 'It can be deleted once it has ended.'));
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    const key = parts.key();
    if (key === null) return drawEntry(dialog, parts, '');
    save.disabled = true;
    status.say('Saving…');
    void changeBroadcast(broadcast.id, { title: title.value.trim(), note: note.value.trim() }, parts.ticket(), key).then((answer) => {
      save.disabled = false;
      if (answer.kind !== 'ok') return fail('Not saved', answer);
      broadcast = answer.value;
      parts.setBroadcast(broadcast);
      parts.onChanged(broadcast);
      status.say('Saved.');
    });
  });
  remove.addEventListener('click', () => void discard());
  const discard = async (): Promise<void> => {
    remove.disabled = true;
    status.say('');
    const clips = await fetchBroadcastClips(broadcast.id, parts.ticket());
    remove.disabled = false;
    const sure = await confirmed(`Delete “${titleOf(broadcast)}”?`, whatGoes(broadcast, clips.kind === 'ok' ? clips.value : null), 'Delete for ever');
    const key = parts.key();
    if (!sure || key === null) return remove.focus();
    status.say('Deleting…');
    const answer = await deleteBroadcast(broadcast.id, parts.ticket(), key);
    if (answer.kind !== 'ok' && answer.kind !== 'gone' && answer.kind !== 'missing') return fail('Not deleted', answer);
    dialog.close();
    // What is buffered need not be played out to the one who wanted it gone.
    parts.player.video.pause();
    parts.askNow();
  };
  part.replaceChildren(make('h3', 'office-title', live ? 'This broadcast' : 'This recording'), form);
}

/** Names what a deletion takes with it, and what not. Pure. */
export function whatGoes(broadcast: Broadcast, clips: Page<Clip> | null): string {
  const facts = [`the recording of ${dateAndTime(broadcast.started)}`];
  const length = lengthOf(broadcast);
  if (length !== null) facts.push(`${clock(length)} long`);
  if (broadcast.bytes !== null) facts.push(size(broadcast.bytes));
  const count = clips?.items.length ?? 0;
  const more = clips === null || clips.next !== null;
  const stay = 'until they are deleted themselves.';
  const those = more ? `Clips of it stay ${stay}` : count === 0 ? '' : count === 1 ? 'Its clip stays until it is deleted itself.' : `Its ${count} clips stay ${stay}`;
  return `This removes ${facts.join(', ')}, in all qualities. Links to it will no longer work. It cannot be had back. ${those}`.trim();
}

/** The clips: of the recording on its page, of the stream on the stream's. */
function drawClips(dialog: Dialog, parts: Parts, part: HTMLElement): void {
  const list = make('ul', 'clip-list');
  const more = button('More', 'button quiet');
  const status = sayer();
  const fail = failed(dialog, parts, status.say);
  more.hidden = true;
  let next: string | null = null;
  const row = (clip: Clip): HTMLElement => {
    const called = clip.title === '' ? `Clip at ${clock(clip.from)}` : clip.title;
    const link = make('a', 'clip-name', called);
    link.href = clip.watch;
    const remove = button('Delete', 'button quiet danger-text');
    remove.setAttribute('aria-label', `Delete ${called}`);
    const item = make('li', 'clip-item', make('div', 'clip-body', link, make('span', 'row-line', `${clock(Math.round(clip.to - clip.from))} · ${dateAndTime(clip.created, 'medium')}`)), remove);
    remove.addEventListener('click', async () => {
      const sure = await confirmed(`Delete “${called}”?`, `This removes the clip, ${clock(Math.round(clip.to - clip.from))} long. The recording stays. Links to the clip will no longer work.`, 'Delete the clip');
      const key = parts.key();
      if (!sure || key === null) return remove.focus();
      const answer = await deleteClip(clip.id, parts.ticket(), key);
      if (answer.kind !== 'ok' && answer.kind !== 'gone' && answer.kind !== 'missing') return fail('Not deleted', answer);
      item.remove();
      status.say(`${called} was deleted.`);
      empty();
    });
    return item;
  };
  const empty = (): void => {
    if (list.children.length === 0 && next === null) status.say('There are no clips.');
  };
  const load = async (): Promise<void> => {
    const { place } = parts;
    const answer: Answer<Page<Clip>> =
      place.broadcast === null ? await fetchStreamClips(place.stream, next, PAGE, parts.ticket()) : await fetchBroadcastClips(place.broadcast, parts.ticket());
    if (answer.kind !== 'ok') {
      more.hidden = false;
      setText(more, 'Try again');
      return status.say(`The clips cannot be listed: ${answer.words}`, true);
    }
    ({ next } = answer.value);
    list.append(...answer.value.items.map(row));
    setText(more, 'More');
    more.hidden = next === null;
    status.say('');
    empty();
  };
  more.addEventListener('click', () => void load());
  part.append(make('h3', 'office-title', parts.place.broadcast === null ? 'Clips of the stream' : 'Clips'), list, more, status.element);
  void load();
}
