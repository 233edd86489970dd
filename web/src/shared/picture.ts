/** Pictures that the page shows. */
import { ticketed } from './ticketed';

/**
 * An address under which the page can show the picture at `path`; null when there is none. With a ticket it is one of the page's own:
 * the page's text must not hold the ticket.
 */
export async function pictureUrl(path: string, ticket: string | null): Promise<string | null> {
  if (ticket === null) return path;
  try {
    const response = await fetch(ticketed(path, ticket));
    return response.ok ? URL.createObjectURL(await response.blob()) : null;
  } catch {
    return null;
  }
}
