/** What moderators look at: what waits for them, what counts, who is banned, the emotes, and who did what. */
import { make, setText } from '../shared/dom';
import { dateAndTime } from '../shared/format';
import { recallKey } from '../watch/key';
import { button, field, openDialog, sayer } from '../watch/dialogs/dialog';
import type { Acted, Api, Deed, Rules } from './api';
import type { Refusal } from './line';
import { picture } from './row';

/** While it is open it looks this often. */
const LOOK_MS = 4_000;

const SWITCHES = [
  ['tickets_only', 'Only viewers with a ticket may write'],
  ['emotes_only', 'Only emotes and pictures'],
  ['no_links', 'No links'],
  ['unique', 'Nothing twice within half a minute'],
  ['hold_all', 'Each message waits for a moderator'],
] as const;

export function openModeration(api: Api, act: (act: object) => Promise<Acted | Refusal>): void {
  const dialog = openDialog('Moderation', () => clearInterval(timer));
  const status = sayer();
  const waiting = section('Waiting');
  const rules = section('What counts');
  const bans = section('Banned');
  const emotes = section('Emotes');
  const log = section('Who did what');
  dialog.body.append(status.element, ...[waiting, rules, bans, emotes, log].map(({ element }) => element));
  waiting.element.open = true;

  const does = async (what: object, said: string): Promise<boolean> => {
    const answer = await act(what);
    const done = 'id' in answer;
    status.say(done ? said : `Not done: ${answer.text}.`, !done);
    if (done) void look();
    return done;
  };

  let filled = false;
  const look = async (): Promise<void> => {
    const answer = await api.rules();
    if (answer.kind !== 'ok') return status.say(answer.words, true);
    drawWaiting(answer.value);
    drawBans(answer.value);
    if (!filled) drawRules(answer.value);
    filled = true;
  };

  const drawWaiting = ({ held }: Rules): void => {
    setText(waiting.count, String(held.length));
    waiting.fill(
      held.map((message) => {
        const show = button('Show', 'button step');
        show.addEventListener('click', () => void does({ type: 'judge', message: message.id, show: true }, 'It is shown.'));
        const drop = button('Drop', 'button quiet step');
        drop.addEventListener('click', () => void does({ type: 'judge', message: message.id, show: false }, 'It is gone.'));
        return make('li', 'deed', make('span', 'deed-text', make('b', '', message.name), ` ${message.text}`), show, drop);
      }),
      'Nothing waits.',
    );
  };

  const drawBans = ({ bans: banned, addresses }: Rules): void => {
    setText(bans.count, String(banned.length + addresses.length));
    const item = (label: string, undo: object): HTMLElement => {
      const lift = button('Lift', 'button quiet step');
      lift.addEventListener('click', () => void does(undo, 'The ban is lifted.'));
      return make('li', 'deed', make('span', 'deed-text', label), lift);
    };
    bans.fill(
      [
        ...banned.map(({ user, until, reason }) =>
          item(`${user}${until === null ? '' : ` until ${dateAndTime(until, 'medium')}`}${reason === '' ? '' : `: ${reason}`}`, { type: 'unban', user }),
        ),
        ...addresses.map((prefix) => item(prefix, { type: 'unban_address', prefix })),
      ],
      'Nobody is banned.',
    );
  };

  const drawRules = ({ settings }: Rules): void => {
    const slow = make('input', 'input');
    Object.assign(slow, { type: 'number', min: '0', max: '3600', value: String(settings['slow'] ?? 0) });
    const switches = SWITCHES.map(([name, label]) => {
      const box = make('input', '');
      Object.assign(box, { type: 'checkbox', checked: settings[name] === true });
      return { name, box, row: make('label', 'check', box, label) };
    });
    const words = (name: string): HTMLTextAreaElement => {
      const area = make('textarea', 'input');
      const given = Array.isArray(settings[name]) ? settings[name] : [];
      Object.assign(area, { rows: 3, spellcheck: false, value: given.join('\n') });
      return area;
    };
    const [blocked, held] = [words('blocked'), words('held')];
    const save = button('Save', 'button');
    save.addEventListener('click', () => {
      const lines = ({ value }: HTMLTextAreaElement): string[] => value.split('\n').map((line) => line.trim()).filter((line) => line !== '');
      const chosen = Object.fromEntries(switches.map(({ name, box }) => [name, box.checked]));
      const next = { ...settings, ...chosen, slow: Math.min(3_600, Math.max(0, Math.round(Number(slow.value) || 0))), blocked: lines(blocked), held: lines(held) };
      void does({ type: 'set', settings: next }, 'Saved: it counts from now on.');
    });
    rules.body.replaceChildren(
      field('Seconds between two messages of one person', slow),
      ...switches.map(({ row }) => row),
      field('Words that nobody may write, one on each line (bad* is all that begins so)', blocked),
      field('Words whose messages wait for a moderator', held),
      save,
    );
  };

  const drawEmotes = async (): Promise<void> => {
    const key = recallKey(api.stream);
    const entered = await api.enter();
    if (entered.kind !== 'ok') return;
    const all = [...entered.value.emotes];
    setText(emotes.count, String(all.length));
    const changed = async (name: string, file: Blob | null): Promise<void> => {
      const answer = await api.emote(name, file, key ?? '');
      status.say(answer.kind === 'ok' ? (file === null ? `:${name}: is gone.` : `:${name}: is there.`) : answer.words, answer.kind !== 'ok');
      if (answer.kind === 'ok') void drawEmotes();
    };
    const items = all.map(([name, file]) => {
      const remove = button('Remove', 'button quiet step');
      remove.hidden = key === null;
      remove.addEventListener('click', () => void changed(name, null));
      return make('li', 'deed', picture(`:${name}:`, api.pictureUrl(file)), make('span', 'deed-text', `:${name}:`), remove);
    });
    emotes.fill(items, 'There are none yet.');
    if (key === null) return emotes.body.append(make('p', 'muted', 'Whoever has the stream key can change them: “Manage”, under the video.'));
    const name = make('input', 'input');
    Object.assign(name, { type: 'text', maxLength: 25, pattern: '[A-Za-z0-9_+\\-]+', autocomplete: 'off' });
    const file = make('input', 'input');
    Object.assign(file, { type: 'file', accept: 'image/png,image/gif,image/webp' });
    const add = button('Add', 'button');
    add.addEventListener('click', () => {
      const [chosen] = file.files ?? [];
      if (chosen === undefined || !name.reportValidity() || name.value === '') return status.say('An emote needs a name and a picture.', true);
      void changed(name.value, chosen);
    });
    emotes.body.append(field('Name', name), field('Picture: PNG, GIF or WebP, at most 256 KB and 512 pixels', file), add);
  };

  let next: string | null = null;
  const drawLog = async (before: string | null): Promise<void> => {
    const answer = await api.audit(before);
    if (answer.kind !== 'ok') return status.say(answer.words, true);
    const items = answer.value.deeds.map((deed) =>
      make('li', 'deed', make('span', 'deed-text', make('b', '', deed.name), ` ${wordsOf(deed)}`), make('time', 'muted', dateAndTime(deed.time, 'medium'))),
    );
    if (before === null) log.fill(items, 'Nothing yet.');
    else log.list.append(...items);
    next = answer.value.next;
    earlier.hidden = next === null;
    log.body.append(earlier);
  };
  const earlier = button('Earlier', 'button quiet');
  earlier.addEventListener('click', () => void drawLog(next));
  log.element.addEventListener('toggle', () => void (log.element.open ? drawLog(null) : undefined));
  emotes.element.addEventListener('toggle', () => void (emotes.element.open ? drawEmotes() : undefined));

  const timer = setInterval(() => void look(), LOOK_MS);
  void look();
}

