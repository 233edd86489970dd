/** One message as it is seen. Whatever somebody wrote becomes text, never markup. */
import { make } from '../shared/dom';
import type { Message } from './log';

/** What a row is drawn for. */
export interface Look {
  /** The message that this one answers, where it is known. */
  answered: Message | undefined;
  /** It names the reader. */
  concerns: boolean;
  /** The picture of an emote of this name; nothing: there is none. */
  emote(name: string): string | undefined;
}

const BADGES: Record<string, string> = { streamer: 'Streamer', moderator: 'Mod', bot: 'Bot', ticket: 'Ticket' };

/** The row of a message, with `ends` behind its text. */
export function drawRow(message: Message, name: HTMLElement, { answered, concerns, emote }: Look, ...ends: HTMLElement[]): HTMLElement {
  const badges = message.roles.filter((role) => role in BADGES).map((role) => make('span', `chat-badge chat-${role}`, BADGES[role]!));
  name.style.setProperty('--hue', String(hue(message.user)));
  const text = make('span', 'chat-text', ...marked(message.text, emote));
  const reply = answered === undefined ? [] : [make('span', 'chat-answers', `↪ ${answered.name}: ${answered.text}`)];
  const row = make('div', 'chat-row', ...reply, ...badges, name, text, ...ends);
  row.dataset['id'] = message.id;
  row.dataset['user'] = message.user;
  if (concerns) row.classList.add('chat-mention');
  return row;
}

/** The text with its emotes as pictures, and whom it mentions marked. */
function marked(text: string, emote: Look['emote']): (Node | string)[] {
  return text.split(/(@[\p{L}\p{N}_]+|:[A-Za-z0-9_+-]+:)/u).map((part, at) => {
    if (at % 2 === 0) return part;
    if (part.startsWith('@')) return make('b', 'chat-at', part);
    const url = emote(part.slice(1, -1));
    return url === undefined ? part : picture(part, url);
  });
}

/** An emote; what it is called stands there where the picture does not come. */
export function picture(name: string, url: string): HTMLImageElement {
  const image = make('img', 'chat-emote');
  Object.assign(image, { src: url, alt: name, title: name, loading: 'lazy', decoding: 'async' });
  return image;
}

/** The same colour for somebody at every node and in every browser. */
function hue(user: string): number {
  let sum = 7;
  for (const letter of user) sum = (sum * 31 + (letter.codePointAt(0) ?? 0)) % 3600;
  return sum / 10;
}
