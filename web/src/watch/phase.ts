/** What the watch page says, decided from what the API answered last and what the player does. Pure. */
import type { Stream } from '../shared/api';
import type { Motion } from '../player/terms';
import { backoffMs } from '../shared/backoff';

export type Phase =
  /** No answer yet. */
  | 'connecting'
  /** The stream exists and is not live. */
  | 'waiting'
  /** An encoder is there, no picture yet. */
  | 'starting'
  | 'live'
  /** The encoder is gone, the broadcast is kept open for it. */
  | 'away'
  | 'ended'
  /** No stream of that name. */
  | 'unknown'
  | 'unreachable'
  /** A recording's first picture is on its way. */
  | 'opening'
  | 'recorded'
  /** It was there and was deleted. */
  | 'gone'
  /** There is a stream, and this viewer may not watch it. */
  | 'refused';

/** What a watch page is for. */
export type What = 'stream' | 'recording' | 'clip';

export interface Facts {
  /** `recorded`: the page is of a broadcast that has ended. */
  api: 'none' | 'missing' | 'gone' | 'refused' | 'unreachable' | 'recorded' | Stream['state'];
  motion: Motion;
  /** Something was played since the page opened. */
  seen: boolean;
  /** The server refuses this viewer the stream. */
  refused: boolean;
  /** Something before the live edge is on screen, of a broadcast that still goes on or is over; absent when it is the edge. */
  tape?: 'on' | 'over' | undefined;
}

export function phaseOf(facts: Facts): Phase {
  const taped = facts.api === 'recorded' || facts.tape !== undefined ? tapePhase(facts) : null;
  return taped ?? livePhase(facts);
}

/** While something before the live edge is on screen; null when the broadcast's own end is to be told. */
function tapePhase({ api, motion, refused, tape }: Facts): Phase | null {
  if (motion !== 'moving') {
    if (refused) return 'refused';
    if (api === 'gone') return 'gone';
    if (api === 'unreachable' && motion !== 'ended') return 'unreachable';
    if (motion === 'idle' || motion === 'loading') return 'opening';
    if (motion === 'ended' && tape === 'over' && api !== 'recorded' && api !== 'unreachable') return null;
  }
  return tape === 'on' ? 'live' : 'recorded';
}

function livePhase({ api, motion, seen, refused }: Facts): Phase {
  const moving = motion === 'moving';
  // What is buffered is played to its end before the page says that it is over.
  const barred = refused && !moving;
  switch (api) {
    case 'none':
      return 'connecting';
    case 'recorded':
      return 'recorded';
    case 'gone':
      return moving ? 'recorded' : 'gone';
    case 'refused':
      return moving ? 'live' : 'refused';
    case 'starting':
      return moving ? 'live' : barred ? 'refused' : 'starting';
    case 'live':
      if (barred) return 'refused';
      return motion === 'moving' || motion === 'still' ? 'live' : 'starting';
    case 'away':
      return barred ? 'refused' : 'away';
    case 'offline':
      return moving ? 'live' : seen ? 'ended' : barred ? 'refused' : 'waiting';
    case 'missing':
      return moving ? 'live' : seen ? 'ended' : 'unknown';
    case 'unreachable':
      return moving ? 'live' : 'unreachable';
  }
}

/**
 * Whether the player should load the stream's playlist now. A new broadcast waits until the one on
 * screen has been played out; both have the same address.
 */
export function shouldLoad(stream: Pick<Stream, 'state' | 'broadcast'>, loaded: string | null, motion: Motion): boolean {
  if (stream.state === 'offline' || stream.state === 'starting') return false;
  if (motion === 'idle') return true;
  if (motion === 'ended') return true;
  return stream.broadcast !== loaded && motion !== 'moving';
}

export interface Words {
  title: string;
  text: string;
}

/** What the page says in each phase, `refusal` being the server's code; `null` when the picture speaks for itself. */
export function words(phase: Phase, name: string, refusal = '', what: What = 'stream'): Words | null {
  switch (phase) {
    case 'connecting':
      return { title: 'Connecting', text: '' };
    case 'waiting':
      return { title: `${name} is not live yet`, text: 'Leave this page open: it starts by itself when the stream does.' };
    case 'starting':
      return { title: 'Starting', text: '' };
    case 'opening':
      return { title: what === 'clip' ? 'Opening the clip' : what === 'recording' ? 'Opening the recording' : 'Going there', text: '' };
    case 'live':
    case 'recorded':
      return null;
    case 'gone':
      return what === 'clip'
        ? { title: 'This clip was deleted', text: `It cannot be watched any more. There may be others of ${name}.` }
        : { title: 'This recording was deleted', text: `It cannot be watched any more. There may be others of ${name}.` };
    case 'away':
      return { title: 'The streamer is away', text: 'Coming back? The picture goes on here by itself.' };
    case 'ended':
      return { title: 'The broadcast has ended', text: `When ${name} goes live again, it starts here by itself.` };
    case 'unknown':
      if (what === 'recording') return { title: 'No such recording', text: `${name} has none under this address. Check it, or see what else there is.` };
      if (what === 'clip') return { title: 'No such clip', text: `There is none under this address. Check it, or see what else ${name} has.` };
      return { title: 'No such stream', text: `Nobody streams as “${name}” here. Check the address, or see who is live.` };
    case 'unreachable':
      return { title: 'The server does not answer', text: 'Trying again until it does. You need not reload the page.' };
    case 'refused':
      return refusalWords(refusal, name);
  }
}

function refusalWords(code: string, name: string): Words {
  switch (code) {
    case 'ticket_missing':
      return { title: 'A ticket is needed to watch', text: 'Open the link you were sent: your ticket is in it.' };
    case 'ticket_invalid':
      return { title: 'This ticket is not valid', text: 'Copy the whole link you were sent and open it again, or ask for a new one.' };
    case 'ticket_expired':
      return { title: 'Your ticket has expired', text: 'Ask for a new link where you got this one.' };
    case 'ticket_early':
      return { title: 'Your ticket is not valid yet', text: 'Leave this page open: it starts by itself when the time has come.' };
    case 'ticket_other_stream':
      return { title: 'This ticket is for another stream', text: `Open the link you were sent for ${name}.` };
    case 'ticket_other_address':
      return { title: 'This ticket is for another network', text: 'Watch from the network you got it on, without a VPN, or ask for a new link.' };
    case 'ticket_revoked':
      return { title: 'Your ticket was withdrawn', text: 'Ask where you got it whether you can have a new one.' };
    default:
      return { title: 'You may not watch this stream', text: 'Ask whoever sent you here for a link that lets you in.' };
  }
}

/** Milliseconds until the API is asked again, by `random` in [0, 1): eager when something is about to change. */
export function askAgainMs(api: Facts['api'], failures: number, hidden: boolean, random: number): number {
  if (api === 'unreachable') return backoffMs({ firstMs: 1_000, longestMs: 8_000 }, failures, random);
  // What has ended changes no more; it can only be deleted.
  if (api === 'recorded' || api === 'gone' || api === 'refused') return backoffMs({ firstMs: 30_000, longestMs: 30_000 }, 0, random);
  const waitMs = api === 'missing' ? 5_000 : hidden ? 15_000 : api === 'live' ? 4_000 : api === 'starting' ? 200 : 1_000;
  return backoffMs({ firstMs: waitMs, longestMs: waitMs }, 0, random);
}
