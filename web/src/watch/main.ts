/** The watch page: joins what the API says and what the player does, and draws it. */
import '../style/base.css';
import '../style/watch.css';
import { fetchStream, fetchRefusal, type Answer, type Stream } from '../shared/api';
import { art } from '../shared/art';
import { poll } from '../shared/backoff';
import { byId, setText } from '../shared/dom';
import { fetchBroadcast, fetchClip, titleOf, type Broadcast, type Clip } from '../shared/recordings';
import { ticketed } from '../shared/ticketed';
import { drawRecording, drawStream } from './about';
import { keepLowLatency, recallLowLatency } from './memory';
import { askAgainMs, phaseOf, shouldLoad, words, type Facts, type Phase, type What } from './phase';
import { placeOf } from './place';
import { describeChoice } from './readout';
import { Rewind } from './rewind';
import { drawSignal } from './signal';
import { stats } from './stats';
import { broadcastUrl, carryTicket, playlistUrl, ticketIn, wholeUrl } from './ticket';

/** While the server refuses this viewer, it is asked this often whether it still does: a ticket may be early. */
const ASK_REFUSAL_MS = 30_000;

/** After this time the controls are built although there is neither a picture nor anything to say: it may take long. */
const CONTROLS_WITHIN_MS = 1_000;

/** A viewer is at the live edge within so many seconds of the end of what can be rewound to. */
const AT_EDGE = 5;

/** What the API says of this page's subject: a stream, or a broadcast and perhaps a clip of it. */
interface Subject {
  stream: Stream;
  broadcast: Broadcast | null;
  clip: Clip | null;
}

const place = placeOf(location);
const { stream: id } = place;
const what: What = place.clip !== null ? 'clip' : place.broadcast !== null ? 'recording' : 'stream';
const NOTHING_LIVE: Stream = {
  id, state: 'offline', broadcast: null, started: null, mode: null, playback: 'public', renditions: [], warnings: [], shed: [], poster: null, viewers: null, now: null,
};
let ticket = ticketIn(location.hash);
/** Asked while the player's code, by far the most of the page, is still on its way; null once it was heard. */
let firstAnswer: ReturnType<typeof askSubject> | null = askSubject();
const { Player } = await import('../player/player');

const page = byId('watch', HTMLElement);
const curtain = byId('curtain', HTMLElement);
const curtainTitle = byId('curtain-title', HTMLElement);
const curtainText = byId('curtain-text', HTMLElement);
const wayOut = byId('way-out', HTMLAnchorElement);
const chip = byId('chip', HTMLElement);
const unmute = byId('unmute', HTMLButtonElement);
const choice = byId('choice', HTMLElement);
const qualityButton = byId('quality-button', HTMLElement);
const announcer = byId('announcer', HTMLElement);
const lowLatency = byId('low-latency', HTMLButtonElement);
const latency = byId('latency', HTMLElement);

const player = new Player(byId('video', HTMLVideoElement), () => draw());
player.lowLatency = recallLowLatency();
const rewind = new Rewind(player, sources);
let api: Facts['api'] = 'none';
let stream: Stream | null = null;
/** The broadcast on screen: of the page of a recording, or the one that is live. */
let broadcast: Broadcast | null = null;
let clip: Clip | null = null;
let failures = 0;
let clockOffsetMs = 0;
let loadedBroadcast: string | null = null;
let loadedAtMs = Number.NEGATIVE_INFINITY;
/** From the load to the first picture of this page, milliseconds. */
let startupMs: number | null = null;
/** When the broadcast that is loaded began (milliseconds since 1970). */
let startedMs: number | null = null;
let seen = false;
let phase: Phase = 'connecting';
/** The server's code for refusing what is loaded, empty when it gave none; null until it was asked. */
let refusal: string | null = null;
let askedRefusalMs = Number.NEGATIVE_INFINITY;
let built = false;
let rest: { draw(): void } | null = null;