interface Section {
  element: HTMLDetailsElement;
  count: HTMLElement;
  body: HTMLElement;
  list: HTMLElement;
  /** Fills it with a list, or with words where there is nothing to list. */
  fill(items: HTMLElement[], empty: string): void;
}

function section(title: string): Section {
  const count = make('span', 'count', '');
  const [body, list] = [make('div', 'form'), make('ul', 'deeds')];
  const element = make('details', 'moderation', make('summary', '', make('h3', '', title), count), body);
  return {
    element,
    count,
    body,
    list,
    fill: (items, empty) => {
      list.replaceChildren(...items);
      body.replaceChildren(items.length > 0 ? list : make('p', 'muted', empty));
    },
  };
}

/** What somebody did, in words. */
export function wordsOf({ act }: Pick<Deed, 'act'>): string {
  const [user, seconds] = [String(act['user'] ?? ''), act['seconds']];
  const reason = typeof act['reason'] === 'string' && act['reason'] !== '' ? ` (${act['reason']})` : '';
  switch (act['type']) {
    case 'delete':
      return 'took a message back';
    case 'purge':
      return `removed all that ${user} said`;
    case 'ban':
      return typeof seconds === 'number' ? `timed ${user} out for ${seconds} s${reason}` : `banned ${user}${reason}`;
    case 'ban_address':
      return `banned ${String(act['prefix'])}${reason}`;
    case 'unban':
      return `lifted the ban of ${user}`;
    case 'unban_address':
      return `lifted the ban of ${String(act['prefix'])}`;
    case 'moderator':
      return act['on'] === true ? `made ${user} a moderator` : `took ${user} from the moderators`;
    case 'judge':
      return act['show'] === true ? 'let a message through' : 'dropped a message that waited';
    case 'emote':
      return typeof act['picture'] === 'string' ? `gave :${String(act['name'])}: a picture` : `removed :${String(act['name'])}:`;
    case 'set':
      return 'changed what counts';
    default:
      return String(act['type']);
  }
}
