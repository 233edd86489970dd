/** Downloads, asked about first: the browser would show the server's refusal as a page, or as a file that failed without a word. */
import { failureOf, type Failure } from '../shared/api';
import { ticketed } from '../shared/ticketed';

/** Starts a download; gives why there is none. */
export async function download(path: string, ticket: string | null): Promise<Failure | null> {
  const url = ticketed(path, ticket);
  try {
    const response = await fetch(url, { method: 'HEAD', cache: 'no-store', signal: AbortSignal.timeout(30_000) });
    // A server that does not answer this question may still give the file.
    if (!response.ok && response.status !== 405 && response.status !== 501) return await failureOf(response);
  } catch {
    return { kind: 'unreachable', code: '', words: 'The server does not answer. Try again in a moment.' };
  }
  const link = document.createElement('a');
  link.href = url;
  link.download = '';
  link.click();
  return null;
}
