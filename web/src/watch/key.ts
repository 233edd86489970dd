/** The key of an owner who manages a stream on this page: kept for as long as the tab is open, never in an address. */

/** For where there is no storage. */
const held = new Map<string, string>();

/** Takes a stream key as OBS has it (`name?key=secret`, perhaps after the server's address), its secret alone, or the admin token. */
export function readKey(given: string, stream: string): { secret: string } | { wrong: string } {
  const text = given.trim();
  if (text === '') return { wrong: 'Enter the key first.' };
  const [, name, secret] = /(?:^|\/)([^/?\s]*)\?(?:[^\s]*&)?key=([^&\s]+)/.exec(text) ?? [];
  if (secret !== undefined) return name === stream || name === '' ? { secret } : { wrong: `This key is for ${name}, not for ${stream}.` };
  // Only what can stand in a header can be a key.
  return /^[\x21-\x7e]+$/.test(text) ? { secret: text } : { wrong: 'This is no key: copy it once more, from its first letter to its last.' };
}

export function recallKey(stream: string): string | null {
  try {
    return sessionStorage.getItem(name(stream)) ?? held.get(stream) ?? null;
  } catch {
    return held.get(stream) ?? null;
  }
}

/** Keeps the key; null forgets it. */
export function keepKey(stream: string, key: string | null): void {
  if (key === null) held.delete(stream);
  else held.set(stream, key);
  try {
    if (key === null) sessionStorage.removeItem(name(stream));
    else sessionStorage.setItem(name(stream), key);
  } catch {
    // No storage: the key holds until the page is left.
  }
}

function name(stream: string): string {
  return `weir.key.${stream}`;
}