async function askSubject(): Promise<Answer<Subject>> {
  if (place.broadcast === null) {
    const answer = await fetchStream(id);
    return answer.kind === 'ok' ? { ...answer, value: { stream: answer.value, broadcast: null, clip: null } } : answer;
  }
  const [of, cut] = await Promise.all([fetchBroadcast(place.broadcast, ticket), place.clip === null ? null : fetchClip(place.clip, ticket)]);
  const told = cut ?? of;
  if (told.kind !== 'ok') return told;
  // A clip outlives its broadcast.
  if (of.kind !== 'ok' && cut === null) return of;
  if (told.value.stream !== id) return { kind: 'missing', code: '', words: '' };
  const broadcast = of.kind === 'ok' ? of.value : null;
  const stream = broadcast === null ? { ...NOTHING_LIVE, broadcast: place.broadcast } : streamOf(broadcast);
  return { kind: 'ok', clockOffsetMs: told.clockOffsetMs, value: { stream, broadcast, clip: cut?.kind === 'ok' ? cut.value : null } };
}


/** A broadcast as the state of its stream. */
function streamOf({ stream, id, state, started, renditions }: Broadcast): Stream {
  return {
    ...NOTHING_LIVE,
    id: stream,
    state: state === 'ended' ? 'offline' : state,
    broadcast: id,
    started,
    mode: renditions.length > 0 && renditions.every(({ height }) => !height) ? 'audio-only' : null,
    renditions,
  };
}

function handleAnswer(answer: Answer<Subject>): void {
  failures = answer.kind === 'unreachable' ? failures + 1 : 0;
  if (answer.kind === 'ok') {
    ({ stream } = answer.value);
    if (place.broadcast !== null) ({ broadcast, clip } = answer.value);
    const over = place.broadcast !== null && (clip !== null || broadcast?.state === 'ended');
    api = over ? 'recorded' : stream.state;
    clockOffsetMs = answer.clockOffsetMs;
  } else if (place.broadcast === null) {
    // A stream is there or not, whatever was before.
    api = answer.kind === 'gone' ? 'missing' : answer.kind === 'wrong' ? 'unreachable' : answer.kind;
    if (api === 'missing') stream = null;
  } else {
    api = answer.kind === 'wrong' ? 'unreachable' : answer.kind === 'missing' && stream !== null ? 'gone' : answer.kind;
    if (answer.kind === 'refused') refusal = answer.code;
  }
  drive();
  draw();
}

/** Loads when there is something to load, and starts again when media is there and the picture stands. */
function drive(): void {
  if (place.broadcast !== null && (api === 'gone' || api === 'missing')) {
    // What is buffered is still played; more there will not be.
    if ((player.motion !== 'moving' || player.video.paused) && player.motion !== 'idle') player.unload();
    return;
  }
  const tape = tapeOf();
  if (stream === null || !(api === 'live' || api === 'away' || api === 'recorded' || tape !== undefined)) return;
  if (player.refused) return void askRefusal();
  if (refusalNow() !== null) return;
  // A playlist that ends at once must not be loaded in a tight circle.
  const due = performance.now() - loadedAtMs > 3_000;
  // A recording is loaded once. A viewer who went back is not taken away before the end.
  const mayLoad = place.broadcast !== null ? player.motion === 'idle' : tape === undefined || player.motion === 'ended';
  const wanted = mayLoad && (place.broadcast !== null || shouldLoad(stream, loadedBroadcast, player.motion));
  if (due && wanted) {
    load();
  } else if (api === 'live' || tape !== undefined) {
    player.nudge();
  } else {
    player.excuse();
  }
}

