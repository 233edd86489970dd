/** The watch page: joins what the API says and what the player does, and draws it. */
import '../style/base.css';
import '../style/watch.css';
import { fetchRefusal, fetchStream, type Stream } from '../shared/api';
import { art } from '../shared/art';
import { poll } from '../shared/backoff';
import { byId, make, setText } from '../shared/dom';
import { seconds, since } from '../shared/format';
import { keepLowLatency, recallLowLatency } from './memory';
import { askAgainMs, phaseOf, shouldLoad, words, type Facts, type Phase } from './phase';
import { HEALTH_WORDS, describeBehind, describeChoice, describeQuality, healthOf, type Reading } from './readout';
import { stats } from './stats';
import { playlistUrl, ticketIn } from './ticket';

/** While the server refuses this viewer, it is asked this often whether it still does: a ticket may be early. */
const ASK_REFUSAL_MS = 30_000;

/** After this time the controls are built although there is neither a picture nor anything to say: it may take long. */
const CONTROLS_WITHIN_MS = 1_000;

const id = decodeURIComponent(location.pathname.split('/')[2] ?? '');
/** Asked while the player's code, by far the most of the page, is still on its way; null once it was heard. */
let firstAnswer: ReturnType<typeof fetchStream> | null = fetchStream(id);
const { Player } = await import('../player/player');

const page = byId('watch', HTMLElement);
const curtain = byId('curtain', HTMLElement);
const curtainTitle = byId('curtain-title', HTMLElement);
const curtainText = byId('curtain-text', HTMLElement);
const chip = byId('chip', HTMLElement);
const unmute = byId('unmute', HTMLButtonElement);
const choice = byId('choice', HTMLElement);
const qualityButton = byId('quality-button', HTMLElement);
const badge = byId('badge', HTMLElement);
const started = byId('started', HTMLElement);
const announcer = byId('announcer', HTMLElement);
const notes = byId('notes', HTMLDetailsElement);
const noteCount = byId('note-count', HTMLElement);
const noteList = byId('note-list', HTMLElement);
const shed = byId('shed', HTMLElement);
const signal = byId('signal', HTMLElement);
const lowLatency = byId('low-latency', HTMLButtonElement);
const latency = byId('latency', HTMLElement);
const readings = {
  health: byId('health', HTMLElement),
  behind: byId('behind', HTMLElement),
  buffer: byId('buffer', HTMLElement),
  quality: byId('quality', HTMLElement),
  dropped: byId('dropped', HTMLElement),
  stalls: byId('stalls', HTMLElement),
};

const player = new Player(byId('video', HTMLVideoElement), () => draw());
player.lowLatency = recallLowLatency();
let api: Facts['api'] = 'none';
let stream: Stream | null = null;
let failures = 0;
let clockOffsetMs = 0;
let loadedBroadcast: string | null = null;
let loadedAtMs = Number.NEGATIVE_INFINITY;
let seen = false;
let phase: Phase = 'connecting';
let drawnNotes = '';
let ticket = ticketIn(location.hash);
/** The server's code for refusing what is loaded, empty when it gave none; null until it was asked. */
let refusal: string | null = null;
let askedRefusalMs = Number.NEGATIVE_INFINITY;

function handleAnswer(answer: Awaited<ReturnType<typeof fetchStream>>): void {
  failures = answer.kind === 'unreachable' ? failures + 1 : 0;
  if (answer.kind === 'ok') {
    stream = answer.value;
    api = stream.state;
    clockOffsetMs = answer.clockOffsetMs;
  } else {
    api = answer.kind;
    if (answer.kind === 'missing') stream = null;
  }
  drive();
  draw();
}

/** Loads when there is something to load, and starts again when media is there and the picture stands. */
function drive(): void {
  if (stream === null || (api !== 'live' && api !== 'away')) return;
  if (player.refused) return void askRefusal();
  if (refusalNow() !== null) return;
  // A playlist that ends at once must not be loaded in a tight circle.
  const due = performance.now() - loadedAtMs > 3_000;
  if (due && shouldLoad(stream, loadedBroadcast, player.motion)) {
    load();
  } else if (api === 'live') {
    player.nudge();
  } else {
    player.excuse();
  }
}

function load(): void {
  loadedBroadcast = stream?.broadcast ?? null;
  loadedAtMs = performance.now();
  refusal = null;
  askedRefusalMs = Number.NEGATIVE_INFINITY;
  player.load(playlistUrl(id, ticket));
}

/** Why this viewer may not watch, as the server's code; null when nothing is known to be against it. */
function refusalNow(): string | null {
  if (ticket === null && stream?.playback === 'ticket') return 'ticket_missing';
  return player.refused ? refusal : null;
}

