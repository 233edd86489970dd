/** Draws what is told about a stream, a recording or a clip beside the picture. */
import type { Stream } from '../shared/api';
import { byId, make, setText } from '../shared/dom';
import { clock, dateAndTime, since, watching } from '../shared/format';
import { lengthOf, titleOf, type Broadcast, type Clip } from '../shared/recordings';
import type { Phase } from './phase';

const name = byId('name', HTMLElement);
const badge = byId('badge', HTMLElement);
const started = byId('started', HTMLElement);
const viewers = byId('viewers', HTMLElement);
const title = byId('title', HTMLElement);
const owner = byId('owner', HTMLAnchorElement);
const note = byId('note', HTMLElement);
const missing = byId('missing', HTMLElement);
const wholeLink = byId('whole-link', HTMLAnchorElement);
const notes = byId('notes', HTMLDetailsElement);
const noteCount = byId('note-count', HTMLElement);
const noteList = byId('note-list', HTMLElement);
const shed = byId('shed', HTMLElement);

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
  opening: '…',
  recorded: 'Recording',
  gone: 'Deleted',
};

export interface About {
  stream: Stream | null;
  /** The broadcast on screen, as far as it is known. */
  broadcast: Broadcast | null;
  clip: Clip | null;
  phase: Phase;
  nowMs: number;
}

let drawnNotes = '';

/** The page of a stream. */
export function drawStream({ stream, broadcast, phase, nowMs }: About): void {
  setText(badge, phase === 'recorded' ? 'Ended' : BADGES[phase]);
  const begun = stream?.started != null && stream.state !== 'offline' ? Date.parse(stream.started) : Number.NaN;
  const lasted = Number.isNaN(begun) ? '' : since(begun, nowMs);
  setText(started, lasted === '' ? '' : lasted === 'just now' ? 'went live just now' : `live for ${lasted}`);
  setText(viewers, stream?.state === 'live' || stream?.state === 'away' ? watching(stream.viewers) : '');
  setText(title, broadcast !== null && broadcast.id === stream?.broadcast ? broadcast.title : '');

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

/** The page of a recording or a clip. */
export function drawRecording({ broadcast, clip, phase }: About, stream: string): void {
  setText(badge, phase === 'recorded' && clip !== null ? 'Clip' : BADGES[phase]);
  // Without either its title is not known, and perhaps never will be.
  if (phase === 'connecting') return;
  owner.hidden = broadcast === null && clip === null;
  setText(owner, stream);
  owner.href = `/watch/${encodeURIComponent(stream)}`;
  if (clip !== null) return drawClip(clip, broadcast);
  setText(name, broadcast === null ? stream : titleOf(broadcast));
  const facts = broadcast === null || broadcast.title === '' ? [] : [dateAndTime(broadcast.started)];
  if (broadcast !== null) facts.push(broadcast.state === 'ended' ? clock(lengthOf(broadcast) ?? 0) : 'still going on');
  setText(started, facts.join(' · '));
  note.hidden = broadcast === null || broadcast.note === '';
  setText(note, broadcast?.note ?? '');
  const gaps = broadcast?.gaps ?? null;
  missing.hidden = gaps === null || gaps.count === 0;
  if (gaps !== null) setText(missing, `${clock(gaps.seconds)} is missing, in ${gaps.count === 1 ? 'one place' : `${gaps.count} places`}: the encoder was away.`);
}

/** `whole` is null where only the clip is left. */
function drawClip(clip: Clip, whole: Broadcast | null): void {
  setText(name, clip.title !== '' ? clip.title : whole === null ? 'Clip' : `Clip of ${titleOf(whole)}`);
  setText(started, [clock(Math.round(clip.to - clip.from)), ...(whole === null ? ['the recording was deleted'] : [])].join(' · '));
  wholeLink.hidden = whole === null;
  if (whole === null) return;
  wholeLink.href = `${whole.watch}?t=${Math.floor(clip.from)}`;
  setText(wholeLink, `Watch the whole: ${titleOf(whole)}`);
}