function load(): void {
  const from = rewind.times?.position ?? null;
  loadedBroadcast = stream?.broadcast ?? null;
  loadedAtMs = performance.now();
  startedMs = stream?.started == null ? null : Date.parse(stream.started);
  refusal = null;
  askedRefusalMs = Number.NEGATIVE_INFINITY;
  rewind.reset();
  if (loadedBroadcast === null || place.broadcast === null) player.load(playlistUrl(id, ticket));
  else if (clip !== null) player.load(ticketed(clip.playlist, ticket), { from: -1, lasts: clip.to - clip.from });
  else player.load(wholeUrl(id, loadedBroadcast, ticket), { from: from ?? place.at ?? 0 });
}

/** Where the player finds the live edge, and the whole of what is on screen. */
function sources() {
  const live = api === 'live' || api === 'away';
  return {
    live: !live ? null : place.broadcast === null ? playlistUrl(id, ticket) : broadcastUrl(id, place.broadcast, ticket),
    whole: loadedBroadcast === null || clip !== null ? null : wholeUrl(id, loadedBroadcast, ticket),
    startedMs,
  };
}

/** Whether what is on screen is not the live edge, and if so whether its broadcast goes on. */
function tapeOf(): Facts['tape'] {
  if (!player.whole) return undefined;
  const on = (api === 'live' || api === 'away' || api === 'starting') && stream?.broadcast === loadedBroadcast;
  if (!on) return 'over';
  const times = rewind.times;
  return times !== null && times.end - times.position < AT_EDGE ? undefined : 'on';
}

/** Why this viewer may not watch, as the server's code; null when nothing is known to be against it. */
function refusalNow(): string | null {
  if (ticket === null && stream?.playback === 'ticket') return 'ticket_missing';
  return player.refused || api === 'refused' ? refusal : null;
}

/** Asks why loading was refused, and from then on whether it still is; when it no longer is, loads again. */
async function askRefusal(): Promise<void> {
  const { url } = player;
  if (url === null || performance.now() - askedRefusalMs < ASK_REFUSAL_MS) return;
  askedRefusalMs = performance.now();
  const code = await fetchRefusal(url);
  // A new ticket came meanwhile.
  if (!player.refused || url !== player.url) return;
  if (code !== null || refusal === null) refusal = code ?? '';
  else if (player.motion !== 'moving') load();
  draw();
}

/** A link with another ticket, opened in this page. */
function handleFragment(): void {
  const next = ticketIn(location.hash);
  if (next === null || next === ticket) return;
  ticket = next;
  loadedAtMs = Number.NEGATIVE_INFINITY;
  player.unload();
  if (place.broadcast === null) drive();
  else askNow();
  draw();
}

function draw(): void {
  const { motion } = player;
  if (player.stallMeter.played) seen = true;
  if (player.begun) startupMs ??= performance.now() - loadedAtMs;
  const barred = refusalNow();
  const tape = tapeOf();
  phase = phaseOf({ api, motion, seen, refused: barred !== null, tape });
  // While the buffer still plays, "away" and the like only label the picture.
  const covering = phase !== 'live' && phase !== 'recorded' && motion !== 'moving';
  const said = words(phase, id, barred ?? '', what);
  page.dataset['phase'] = phase;
  page.dataset['what'] = what;
  page.dataset['live'] = sources().live === null ? 'no' : 'yes';
  page.dataset['picture'] = player.pictured ? 'yes' : 'no';
  page.dataset['sound'] = stream?.mode === 'audio-only' ? 'only' : 'with-picture';
  curtain.hidden = !(covering && said !== null);
  page.dataset['covered'] = curtain.hidden ? 'no' : 'yes';
  const chipText = !curtain.hidden ? '' : phase === 'away' ? 'Streamer is away' : player.holding ? 'Coming back' : '';
  setText(chip, chipText);
  chip.hidden = chipText === '';
  if (said !== null) {
    setText(curtainTitle, said.title);
    setText(curtainText, said.text);
  }
  const called = what === 'stream' ? id : clip !== null && clip.title !== '' ? clip.title : broadcast !== null ? titleOf(broadcast) : clip !== null ? 'Clip' : id;
  setText(announcer, said !== null ? `${said.title}. ${said.text}` : phase === 'live' ? `${id} is live` : called);
  document.title = phase === 'live' ? `● ${called} · Weir` : `${called} · Weir`;
  unmute.hidden = !player.mutedByBrowser || !curtain.hidden;
  lowLatency.setAttribute('aria-pressed', String(player.lowLatency));
  const chosen = describeChoice(player);
  setText(choice, chosen);
  qualityButton.setAttribute('aria-label', `Quality: ${chosen}`);
  const about = { stream, broadcast, clip, phase, nowMs: Date.now() + clockOffsetMs };
  if (what === 'stream') drawStream(about);
  else drawRecording(about, id);
  // Not before there is a picture or something to say: the first picture would wait for them.
  if (phase !== 'connecting' && phase !== 'starting' && phase !== 'opening') buildRest();
}

