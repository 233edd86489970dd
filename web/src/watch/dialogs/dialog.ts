/** Dialogs over the page: opened once, gone when they are closed. The browser keeps the focus inside and gives it back. */
import '../../style/dialogs.css';
import { make, setText } from '../../shared/dom';

let made = 0;

export interface Dialog {
  element: HTMLDialogElement;
  /** Where the content goes. */
  body: HTMLElement;
  close(): void;
}

export function openDialog(title: string, onClose: () => void = () => {}): Dialog {
  made += 1;
  const heading = make('h2', 'dialog-title', title);
  heading.id = `dialog-${made}`;
  const cross = button('', 'dialog-close');
  cross.setAttribute('aria-label', 'Close');
  const body = make('div', 'dialog-body');
  const element = make('dialog', 'dialog', make('div', 'dialog-head', heading, cross), body);
  element.setAttribute('aria-labelledby', heading.id);
  const close = (): void => element.close();
  cross.addEventListener('click', close);
  element.addEventListener('click', (event) => {
    // The backdrop belongs to the dialog itself, everything else to its children.
    if (event.target === element) close();
  });
  element.addEventListener('close', () => {
    element.remove();
    onClose();
  });
  document.body.append(element);
  element.showModal();
  return { element, body, close };
}

/** Asks before something goes that cannot be had back; `text` names it. */
export function confirmed(title: string, text: string, act: string): Promise<boolean> {
  return new Promise((resolve) => {
    let answer = false;
    const dialog = openDialog(title, () => resolve(answer));
    const keep = button('Keep it', 'button quiet');
    const go = button(act, 'button danger');
    keep.addEventListener('click', () => dialog.close());
    go.addEventListener('click', () => {
      answer = true;
      dialog.close();
    });
    dialog.body.append(make('p', '', text), make('div', 'dialog-row', keep, go));
    keep.focus();
  });
}

export function button(text: string, className: string): HTMLButtonElement {
  const made = make('button', className, text);
  made.type = 'button';
  return made;
}

let fields = 0;

/** A field with its label. */
export function field<T extends HTMLInputElement | HTMLTextAreaElement>(label: string, input: T): HTMLElement {
  fields += 1;
  input.id = `field-${fields}`;
  const named = make('label', 'field-label', label);
  named.htmlFor = input.id;
  return make('div', 'field-row', named, input);
}

/** A line that says how it went, also to screen readers. */
export function sayer(): { element: HTMLElement; say(text: string, bad?: boolean): void } {
  const element = make('p', 'said');
  element.setAttribute('role', 'status');
  return {
    element,
    say(text, bad = false) {
      setText(element, text);
      element.dataset['bad'] = bad ? 'yes' : 'no';
    },
  };
}

/** Copies a text; where there is no clipboard (no https), it is selected to be copied by hand. */
export function copyButton(label: string, input: HTMLInputElement): HTMLButtonElement {
  const made = button(label, 'button quiet');
  made.addEventListener('click', () => {
    input.select();
    const copied = navigator.clipboard?.writeText(input.value) ?? Promise.reject(new Error('no clipboard'));
    copied.then(
      () => setText(made, 'Copied'),
      () => setText(made, 'Press Ctrl+C'),
    );
    setTimeout(() => setText(made, label), 3_000);
  });
  return made;
}
