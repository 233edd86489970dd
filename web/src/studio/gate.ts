/** Asks who opens the studio for the stream's key or the admin token. */
import { make, setText } from '../shared/dom';
import { fetchAccess } from '../shared/recordings';
import { readKey } from '../watch/key';

/** Draws the form into `part`; `enter` is called with a key that was found good. */
export function drawGate(part: HTMLElement, stream: string, why: string, enter: (key: string) => void): void {
  const input = make('input', 'input');
  Object.assign(input, { id: 'key', type: 'password', autocomplete: 'off', spellcheck: false });
  const label = make('label', 'field-label', 'Stream key or admin token');
  label.htmlFor = input.id;
  const status = make('p', 'said');
  status.setAttribute('role', 'status');
  const say = (text: string, bad = true): void => {
    setText(status, text);
    status.dataset['bad'] = bad ? 'yes' : 'no';
  };
  const go = make('button', 'button', 'Open the studio');
  go.type = 'submit';
  const form = make(
    'form',
    'form panel gate',
    make('h2', '', 'This is for the streamer'),
    make('div', 'field-row', label, input),
    make('p', 'hint', 'The stream key as it is in OBS, or its secret alone. It is kept until this tab is closed.'),
    make('div', 'dialog-row', go),
    status,
  );
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    const key = readKey(input.value, stream);
    if ('wrong' in key) return say(key.wrong);
    go.disabled = true;
    say('Looking…', false);
    void fetchAccess(stream, null, key.secret).then((answer) => {
      go.disabled = false;
      if (answer.kind === 'refused') say('This key does not open this stream. Copy it once more, or make a new one.');
      else if (answer.kind !== 'ok') say(answer.words);
      else if (answer.value.role === 'viewer') say('This key does not open this stream.');
      else enter(key.secret);
    });
  });
  part.replaceChildren(form);
  say(why);
  if (matchMedia('(hover: hover)').matches) input.focus();
}
