/**
 * What the mock server knows of viewers: the reports that pages send, kept for tests to read, and made-up numbers of the last hours for
 * the studio. A test changes the fields of what `audience` gives.
 */
import { ADMIN, OWNER } from './mock-recordings.mjs';

const STEP_S = 60;
const RENDITIONS = ['source', '480p', 'audio'];
/** 2025-01-01T00:00:00Z, which ids of chat events count from. */
const EVENTS_SINCE = 1_735_689_600_000;
const DIGITS = '0123456789abcdefghjkmnpqrstvwxyz';

/** The id of a chat event of this moment. */
export function eventId(atMs, n = 0) {
  let value = (BigInt(atMs - EVENTS_SINCE) << 22n) + BigInt(n);
  let id = '';
  for (let i = 0; i < 13; i += 1) {
    id = DIGITS[Number(value & 31n)] + id;
    value >>= 5n;
  }
  return id;
}

/** `live` gives the stream's broadcast of now or null; `find` any by its id: `{ id, startMs, chunks }`. */
export function audience({ live, find }) {
  const known = {
    /** Each body that came: `{ path, type, lines }`. */
    reports: [],
    /** What the next reports are answered with. */
    answer: { status: 204, body: null },
    viewers: null,
    /** Other streams of the list: `{ id, viewers }`. */
    others: [],
    marks: [],
    /** Minutes before now in which there are no rows: `[from, to]`. */
    gap: [14, 18],
    /** Whether there are numbers at all, the events are told, and the ingest has something to say. */
    empty: false,
    events: true,
    warnings: [],
    /** Times of chat messages (ms); null where there is no chat. */
    chat: null,
    /** Keys that were good and are no more. */
    revoked: new Set(),
    sockets: new Set(),
    handle,
    take,
    /** Lets go of the listeners, as a server that stops does. */
    drop() {
      for (const socket of known.sockets) socket.destroy();
    },
  };

  /** The same for the same minute, so that a reload shows the same. */
  const wave = (minute) => {
    const crowd = 900 + 500 * Math.sin(minute / 47) + 120 * Math.sin(minute / 7) + 40 * Math.sin(minute * 1.7);
    return Math.max(3, crowd);
  };
  const count = (atMs) => known.viewers ?? Math.round(wave(atMs / 60_000));

  const now = () => {
    const viewers = live() === null || known.empty ? 0 : count(Date.now());
    return {
      at: new Date().toISOString(),
      viewers,
      paused: Math.round(viewers * 0.03),
      estimate: Math.round(viewers * 0.11),
      renditions: viewers === 0 ? [] : [{ name: 'source', viewers: Math.round(viewers * 0.62) }, { name: '480p', viewers: Math.round(viewers * 0.33) }, { name: 'audio', viewers: Math.round(viewers * 0.05) }],
      kbps: viewers === 0 ? null : 3_240,
      latency_ms: viewers === 0 ? null : 2_350,
      stalled: Math.round(viewers * 0.004),
    };
  };

  const series = (fromMs, toMs, points) => {
    const step = Math.max(STEP_S, Math.ceil((toMs - fromMs) / 1000 / points / STEP_S) * STEP_S);
    const [first, last] = [Math.ceil(fromMs / 1000 / step), Math.floor(toMs / 1000 / step)];
    const rows = [];
    for (let k = first; k <= last && !known.empty; k += 1) {
      const atMs = k * step * 1000;
      const ago = (Date.now() - atMs) / 60_000;
      if (known.gap !== null && ago > known.gap[0] && ago < known.gap[1]) continue;
      const minute = atMs / 60_000;
      const viewers = wave(minute);
      const poor = Math.max(0, Math.sin(minute / 19) - 0.86) * 9;
      const shares = [0.6 - poor * 0.2, 0.34 + poor * 0.2, 0.06];
      rows.push({
        at: new Date(atMs).toISOString(),
        viewers: Number(viewers.toFixed(1)),
        peak: Math.round(viewers * 1.04),
        joins: Math.round(viewers * 0.08),
        minutes: Number(((viewers * step) / 60).toFixed(1)),
        stalls: Math.round(viewers * (0.01 + poor * 0.2)),
        stall_ms: Math.round(viewers * (40 + poor * 700)),
        startup_ms: Math.round(620 + 160 * Math.sin(minute / 5) + poor * 500),
        kbps: Math.round(3_300 - poor * 900),
        latency_ms: Math.round(2_300 + 180 * Math.sin(minute / 11) + poor * 900),
        errors: poor > 0.3 ? Math.round(poor * 4) : 0,
        renditions: Object.fromEntries(RENDITIONS.map((name, i) => [name, Number((viewers * shares[i]).toFixed(1))])),
      });
    }
    return { step, rows };
  };

  const total = (rows, step) => {
    if (rows.length === 0) return null;
    const minutes = rows.reduce((sum, row) => sum + row.minutes, 0);
    const top = rows.reduce((most, row) => (row.peak > most.peak ? row : most));
    const stallMs = rows.reduce((sum, row) => sum + row.stall_ms, 0);
    return {
      joins: rows.reduce((sum, row) => sum + row.joins, 0),
      uniques: Math.round(rows.reduce((sum, row) => sum + row.joins, 0) * 0.8),
      minutes,
      average: minutes / ((rows.length * step) / 60),
      peak: top.peak,
      peak_at: top.at,
      startup_ms: { p50: 640, p95: 1_850 },
      stalls: rows.reduce((sum, row) => sum + row.stalls, 0),
      stall_ms: stallMs,
      stall_ratio: stallMs / 60_000 / minutes,
      kbps: 3_180,
      latency_ms: 2_400,
      errors: [{ code: 'fragLoadError', count: 41 }, { code: 'levelLoadTimeOut', count: 7 }, { code: 'bufferAppendError', count: 2 }],
      renditions: RENDITIONS.map((name, i) => ({ name, minutes: minutes * [0.6, 0.34, 0.06][i] })),
    };
  };

  const told = (id, broadcast, fromMs, toMs, points) => {
    const { step, rows } = series(fromMs, toMs, points);
    return {
      stream: id, broadcast: broadcast?.id ?? null, now: now(), total: broadcast === null ? null : total(rows, step), step_s: step, series: rows,
      marks: known.marks.filter(({ at }) => Date.parse(at) >= fromMs && Date.parse(at) <= toMs),
    };
  };
  const over = (one) => told('demo', one, one.startMs, one.chunks === null ? Date.now() : one.startMs + Math.max(600, one.chunks * 2) * 1000, 1000);

  const ingest = () => {
    const one = live();
    const on = one !== null && one.state === 'live';
    const history = Array.from({ length: on ? 60 : 0 }, (_, i) => {
      const atMs = (Math.floor(Date.now() / 2_000) - 59 + i) * 2_000;
      return { at: new Date(atMs).toISOString(), kbps: Math.round(5_900 + 400 * Math.sin(atMs / 9_000)), fps: 30 };
    });
    return {
      state: one === null ? 'offline' : one.state, gateway: on ? 'node-2' : null, since: one === null ? null : new Date(one.startMs).toISOString(),
      kbps: on ? 6_010 : null, audio_kbps: on ? 160 : null, fps: on ? 30 : null, keyframe_s: on ? 2 : null, width: on ? 1920 : null, height: on ? 1080 : null,
      video: on ? 'avc1.640028' : null, audio: on ? 'mp4a.40.2' : null, dropped: on ? 3 : 0, behind_ms: null, warnings: on ? known.warnings : [], history,
    };
  };

  /** Takes a body of reports; gives the answer. */
  function take(path, type, text) {
    known.reports.push({ path, type, lines: text.split('\n') });
    return known.answer;
  }

  /** Answers `{ status, body }` of an API path, `{ events }` for a listener, `{ csv }`, or null when it is none of these. */
  function handle({ method, path, query, authorization, body }) {
    const is = (pattern) => new RegExp(`^/api/v1/${pattern}$`).exec(path);
    const key = /^Bearer (.+)$/.exec(authorization ?? '')?.[1] ?? null;
    const good = (key === OWNER || key === ADMIN) && !known.revoked.has(key);
    const refused = { status: 401, body: { title: 'Refused', status: 401, code: 'key_wrong', detail: 'this is neither the stream\'s key nor the admin token' } };
    const ok = (answer, status = 200) => ({ status, body: answer });
    if (is('streams/demo/access') && known.revoked.has(key)) return refused;
    if (is('streams/demo/chat/history')) {
      if (known.chat === null) return null;
      const messages = [...known.chat].sort((a, b) => b - a).slice(0, Number(query.get('limit')));
      return ok({ messages: messages.map((atMs, n) => ({ type: 'message', id: eventId(atMs, n), user: 'u', name: 'U', text: 'x' })), next: null });
    }
    if (is('streams/demo/audience')) {
      if (!good) return refused;
      const time = (name, otherwise) => (query.has(name) ? Date.parse(query.get(name)) || Number(query.get(name)) : otherwise);
      const toMs = time('to', Date.now());
      return ok(told('demo', live(), time('from', toMs - 1_800_000), toMs, Number(query.get('points') ?? 1000)));
    }
    if (is('streams/demo/audience/events')) return !good ? refused : known.events ? { events: now } : null;
    if (is('streams/demo/marks') && method === 'POST') {
      if (!good) return refused;
      const mark = { at: new Date().toISOString(), label: body.label };
      known.marks.push(mark);
      return ok(mark, 201);
    }
    if (is('streams/demo/ingest')) return good ? ok(ingest()) : refused;
    const [, id, csv] = is('broadcasts/(\\w+)/audience(\\.csv)?') ?? [];
    if (id === undefined) return null;
    if (!good) return refused;
    const one = find(id);
    if (one === undefined) return null;
    if (csv === undefined) return ok(over(one));
    const rows = over(one).series.map((row) => `${row.at},${row.viewers},${row.peak}`);
    return { status: 200, csv: ['at,viewers,peak', ...rows, ''].join('\n') };
  }

  return known;
}
