/**
 * A stand-in for the server, for work on the pages alone: serves dist/ under the policy the pages need, the API, and
 * a live-looking HLS broadcast of chunks that ffmpeg makes once. Its state is set by hand:
 *
 *   node test/mock.mjs [--port 8099]
 *   curl -X POST 'http://127.0.0.1:8099/mock?state=away'     live, away, offline, missing, down
 *   curl -X POST 'http://127.0.0.1:8099/mock?warn=1'         a note for the streamer
 *   curl -X POST 'http://127.0.0.1:8099/mock?sound=only'     sound without picture
 *   curl -X POST 'http://127.0.0.1:8099/mock?parts=yes'      low-latency playlists, from the next broadcast on
 *   curl -X POST 'http://127.0.0.1:8099/mock?playback=ticket'
 *                                                            no play without a ticket; any but those below is good
 *   curl -X POST 'http://127.0.0.1:8099/mock?ticket=x&refuse=ticket_expired'
 *                                                            x is no longer good; without `refuse` it is again
 *   curl -X POST 'http://127.0.0.1:8099/mock?past=23'        so many past broadcasts (the owner's key: owner-secret)
 *   curl -X POST 'http://127.0.0.1:8099/mock?viewers=1234'   so many viewers, and as many messages a minute as a tenth of them
 */
import { execFile } from 'node:child_process';
import { createReadStream, existsSync } from 'node:fs';
import { mkdir, readFile, rename, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { audience } from './mock-audience.mjs';
import { recordings, storyboard, vod } from './mock-recordings.mjs';

/** The policy the pages must work under; src/http sends the same. */
export const CSP =
  "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; " +
  "connect-src 'self'; worker-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'";

const CHUNK_MS = 2_000;
const WINDOW = 15;
/** Parts in a chunk. */
const PARTS = 6;
const PART_MS = CHUNK_MS / PARTS;
/** Parts of sound are up to a frame longer. */
const PART_TARGET = 0.36;
const CHUNKS = 90;
const DIST = fileURLToPath(new URL('../dist/', import.meta.url));
const RENDITIONS = [
  { name: 'source', codec: 'avc1.64001f', width: 1280, height: 720, fps: 30, kbps: 1500 },
  { name: '480p', codec: 'avc1.64001f', width: 854, height: 480, fps: 30, kbps: 600 },
];
const TYPES = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml',
  '.mp4': 'video/mp4',
  '.m4s': 'video/mp4',
  '.jpg': 'image/jpeg',
};

/** Makes the chunks once, as files of one part, and keeps them in the temporary folder: three renditions on one grid. */
async function makeChunks() {
  const folder = join(tmpdir(), `weir-mock-parts-${CHUNKS}`);
  if (existsSync(folder)) return folder;
  const making = `${folder}.${process.pid}`;
  await mkdir(making, { recursive: true });
  await promisify(execFile)('ffmpeg', [
    '-hide_banner', '-loglevel', 'error', '-y',
    '-f', 'lavfi', '-i', 'testsrc2=size=1280x720:rate=30', '-f', 'lavfi', '-i', 'sine=frequency=330:sample_rate=48000',
    '-t', String((CHUNKS * CHUNK_MS) / 1000),
    '-map', '0:v', '-map', '0:v', '-map', '1:a',
    '-c:v', 'libx264', '-preset', 'ultrafast', '-g', '60', '-keyint_min', '60', '-sc_threshold', '0', '-pix_fmt', 'yuv420p',
    '-b:v:0', '1500k', '-b:v:1', '600k', '-filter:v:1', 'scale=854:480', '-c:a', 'aac', '-b:a', '96k',
    '-f', 'hls', '-hls_time', String(PART_MS / 1000), '-hls_flags', 'split_by_time', '-hls_segment_type', 'fmp4', '-hls_list_size', '0',
    '-var_stream_map', 'v:0,agroup:a,name:source v:1,agroup:a,name:480p a:0,agroup:a,name:audio',
    '-hls_segment_filename', join(making, '%v', '%d.m4s'), join(making, '%v', 'index.m3u8'),
  ]);
  // ffmpeg numbers the init files by variant.
  for (const [i, name] of ['source', '480p', 'audio'].entries()) await rename(join(making, name, `init_${i}.mp4`), join(making, name, 'init.mp4'));
  await rename(making, folder).catch(() => rm(making, { recursive: true }));
  return folder;
}

