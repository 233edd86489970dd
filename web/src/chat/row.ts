/** One message as it is seen. Whatever somebody wrote becomes text, never markup. */
import { make } from '../shared/dom';
import type { Message } from './log';

/** What a row is drawn for. */
export interface Look {
  /** The message that this one answers, where it is known. */
  answered: Message | undefined;
  /** It names the reader. */
  concerns: boolean;
}

const BADGES: Record<string, string> = { streamer: 'Streamer', moderator: 'Mod', bot: 'Bot', ticket: 'Ticket' };

/** The row of a message, with `ends` behind its text. */
export function drawRow(message: Message, name: HTMLElement, { answered, concerns }: Look, ...ends: HTMLElement[]): HTMLElement {
  const badges = message.roles.filter((role) => role in BADGES).map((role) => make('span', `chat-badge chat-${role}`, BADGES[role]!));
  name.style.setProperty('--hue', String(hue(message.user)));
  const text = make('span', 'chat-text', ...marked(message.text));
  const reply = answered === undefined ? [] : [make('span', 'chat-answers', `↪ ${answered.name}: ${answered.text}`)];
  const row = make('div', 'chat-row', ...reply, ...badges, name, text, ...ends);
  row.dataset['id'] = message.id;
  row.dataset['user'] = message.user;
  if (concerns) row.classList.add('chat-mention');
  return row;
}

/** The text with whom it mentions marked. */
function marked(text: string): (Node | string)[] {
  const parts = text.split(/(@[\p{L}\p{N}_]+)/u);
  return parts.map((part, at) => (at % 2 === 1 ? make('b', 'chat-at', part) : part));
}

/** The same colour for somebody at every node and in every browser. */
function hue(user: string): number {
  let sum = 7;
  for (const letter of user) sum = (sum * 31 + (letter.codePointAt(0) ?? 0)) % 3600;
  return sum / 10;
}
