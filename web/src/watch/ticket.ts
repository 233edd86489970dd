/**
 * The viewer's ticket: from the fragment of the page's address, which no server log and no referrer sees, into the playlist's. The
 * page's text never holds it.
 */
import { ticketed } from '../shared/ticketed';

/** Texts that stay as they are in a path; `.` and `..` would not. */
const LEGAL = /^(?!\.{1,2}$)[A-Za-z0-9._~-]{1,4096}$/;

/** The ticket in `#ticket=...`; null when there is none, or none that can be one. */
export function ticketIn(fragment: string): string | null {
  const ticket = new URLSearchParams(fragment.replace(/^#/, '')).get('ticket');
  return ticket !== null && LEGAL.test(ticket) ? ticket : null;
}

/** Where the stream is played. Every address in its playlists is relative, so they keep the ticket. */
export function playlistUrl(id: string, ticket: string | null): string {
  return ticketed(`/hls/${encodeURIComponent(id)}/index.m3u8`, ticket);
}

/** Where one broadcast is played: the live window while it goes on. */
export function broadcastUrl(id: string, broadcast: string, ticket: string | null): string {
  return ticketed(`/hls/${encodeURIComponent(id)}/${encodeURIComponent(broadcast)}/index.m3u8`, ticket);
}

/** Where one broadcast is played from its start on, also while it goes on. */
export function wholeUrl(id: string, broadcast: string, ticket: string | null): string {
  return `${broadcastUrl(id, broadcast, ticket)}?from=start`;
}

/** Lets links between the watch pages take the ticket along, from the moment they are followed until that is done. */
export function carryTicket(ticket: () => string | null): void {
  for (const type of ['click', 'auxclick'] as const) {
    document.addEventListener(type, (event) => {
      const link = event.target instanceof Element ? event.target.closest('a') : null;
      const now = ticket();
      // A link with a fragment of its own goes to another place on this page.
      if (now === null || link === null || link.hash !== '' || link.origin !== location.origin || !/^\/(watch|chat)\//.test(link.pathname)) return;
      const before = link.href;
      link.hash = `ticket=${now}`;
      setTimeout(() => (link.href = before), 0);
    });
  }
}
