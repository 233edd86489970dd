/** The viewer's ticket: from the fragment of the page's address, which no server log and no referrer sees, into the playlist's. */

/** Texts that stay as they are in a path; `.` and `..` would not. */
const LEGAL = /^(?!\.{1,2}$)[A-Za-z0-9._~-]{1,4096}$/;

/** The ticket in `#ticket=...`; null when there is none, or none that can be one. */
export function ticketIn(fragment: string): string | null {
  const ticket = new URLSearchParams(fragment.replace(/^#/, '')).get('ticket');
  return ticket !== null && LEGAL.test(ticket) ? ticket : null;
}

/** Where the stream is played. Every address in its playlists is relative, so they keep the ticket. */
export function playlistUrl(id: string, ticket: string | null): string {
  const path = `/hls/${encodeURIComponent(id)}/index.m3u8`;
  return ticket === null ? path : `/t/${ticket}${path}`;
}
