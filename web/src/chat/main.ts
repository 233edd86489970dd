/** The chat beside the video: joins the line to the room and what is seen of it. */
import '../style/chat.css';
import { keepKey, recallKey } from '../watch/key';
import { Api } from './api';
import { Line } from './line';
import { View } from './view';

/** Starts the chat of a stream. */
export function start(stream: string, ticket: () => string | null): void {
  const api = new Api(stream, ticket);
  const view = new View({
    say: (text, reply) => line.act({ type: 'say', text, ...(reply === null ? {} : { reply }) }),
    act: (act) => line.act(act),
    name: async (name) => {
      const key = recallKey(stream);
      let answer = await api.name(name, key);
      if (answer.kind === 'refused' && key !== null) {
        // The key is no longer the stream's.
        keepKey(stream, null);
        answer = await api.name(name, null);
      }
      if (answer.kind !== 'ok') return answer.words;
      line.reopen();
      return null;
    },
    older: async (before) => {
      const answer = await api.before(before);
      return answer.kind === 'ok' ? { messages: answer.value.messages, more: answer.value.next !== null } : null;
    },
  });
  const line = new Line(api, () => view.newest, {
    events: (events) => view.take(events),
    state: (state) => view.setState(state),
    you: (you) => view.setYou(you),
    settings: (settings) => view.setSettings(settings),
    skipped: (count) => view.skipped(count),
  });
}
