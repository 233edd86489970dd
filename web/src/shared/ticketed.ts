/** Paths with a viewer's ticket in them. */

/** `/hls/...` or `/api/...` as `/t/{ticket}/...`; as it is without a ticket. */
export function ticketed(path: string, ticket: string | null): string {
  return ticket === null ? path : `/t/${ticket}${path}`;
}