/** Asks why loading was refused, and from then on whether it still is; when it no longer is, loads again. */
async function askRefusal(): Promise<void> {
  if (performance.now() - askedRefusalMs < ASK_REFUSAL_MS) return;
  askedRefusalMs = performance.now();
  const url = playlistUrl(id, ticket);
  const code = await fetchRefusal(url);
  // A new ticket came meanwhile.
  if (!player.refused || url !== playlistUrl(id, ticket)) return;
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
  drive();
  draw();
}

function draw(): void {
  const { motion } = player;
  if (player.stallMeter.played) seen = true;
  const barred = refusalNow();
  phase = phaseOf({ api, motion, seen, refused: barred !== null });
  // While the buffer still plays, "away" and the like only label the picture.
  const covering = phase !== 'live' && motion !== 'moving';
  const said = words(phase, id, barred ?? '');
  page.dataset['phase'] = phase;
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
  setText(announcer, said === null ? `${id} is live` : `${said.title}. ${said.text}`);
  setText(badge, BADGES[phase]);
  document.title = phase === 'live' ? `● ${id} · Weir` : `${id} · Weir`;
  unmute.hidden = !player.mutedByBrowser || !curtain.hidden;
  lowLatency.setAttribute('aria-pressed', String(player.lowLatency));
  const chosen = describeChoice(player);
  setText(choice, chosen);
  qualityButton.setAttribute('aria-label', `Quality: ${chosen}`);
  drawStream();
  // Not before there is a picture or something to say: the first picture would wait for them.
  if (phase !== 'connecting' && phase !== 'starting') buildControls();
}

/** Defines the elements of the controls, once. */
function buildControls(): void {
  void import('../player/chrome');
}

const BADGES: Record<Phase, string> = {
  connecting: '…',
  waiting: 'Offline',
  starting: 'Live',
  live: 'Live',
  away: 'Away',
  ended: 'Ended',
  unknown: 'Unknown',
  unreachable: 'No connection',
  refused: 'No entry',
};

function drawStream(): void {
  const begun = stream?.started != null && stream.state !== 'offline' ? Date.parse(stream.started) : Number.NaN;
  const lasted = Number.isNaN(begun) ? '' : since(begun, Date.now() + clockOffsetMs);
  setText(started, lasted === '' ? '' : lasted === 'just now' ? 'went live just now' : `live for ${lasted}`);

  const warnings = stream?.warnings ?? [];
  const shedNames = stream?.shed ?? [];
  const key = JSON.stringify([warnings, shedNames]);
  if (key === drawnNotes) return;
  drawnNotes = key;
  notes.hidden = warnings.length === 0;
  setText(noteCount, String(warnings.length));
  noteList.replaceChildren(
    ...warnings.map((warning) => {
      const item = make('li', '', make('p', 'note-text', warning.text));
      if (warning.fix !== '') item.append(make('p', 'note-fix', warning.fix));
      return item;
    }),
  );
  shed.hidden = shedNames.length === 0;
  setText(shed, shedNames.length === 0 ? '' : `The server is busy: ${shedNames.join(', ')} ${shedNames.length === 1 ? 'is' : 'are'} not offered for now.`);
}

function behind(): number | null {
  if (player.motion !== 'moving' || player.video.paused) return null;
  const madeMs = player.pictureMs;
  if (madeMs !== null) return (Date.now() + clockOffsetMs - madeMs) / 1000;
  return player.latency;
}

function drawReadings(): void {
  const { total, dropped } = player.frames;
  const last = player.stallMeter.stalls.at(-1);
  const reading: Reading = {
    behind: behind(),
    buffer: player.buffer,
    lowLatency: player.lowLatency,
    totalFrames: total,
    droppedFrames: dropped,
    stalled: player.motion === 'still' && phase === 'live',
    calm: last === undefined ? Number.POSITIVE_INFINITY : (performance.now() - last.atMs - last.durationMs) / 1000,
    moving: player.motion === 'moving' && !player.video.paused,
  };
  const health = healthOf(reading);
  signal.dataset['health'] = health;
  setText(readings.health, HEALTH_WORDS[health]);
  setText(readings.behind, describeBehind(reading));
  setText(readings.buffer, reading.moving ? seconds(reading.buffer) : '–');
  setText(readings.quality, describeQuality(player));
  setText(readings.dropped, total === 0 ? '–' : `${dropped} of ${total}`);
  setText(readings.stalls, String(player.stallMeter.count));
}

setText(byId('name', HTMLElement), id);
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
  player.seekToLive();
});
addEventListener('hashchange', handleFragment);
// Followed as a link it would put its own fragment in the ticket's place.
byId('skip', HTMLAnchorElement).addEventListener('click', (event) => {
  event.preventDefault();
  player.video.focus();
});
setInterval(() => {
  drive();
  drawReadings();
  draw();
}, 500);
setTimeout(buildControls, CONTROLS_WITHIN_MS);
poll(async () => {
  handleAnswer(await (firstAnswer ?? fetchStream(id)));
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
  stats: () => stats(player, phase, behind()),
};