/** Loads the controls and what stands around the picture, once. */
function buildRest(): void {
  if (built) return;
  built = true;
  void import('../player/chrome');
  void import('../chat/main').then(({ start, replay }) => {
    const of = place.broadcast;
    if (of === null) start(id, () => ticket, `/chat/${encodeURIComponent(id)}`);
    else replay({ stream: id, broadcast: of, ticket: () => ticket, pictureMs: () => player.pictureMs, goesOn: () => api === 'live' || api === 'away' });
  });
  if (what === 'stream') void import('./now').then(({ start }) => start(id, () => ticket));
  void import('./rest').then(({ start }) => {
    rest = start({
      player,
      rewind,
      place,
      ticket: () => ticket,
      stream: () => stream,
      broadcast: () => broadcast,
      clip: () => clip,
      loadedBroadcast: () => loadedBroadcast,
      setBroadcast: (next) => {
        broadcast = next;
        draw();
      },
      heard: () => api !== 'none' && api !== 'unreachable',
      stats: window.weir.stats,
      startupMs: () => startupMs,
      askNow,
    });
  });
}

function behind(): number | null {
  if (player.motion !== 'moving' || player.video.paused || player.finished) return null;
  const madeMs = player.pictureMs;
  if (madeMs !== null) return (Date.now() + clockOffsetMs - madeMs) / 1000;
  return player.latency;
}

if (what === 'stream') setText(byId('name', HTMLElement), id);
else setText(wayOut, `Go to ${id}`);
if (what !== 'stream') wayOut.href = `/watch/${encodeURIComponent(id)}`;
byId('backdrop', HTMLElement).append(art(id));
unmute.addEventListener('click', () => player.unmute());
latency.hidden = !player.choosesLatency;
lowLatency.addEventListener('click', () => {
  player.lowLatency = !player.lowLatency;
  keepLowLatency(player.lowLatency);
  draw();
});
// media-chrome would go to the very end of the playlist, where there is no media to play yet.
byId('controls', HTMLElement).addEventListener('mediaseektoliverequest', (event) => {
  event.stopPropagation();
  rewind.goLive();
  draw();
});
addEventListener('hashchange', handleFragment);
carryTicket(() => ticket);
// Followed as a link it would put its own fragment in the ticket's place.
byId('skip', HTMLAnchorElement).addEventListener('click', (event) => {
  event.preventDefault();
  player.video.focus();
});
setInterval(() => {
  drive();
  drawSignal(player, behind(), phase === 'live' || phase === 'recorded');
  draw();
  rest?.draw();
}, 500);
setTimeout(buildRest, CONTROLS_WITHIN_MS);
const askNow = poll(async () => {
  handleAnswer(await (firstAnswer ?? askSubject()));
  firstAnswer = null;
  return askAgainMs(api, failures, document.hidden, Math.random());
});

declare global {
  interface Window {
    /** For tests and for people who look into a problem. */
    weir: { readonly hls: typeof player.hls; stats(): ReturnType<typeof stats> };
  }
}

window.weir = {
  get hls() {
    return player.hls;
  },
  stats: () => stats(player, phase, behind(), rewind.times),
};
