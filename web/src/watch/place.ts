/** What the address of a watch page names. Pure. */

export interface Place {
  stream: string;
  /** The broadcast of `/watch/{stream}/{broadcast}`; null on the stream's own page. */
  broadcast: string | null;
  /** `?clip=...` of a broadcast. */
  clip: string | null;
  /** `?t=...`: where to start, seconds from the broadcast's start. */
  at: number | null;
}

export function placeOf({ pathname, search }: { pathname: string; search: string }): Place {
  const [, , stream = '', broadcast = ''] = pathname.split('/').map(decode);
  const query = new URLSearchParams(search);
  const at = Number(query.get('t') ?? Number.NaN);
  return {
    stream,
    broadcast: broadcast === '' ? null : broadcast,
    clip: broadcast === '' ? null : query.get('clip') || null,
    at: Number.isFinite(at) && at >= 0 ? at : null,
  };
}

/** What cannot be decoded names nothing there is; it stays as it is. */
function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
