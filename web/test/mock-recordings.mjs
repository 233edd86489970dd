/**
 * What the mock server knows of broadcasts, clips and keys, and the API of them: past broadcasts made of the first chunks that there
 * are, clips as they are asked for. A test changes the fields of what `recordings` gives, and reads in `calls` what was asked.
 */

const CHUNK_S = 2;
export const OWNER = 'owner-secret';
export const ADMIN = 'admin-token';

const DAY_MS = 86_400_000;

/** `live` gives the stream's own broadcast, or null: `{ id, state, startMs, chunks, change }`, `chunks` being null while it goes on. */
export function recordings({ live, renditions }) {
  const known = {
    /** Newest first. */
    past: [],
    clips: new Map(),
    deleted: new Set(),
    /** Whether a viewer may clip. */
    mayClip: false,
    poster: false,
    /** Milliseconds that the API's `started` is before the playlist's first chunk. */
    skewMs: 0,
    /** Status that every list is answered with; null for the list. */
    failLists: null,
    calls: [],
    /** Puts so many broadcasts of the last days in the list. */
    fill(count, fields = () => ({})) {
      known.past = Array.from({ length: count }, (_, i) => ({
        id: `r${String(count - i).padStart(3, '0')}`, title: '', note: '', startMs: Date.UTC(2026, 10, 20, 18, 5) - i * DAY_MS, chunks: 20 + i, gaps: null, poster: false, storyboard: false,
        ...fields(i),
      }));
    },
    /** The past broadcast or the live one of this id; undefined when there is none. */
    find(id) {
      const now = live();
      if (now?.id === id) return now;
      return known.past.find((one) => one.id === id);
    },
    handle,
  };
  let clips = 0;

  const broadcast = (one) => {
    const ended = one.chunks !== null;
    return {
      id: one.id,
      stream: 'demo',
      title: one.title ?? '',
      note: one.note ?? '',
      state: ended ? 'ended' : one.state,
      started: new Date(one.startMs - (ended ? 0 : known.skewMs)).toISOString(),
      ended: ended ? new Date(one.startMs + one.chunks * CHUNK_S * 1000).toISOString() : null,
      duration_s: ended ? one.chunks * CHUNK_S : null,
      bytes: ended ? one.chunks * 525_000 : null,
      gaps: one.gaps ?? null,
      renditions: [...renditions, { name: 'audio', codec: 'mp4a.40.2', width: null, height: null, fps: null, kbps: 96 }],
      playlist: `/hls/demo/${one.id}/index.m3u8`,
      watch: `/watch/demo/${one.id}`,
      poster: one.poster ? `/hls/demo/${one.id}/poster.jpg` : null,
      storyboard: one.storyboard ? `/hls/demo/${one.id}/storyboard.vtt` : null,
    };
  };
  const clip = ({ id, of, title, from, to }) => ({
    id, stream: 'demo', broadcast: of, title, from, to, duration_s: to - from, created: new Date().toISOString(),
    playlist: `/hls/demo/${of}/clip.m3u8?from=${from}&to=${to}`,
    download: `/hls/demo/${of}/clip.mp4?from=${from}&to=${to}`,
    watch: `/watch/demo/${of}?clip=${id}`,
  });
  const page = (all, query, field, show) => {
    const before = query.get('before');
    const from = before === null ? 0 : all.findIndex(({ id }) => id === before) + 1;
    const items = all.slice(from, from + Number(query.get('limit') ?? 20));
    return { [field]: items.map(show), next: from + items.length < all.length ? (items.at(-1)?.id ?? null) : null };
  };

  /** Answers `{ status, body }` of an API path, or null when it is none of these. */
  function handle({ method, path, query, authorization, body }) {
    const is = (pattern) => new RegExp(`^/api/v1/${pattern}$`).exec(path);
    const key = /^Bearer (.+)$/.exec(authorization ?? '')?.[1] ?? null;
    const role = key === OWNER ? 'owner' : key === ADMIN ? 'admin' : 'viewer';
    const problem = (status, code, detail) => ({ status, body: { type: 'about:blank', title: 'Problem', status, code, detail } });
    const gone = () => problem(410, 'deleted', 'it was deleted');
    const none = () => problem(404, 'unknown', 'there is no such thing here');
    const mine = () => (role !== 'viewer' ? null : key === null ? problem(401, 'key_missing', 'this needs the stream key or the admin token') : problem(401, 'key_wrong', 'this key does not open the stream'));
    const ok = (answer, status = 200) => ({ status, body: answer });
    const write = method !== 'GET';
    if (write) known.calls.push({ method, path, key, body });

    if (is('streams/demo/access')) {
      if (key !== null && role === 'viewer') return problem(401, 'key_wrong', 'this key does not open the stream');
      return ok({ role, may_clip: known.mayClip || role !== 'viewer' });
    }
    if (is('streams/demo/broadcasts')) {
      if (known.failLists !== null) return problem(known.failLists, undefined, 'the store does not answer now');
      const now = live();
      const all = [...(now === null ? [] : [now]), ...known.past].filter(({ id }) => !known.deleted.has(id));
      return ok(page(all, query, 'broadcasts', broadcast));
    }
    if (is('streams/demo/clips')) return ok(page([...known.clips.values()].reverse(), query, 'clips', clip));
    const [, id, of] = is('broadcasts/(\\w+)(/clips)?') ?? [];
    if (id !== undefined) {
      if (known.deleted.has(id)) return gone();
      const one = known.find(id);
      if (one === undefined) return none();
      if (of !== undefined && method === 'POST') {
        if (!known.mayClip && mine() !== null) return mine();
        const at = (time) => (typeof time === 'number' ? time : (Date.parse(time) - one.startMs) / 1000);
        const [from, to] = [at(body.from), at(body.to)];
        if (!(from >= 0 && from < to)) return problem(400, 'bad_bounds', 'a clip ends after it begins');
        clips += 1;
        const made = { id: `c${clips}`, of: id, title: body.title ?? '', from, to };
        known.clips.set(made.id, made);
        return ok(clip(made), 201);
      }
      if (of !== undefined) return ok({ clips: [...known.clips.values()].filter((c) => c.of === id).map(clip), next: null });
      if (method === 'PATCH') {
        if (mine() !== null) return mine();
        if (one.change === undefined) Object.assign(one, body);
        else one.change(body);
        return ok(broadcast(known.find(id)));
      }
      if (method === 'DELETE') {
        if (mine() !== null) return mine();
        if (one.chunks === null) return problem(409, 'live', 'a broadcast that is live cannot be deleted');
        known.deleted.add(id);
        return ok({ job: 'j1' }, 202);
      }
      return ok(broadcast(one));
    }
    const [, clipId] = is('clips/(\\w+)') ?? [];
    if (clipId === undefined) return null;
    const found = known.clips.get(clipId);
    if (found === undefined) return none();
    if (method !== 'DELETE') return ok(clip(found));
    if (mine() !== null) return mine();
    known.clips.delete(clipId);
    return { status: 204, body: null };
  }

  return known;
}

