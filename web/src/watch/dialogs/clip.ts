/** The dialog of a clip that was just made: name it, move its ends by seconds, share it, take it home. */
import type { Rendition } from '../../shared/api';
import { make, setText } from '../../shared/dom';
import { clock, spoken } from '../../shared/format';
import { deleteClip, makeClip, type Clip } from '../../shared/recordings';
import { download } from '../download';
import { button, copyButton, field, openDialog, sayer } from './dialog';

export interface Parts {
  clip: Clip;
  ticket(): string | null;
  key: string | null;
  renditions: Rendition[];
}

/** The shortest clip, seconds. */
const SHORTEST = 1;
const TITLE_MAX = 120;

export function openClip({ clip: made, ticket, key }: Parts): void {
  let clip = made;
  let { from, to } = clip;
  let busy = false;

  const dialog = openDialog('Your clip');
  const title = make('input', 'input');
  Object.assign(title, { type: 'text', maxLength: TITLE_MAX, value: clip.title, placeholder: 'What happens in it', autocomplete: 'off' });
  const link = make('input', 'input');
  Object.assign(link, { type: 'text', readOnly: true, spellcheck: false });
  const length = make('p', 'muted');
  const save = button('Save changes', 'button');
  const watch = make('a', 'button quiet', 'Watch it');
  watch.target = '_blank';
  const take = button('Download', 'button quiet');
  const status = sayer();
  const bound = (label: string, change: (by: number) => void) => {
    const shown = make('output', 'bound-time');
    const steps = ([-1, 1] as const).map((by) => {
      const step = button(by < 0 ? '−1 s' : '+1 s', 'button quiet step');
      step.setAttribute('aria-label', `${label} one second ${by < 0 ? 'earlier' : 'later'}`);
      step.addEventListener('click', () => {
        change(by);
        draw();
      });
      return step;
    });
    const row = make('div', 'bound', make('span', 'field-label', label), steps[0] as HTMLElement, shown, steps[1] as HTMLElement);
    row.setAttribute('role', 'group');
    row.setAttribute('aria-label', label);
    return { row, shown, steps };
  };
  const start = bound('Start', (by) => (from = Math.min(Math.max(0, from + by), to - SHORTEST)));
  const end = bound('End', (by) => (to = Math.max(to + by, from + SHORTEST)));

  const changed = (): boolean => from !== clip.from || to !== clip.to || title.value.trim() !== clip.title;
  const draw = (): void => {
    for (const [{ shown }, value] of [[start, from], [end, to]] as const) {
      setText(shown, clock(value));
      shown.setAttribute('aria-label', spoken(value));
    }
    setText(length, `${clock(Math.round(to - from))} long`);
    link.value = new URL(clip.watch, location.href).href;
    watch.href = clip.watch;
    save.disabled = busy || !changed();
    take.disabled = busy;
  };

  save.addEventListener('click', () => {
    busy = true;
    status.say('Saving…');
    draw();
    void keep().finally(() => {
      busy = false;
      draw();
    });
  });
  /** A clip is never changed: another takes its place. */
  const keep = async (): Promise<void> => {
    const answer = await makeClip(clip.broadcast, { from, to, title: title.value.trim() }, ticket(), key);
    if (answer.kind !== 'ok') return status.say(`Not saved: ${answer.words}`, true);
    const before = clip;
    clip = answer.value;
    ({ from, to } = clip);
    title.value = clip.title;
    const removed = await deleteClip(before.id, ticket(), key);
    const gone = removed.kind === 'ok' || removed.kind === 'missing' || removed.kind === 'gone';
    status.say(gone ? 'Saved. The link is a new one.' : 'Saved under a new link. The first clip stays as well.');
  };
  title.addEventListener('input', draw);
  title.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && !save.disabled) save.click();
  });
  take.addEventListener('click', () => {
    status.say('The download is being prepared.');
    void download(clip.download, ticket()).then((failure) =>
      status.say(failure === null ? 'The download has started.' : `It cannot be downloaded: ${failure.words}`, failure !== null),
    );
  });

  take.hidden = clip.download === '';
  const linkRow = field('Link', link);
  linkRow.append(copyButton('Copy link', link));
  dialog.body.append(
    field('Title', title),
    make('div', 'bounds', start.row, end.row),
    length,
    linkRow,
    make('div', 'dialog-row', save, take, watch),
    status.element,
  );
  draw();
  // On a phone the keyboard would cover the rest.
  if (matchMedia('(hover: hover)').matches) title.focus();
}
