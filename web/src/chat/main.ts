/** The chat beside the video: joins the line to the room and what is seen of it. */
import '../style/chat.css';
import { keepKey, recallKey } from '../watch/key';
import { Api } from './api';
import { Line } from './line';
import { openModeration } from './moderate';
import type { Message } from './log';
import { Replay } from './replay';
import { View } from './view';

/** How often a moderator's page looks whether something waits for him. */
const WAITING_MS = 15_000;
/** How often the chat of a recording follows its picture. */
const STEP_MS = 250;

/** Starts the chat of a stream; `out` is where it can be had in a window of its own. */
export function start(stream: string, ticket: () => string | null, out: string | null): void {
  const api = new Api(stream, ticket);
  const view = new View('live', {
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
    moderate: () => openModeration(api, (act) => line.act(act)),
    pictureUrl: (file) => api.pictureUrl(file),
    older: async (before) => {
      const answer = await api.before(before);
      return answer.kind === 'ok' ? { messages: answer.value.messages, more: answer.value.next !== null } : null;
    },
  });
  const line = new Line(api, () => view.newest, {
    events: (events) => view.take(events),
    state: (state) => view.setState(state),
    you: (you) => {
      view.setYou(you);
      moderates = you?.roles.some((role) => role === 'streamer' || role === 'moderator') ?? false;
      void wait();
    },
    settings: (settings) => view.setSettings(settings),
    emotes: (emotes) => view.setEmotes(emotes),
    delayed: (delayed) => view.setDelayed(delayed),
    skipped: (count) => view.skipped(count),
  });
  let moderates = false;
  const wait = async (): Promise<void> => {
    const rules = moderates && !document.hidden ? await api.rules() : null;
    if (rules?.kind === 'ok') view.setWaiting(rules.value.held.length);
  };
  setInterval(() => void wait(), WAITING_MS);
  if (out !== null) view.setOut(out);
}

/** What a recording's chat follows. */
export interface Played {
  stream: string;
  broadcast: string;
  ticket(): string | null;
  /** When the picture that is shown was made, milliseconds since 1970. */
  pictureMs(): number | null;
  /** Whether the broadcast runs still. */
  goesOn(): boolean;
}

/** Shows the chat of a recording in step with its picture. */
export function replay({ stream, broadcast, ticket, pictureMs, goesOn }: Played): void {
  const api = new Api(stream, ticket);
  const source = api.replay(broadcast);
  // Who the viewer is, and what pictures there are: of the room as it is now.
  const entered = api.enter();
  void entered.then((answer) => (answer.kind === 'ok' ? view.setEmotes(answer.value.emotes) : undefined));
  const view = new View('replay', {
    say: () => Promise.resolve({ code: 'over', text: 'this is over', retryMs: null }),
    name: () => Promise.resolve(null),
    moderate: () => undefined,
    pictureUrl: (file) => api.pictureUrl(file),
    act: async (act) => {
      const answer = await api.act(act);
      if (answer.kind !== 'ok') return { code: answer.code, text: answer.words, retryMs: null };
      view.takeBack(act, answer.value.id);
      return answer.value;
    },
    older: async (before) => {
      const answer = await source.before({ id: before });
      return answer.kind === 'ok' ? { messages: answer.value.said.map(({ message }) => message), more: answer.value.next !== null } : null;
    },
    who: async () => {
      const answer = await entered;
      return answer.kind === 'ok' ? answer.value.you : null;
    },
  });
  const stage = {
    clear: () => view.clear(),
    show: (messages: Message[]) => view.take(messages.map((message) => ({ type: 'message', ...message }))),
    found: (any: boolean) => {
      view.setState(any ? 'on' : 'off');
      view.setExport(any ? api.recording(broadcast, '.jsonl') : null);
    },
  };
  const follower = new Replay(source, stage, goesOn);
  setInterval(() => follower.tick(pictureMs(), performance.now()), STEP_MS);
}