/** The playlist of the chunks from `first` to before `last` of something finished. */
export function vod(first, last, startMs) {
  const lines = ['#EXTM3U', '#EXT-X-VERSION:8', '#EXT-X-TARGETDURATION:2', '#EXT-X-PLAYLIST-TYPE:VOD', '#EXT-X-INDEPENDENT-SEGMENTS', `#EXT-X-MEDIA-SEQUENCE:${first}`, '#EXT-X-MAP:URI="init.mp4"'];
  for (let k = first; k < last; k += 1) {
    lines.push(`#EXT-X-PROGRAM-DATE-TIME:${new Date(startMs + k * CHUNK_S * 1000).toISOString()}`, '#EXTINF:2.00000,', `${k}.m4s`);
  }
  return [...lines, '#EXT-X-ENDLIST', ''].join('\n');
}

/** A picture for each eight seconds, five by five on a sheet. */
export function storyboard(seconds) {
  const time = (s) => new Date(s * 1000).toISOString().slice(11, 23);
  const cues = [];
  for (let i = 0; i * 8 < seconds; i += 1) cues.push(`${time(i * 8)} --> ${time(i * 8 + 8)}\nsheet.jpg#xywh=${(i % 5) * 160},${Math.floor(i / 5) * 90},160,90`);
  return ['WEBVTT', ...cues, ''].join('\n\n');
}