/** Makes a poster and a storyboard's sheet once. */
async function makePictures() {
  const folder = join(tmpdir(), 'weir-mock-pictures');
  if (existsSync(folder)) return folder;
  const making = `${folder}.${process.pid}`;
  await mkdir(making, { recursive: true });
  const source = ['-hide_banner', '-loglevel', 'error', '-y', '-f', 'lavfi', '-i', 'testsrc2=size=320x180:rate=1:duration=200'];
  await promisify(execFile)('ffmpeg', [...source, '-ss', '30', '-frames:v', '1', join(making, 'poster.jpg')]);
  await promisify(execFile)('ffmpeg', [...source, '-vf', 'fps=1/8,scale=160:90,tile=5x5', '-frames:v', '1', join(making, 'sheet.jpg')]);
  await rename(making, folder).catch(() => rm(making, { recursive: true }));
  return folder;
}

const read = (request) =>
  new Promise((resolve) => {
    let text = '';
    request.on('data', (data) => (text += data));
    request.on('end', () => resolve(text));
  });

const json = async (request) => {
  try {
    return JSON.parse(await read(request));
  } catch {
    return {};
  }
};

export async function startMock({ port = 0 } = {}) {
  const media = await makeChunks();
  const pictures = await makePictures();
  let state = 'live';
  let broadcast = null;
  let shows = 0;
  let warnings = [];
  let soundOnly = false;
  let parts = false;
  let playback = 'public';
  /** Code by ticket. */
  const refused = new Map();

  const known = recordings({
    renditions: RENDITIONS,
    live: () => {
      if (broadcast === null || state === 'missing') return null;
      const { id, startMs, end, title, note } = broadcast;
      return { id, state: state === 'away' ? 'away' : 'live', startMs, chunks: end, title, note, poster: known.poster, storyboard: known.poster, change: (fields) => Object.assign(broadcast, fields) };
    },
  });

  const watched = audience({ live: () => (state === 'offline' ? null : known.find(broadcast?.id) ?? null), find: (id) => known.find(id) });

  const count = () => Math.min(CHUNKS, Math.floor((Date.now() - broadcast.startMs) / CHUNK_MS));
  const partCount = () => Math.min(CHUNKS * PARTS, Math.floor((Date.now() - broadcast.startMs) / PART_MS));
  const set = (next) => {
    const before = state;
    state = next;
    if (next === 'live' && (broadcast === null || broadcast.end !== null)) {
      shows += 1;
      broadcast = { id: `b${shows}`, startMs: Date.now() - 4 * CHUNK_MS, gaps: [], end: null, parts };
    }
    if (broadcast === null) return;
    const gap = broadcast.gaps.at(-1);
    if (next === 'away' && before === 'live') broadcast.gaps.push({ from: count() + (broadcast.parts ? 1 : 0), to: Infinity });
    if (next === 'live' && gap?.to === Infinity) gap.to = count();
    if (next === 'offline' && broadcast.end === null) broadcast.end = count();
    if (next === 'down') watched.drop();
  };
  /** Puts the broadcast this many chunks on, as if their time had passed. */
  const pass = (chunks) => {
    broadcast.startMs -= chunks * CHUNK_MS;
  };
  set('live');

  /** What becomes of a ticket: null, it is good; else the code it is refused with. */
  const admit = (ticket, code) => (code === null ? refused.delete(ticket) : refused.set(ticket, code));

  const stream = () => ({
    id: 'demo',
    state: state === 'away' || state === 'live' ? state : 'offline',
    broadcast: state === 'offline' ? null : broadcast.id,
    started: state === 'offline' ? null : new Date(broadcast.startMs - known.skewMs).toISOString(),
    mode: soundOnly ? 'audio-only' : 'follow',
    playback,
    renditions: state === 'offline' || soundOnly ? [] : RENDITIONS,
    warnings,
    shed: [],
    poster: known.poster && state !== 'offline' ? `/hls/demo/${broadcast.id}/poster.jpg` : null,
    viewers: state === 'offline' ? null : watched.viewers,
  });
  /** A page of who is live. */
  const listed = (query) => {
    const all = [...(state === 'live' || state === 'away' ? [stream()] : []), ...watched.others.map((other) => ({ ...stream(), state: 'live', poster: null, ...other }))];
    const from = query.has('after') ? all.findIndex(({ id }) => id === query.get('after')) + 1 : 0;
    const streams = all.slice(from, from + Number(query.get('limit') ?? 50));
    return { streams, next: from + streams.length < all.length ? streams.at(-1).id : null, rtmp_port: null };
  };
  /** `folder` is where the renditions are, `query` what their playlists are asked with, `start` seconds where play begins. */
  const multivariant = (folder, query, start = null) =>
    soundOnly
      ? ['#EXTM3U', '#EXT-X-VERSION:7', '#EXT-X-STREAM-INF:BANDWIDTH=110000,CODECS="mp4a.40.2"', `${folder}audio/index.m3u8${query}`, ''].join('\n')
      : ['#EXTM3U', '#EXT-X-VERSION:7', '#EXT-X-INDEPENDENT-SEGMENTS', ...(start === null ? [] : [`#EXT-X-START:TIME-OFFSET=${start.toFixed(3)},PRECISE=YES`]),
      `#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="audio",DEFAULT=YES,AUTOSELECT=YES,URI="${folder}audio/index.m3u8${query}"`,
      ...RENDITIONS.flatMap((r) => [
        `#EXT-X-STREAM-INF:BANDWIDTH=${r.kbps * 1200},AVERAGE-BANDWIDTH=${r.kbps * 1000},CODECS="${r.codec},mp4a.40.2",RESOLUTION=${r.width}x${r.height},FRAME-RATE=30,AUDIO="a"`,
        `${folder}${r.name}/index.m3u8${query}`,
      ]), ''].join('\n');
  const partLines = (k, n) =>
    Array.from({ length: n }, (_, i) => `#EXT-X-PART:DURATION=${(PART_MS / 1000).toFixed(5)},URI="${k}.${i}.m4s"${i === 0 ? ',INDEPENDENT=YES' : ''}`);
  /** `whole`: from the start on, also while it goes on. */
  const mediaPlaylist = (whole) => {
    const last = broadcast.end ?? count();
    const first = broadcast.end === null && !whole ? Math.max(0, last - WINDOW) : 0;
    const gapAt = (k) => broadcast.gaps.some((gap) => k >= gap.from && k < gap.to);
    const breakAt = (k) => broadcast.gaps.some((gap) => k === gap.to);
    const lines = ['#EXTM3U', '#EXT-X-VERSION:8', '#EXT-X-TARGETDURATION:2', '#EXT-X-INDEPENDENT-SEGMENTS', `#EXT-X-MEDIA-SEQUENCE:${first}`,
      ...(broadcast.end !== null ? ['#EXT-X-PLAYLIST-TYPE:VOD'] : whole ? ['#EXT-X-PLAYLIST-TYPE:EVENT'] : []),
      ...(broadcast.parts ? [`#EXT-X-PART-INF:PART-TARGET=${PART_TARGET}`, `#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=${3 * PART_TARGET}`] : []),
      `#EXT-X-DISCONTINUITY-SEQUENCE:${broadcast.gaps.filter((gap) => gap.to < first).length}`, '#EXT-X-MAP:URI="init.mp4"'];
    for (let k = first; k < last; k += 1) {
      if (breakAt(k) && k > first) lines.push('#EXT-X-DISCONTINUITY', '#EXT-X-MAP:URI="init.mp4"');
      if (gapAt(k)) lines.push('#EXT-X-GAP');
      else if (broadcast.parts && k >= last - 3) lines.push(...partLines(k, PARTS));
      lines.push(`#EXT-X-PROGRAM-DATE-TIME:${new Date(broadcast.startMs + k * CHUNK_MS).toISOString()}`, '#EXTINF:2.00000,', `${k}.m4s`);
    }
    if (broadcast.end !== null) lines.push('#EXT-X-ENDLIST');
    else if (broadcast.parts) {
      const n = gapAt(last) ? 0 : partCount() - last * PARTS;
      // Never left out: hls.js 1.7 takes the last chunk for an unfinished one where no tag follows it.
      lines.push(...partLines(last, n), `#EXT-X-PRELOAD-HINT:TYPE=PART,URI="${last}.${n}.m4s"`);
    }
    return [...lines, ''].join('\n');
  };

  const file = (response, path, headers = {}) => {
    if (!existsSync(path)) return text(response, 404, 'text/plain', 'not found');
    response.writeHead(200, { 'content-type': TYPES[extname(path)] ?? 'application/octet-stream', ...headers });
    return createReadStream(path).pipe(response);
  };
  /** A chunk is its parts one after the other. */
  const chunk = async (response, folder, k) => {
    const files = await Promise.all(Array.from({ length: PARTS }, (_, i) => readFile(join(folder, `${k * PARTS + i}.m4s`))));
    response.writeHead(200, { 'content-type': 'video/mp4' });
    response.end(Buffer.concat(files));
  };
  const text = (response, status, type, body, headers = {}) => {
    response.writeHead(status, { 'content-type': type, 'cache-control': 'no-store', ...headers });
    response.end(body);
  };
  const answer = (response, { status = 200, body }) =>
    text(response, status, status < 400 ? 'application/json' : 'application/problem+json', body === null ? '' : JSON.stringify(body));
  const problem = (response) =>
    text(response, 404, 'application/problem+json', JSON.stringify({ type: 'about:blank', title: 'Unknown stream', status: 404, detail: 'no such stream' }));
  const refuse = (response, code) => {
    const status = ['ticket_missing', 'ticket_invalid', 'ticket_expired'].includes(code) ? 401 : 403;
    text(response, status, 'application/problem+json', JSON.stringify({ title: 'Refused', status, detail: `refused: ${code}`, code }));
  };

  /** Playlists, pictures and downloads of what is not live; false when it is none of that. */
  const recorded = (request, response, path, query) => {
    const [, show, rendition, name] = /^\/hls\/demo\/(\w+)\/(?:(\w+)\/)?([\w.]+)$/.exec(path) ?? [];
    // Named clips outlive their broadcast, with their chunks.
    if (known.deleted.has(show) && !query.has('to') && /\.(m3u8|mp4|jpg|vtt)$/.test(name) && name !== 'init.mp4') return false;
    const one = known.find(show);
    if (show === undefined) return false;
    if (one !== undefined && /^(poster|sheet)\.jpg$/.test(name)) return file(response, join(pictures, name));
    if (one !== undefined && name === 'storyboard.vtt') return text(response, 200, 'text/vtt', storyboard((one.chunks ?? count()) * 2));
    if (one !== undefined && /^(index|clip)\.mp4$/.test(name)) return text(response, 200, 'video/mp4', 'not a film', { 'content-disposition': `attachment; filename="${show}.mp4"` });
    if (one === undefined) return false;
    const playlist = (body) => text(response, 200, 'application/vnd.apple.mpegurl', body);
    const bounds = ['from', 'to'].map((side) => Number(query.get(side) ?? Number.NaN));
    const cut = bounds.every(Number.isFinite) ? bounds : null;
    if (name === 'clip.m3u8' && cut !== null) return playlist(multivariant('', `?from=${cut[0]}&to=${cut[1]}`, cut[0] % 2));
    if (name === 'index.m3u8' && cut !== null) return playlist(vod(Math.floor(cut[0] / 2), Math.ceil(cut[1] / 2), one.startMs));
    // The live one has all else in its own way.
    if (show === broadcast?.id) return false;
    if (name === 'index.m3u8' && rendition === undefined) return playlist(multivariant('', ''));
    if (name === 'index.m3u8') return playlist(vod(0, one.chunks, one.startMs));
    if (name === 'init.mp4') return file(response, join(media, rendition, name));
    const [, k] = /^(\d+)\.m4s$/.exec(name) ?? [];
    return k === undefined ? false : chunk(response, join(media, rendition), Number(k));
  };

  /** Tells a listener every half second, until it goes. */
  const listen = (request, response, now) => {
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
    const tell = () => response.write(`event: now\ndata: ${JSON.stringify(now())}\n\n`);
    tell();
    const timer = setInterval(tell, 500);
    watched.sockets.add(request.socket);
    request.socket.once('close', () => {
      clearInterval(timer);
      watched.sockets.delete(request.socket);
    });
  };

  const server = createServer(async (request, response) => {
    const url = new URL(request.url, 'http://mock');
    const path = normalize(url.pathname);
    if (path === '/mock') {
      if (url.searchParams.has('parts')) parts = url.searchParams.get('parts') === 'yes';
      if (url.searchParams.has('state')) set(url.searchParams.get('state'));
      if (url.searchParams.has('sound')) soundOnly = url.searchParams.get('sound') === 'only';
      if (url.searchParams.has('playback')) playback = url.searchParams.get('playback');
      if (url.searchParams.has('ticket')) admit(url.searchParams.get('ticket'), url.searchParams.get('refuse'));
      if (url.searchParams.has('past')) {
        known.fill(Number(url.searchParams.get('past')), (i) => ({ title: i % 3 === 1 ? '' : `Evening session ${i + 1}`, poster: i % 2 === 0, storyboard: true }));
      }
      if (url.searchParams.has('viewers')) {
        watched.viewers = Number(url.searchParams.get('viewers'));
        watched.chat = Array.from({ length: watched.viewers / 10 }, (_, i) => Date.now() - i * 500);
      }
      if (url.searchParams.has('warn')) {
        warnings = [{ code: 'long_keyframe_interval', text: 'Keyframes come every 8.3 s, so the picture is encoded once more to cut it every 2 s.', fix: 'In OBS: Settings, Output, set Keyframe Interval to 2 s.' }];
        watched.warnings = warnings;
      }
      return text(response, 200, 'text/plain', `${state}\n`);
    }
    if (state === 'down') return request.socket.destroy();
    if (path === '/') return file(response, join(DIST, 'index.html'), { 'content-security-policy': CSP });
    if (path.startsWith('/watch/')) return file(response, join(DIST, 'watch.html'), { 'content-security-policy': CSP });
    if (path.startsWith('/studio/')) return file(response, join(DIST, 'studio.html'), { 'content-security-policy': CSP });
    if (path.startsWith('/assets/')) return file(response, join(DIST, path));
    if (path === '/api/v1/streams') return answer(response, { body: listed(url.searchParams) });
    if (path === '/api/v1/streams/demo' && state !== 'missing') return answer(response, { body: stream() });
    const [, ticket = null, bare = path] = /^\/t\/([^/]+)(\/(?:hls|api)\/.*)$/.exec(path) ?? [];
    const code = ticket !== null ? refused.get(ticket) : playback === 'ticket' && (path.startsWith('/hls/') || path.startsWith('/api/')) ? 'ticket_missing' : undefined;
    if (code !== undefined) return refuse(response, code);
    if (bare.startsWith('/api/')) {
      const { method, headers } = request;
      if (bare === '/api/v1/cmcd') return answer(response, watched.take(path, headers['content-type'], await read(request)));
      const body = method === 'GET' ? null : await json(request);
      const asked = { method, path: bare, query: url.searchParams, authorization: headers.authorization, body };
      const told = state === 'missing' ? null : (watched.handle(asked) ?? known.handle(asked));
      if (told?.events !== undefined) return listen(request, response, told.events);
      if (told?.csv !== undefined) return text(response, 200, 'text/csv', told.csv);
      return told === null ? problem(response) : answer(response, told);
    }
    if (recorded(request, response, bare, url.searchParams) !== false) return;
    const deleted = /^\/hls\/demo\/(\w+)\//.exec(bare)?.[1];
    if (known.deleted.has(deleted)) return text(response, 410, 'application/problem+json', JSON.stringify({ status: 410, detail: 'it was deleted' }));
    const hls = /^\/hls\/demo\/(?:(\w+)\/(?:(\w+)\/)?)?(index\.m3u8|init\.mp4|(\d+)(?:\.(\d+))?\.m4s)$/.exec(bare);
    if (hls === null || broadcast === null) return problem(response);
    const [, show, rendition, name, k, part] = hls;
    if (show !== undefined && show !== broadcast.id) return problem(response);
    const playlist = 'application/vnd.apple.mpegurl';
    if (name === 'index.m3u8') {
      const whole = url.searchParams.get('from') === 'start';
      const folder = show === undefined ? `${broadcast.id}/` : '';
      const tell = () => text(response, 200, playlist, rendition === undefined ? multivariant(folder, whole ? '?from=start' : '') : mediaPlaylist(whole));
      const [msn, wantedPart] = ['_HLS_msn', '_HLS_part'].map((key) => url.searchParams.get(key));
      const until = msn === null ? 0 : Number(msn) * PARTS + (wantedPart === null ? PARTS : Number(wantedPart) + 1);
      // Timers may fire a little early.
      return void setTimeout(tell, broadcast.startMs + until * PART_MS + 5 - Date.now());
    }
    if (name === 'init.mp4') return file(response, join(media, rendition, name));
    const gap = broadcast.gaps.some(({ from, to }) => Number(k) >= from && Number(k) < to);
    const index = Number(k) * PARTS + Number(part ?? PARTS - 1);
    if (gap || index >= partCount()) return problem(response);
    return part === undefined ? chunk(response, join(media, rendition), Number(k)) : file(response, join(media, rendition, `${index}.m4s`));
  });
  await new Promise((resolve) => server.listen(port, '127.0.0.1', resolve));
  return { url: `http://127.0.0.1:${server.address().port}`, set, pass, admit, known, watched, close: () => server.close() };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({ options: { port: { type: 'string', default: '8099' } } });
  const mock = await startMock({ port: Number(values.port) });
  console.log(`mock server: ${mock.url}/watch/demo`);
}
