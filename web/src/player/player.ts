/**
 * Keeps one video element playing one HLS address: hls.js where there is MSE, the browser's own HLS elsewhere.
 *
 * In: an address, to be played at its live edge or as a whole from some time on; the viewer's wishes (latency, quality, place). Out:
 * `onChange` whenever something worth drawing changed, and readings. It recovers from every error by itself, first inside hls.js, then
 * with a new instance, and goes on trying until `unload`; only where the server refuses (401, 403) it plays out what it has and
 * rests. It knows nothing of the API and never touches the page around the video.
 */
import Hls, { ErrorDetails, ErrorTypes, Events, type ErrorData, type Fragment, type HlsConfig } from 'hls.js';
import { backoffMs } from '../shared/backoff';
import { MAX_LATENCY_CHUNKS, hlsConfig } from './config';
import { LastPicture } from './last-picture';
import { rateAt } from './pace';
import { VideoRenditions, named, type ChromeVideo } from './renditions';
import { StallMeter } from './stall';
import { exactly, type Load, type Motion } from './terms';

const RETRY = { firstMs: 500, longestMs: 8_000 };

/** Readings are taken this often; a stall of 200 ms must not fall between two of them. */
const SAMPLE_MS = 50;

/** A playhead that stands this long while it should move gets a new hls.js instance. */
const STUCK_MS = 10_000;

/** After a halt this long play goes on with next to no buffer, or too far behind to catch up. */
const LONG_STALL_MS = 3_000;

/** After each halt hls.js stays farther behind, and never comes back. When nothing halted for so long it does here. */
const CALM_MS = 60_000;

/** A start in a hole is left after this: hls.js hangs when it is started anew while its first requests are on their way. */
const HOLE_MS = 500;

/** A second decoding error this soon after the first is not helped by the same remedy. */
const MEDIA_ERROR_APART_MS = 5_000;

/** An estimated beginning that is wrong by less stays (seconds): a second look for it would take longer. */
const NEAR_ENOUGH = 0.5;

export class Player {
  readonly renditions = new VideoRenditions();
  readonly stallMeter = new StallMeter();
  readonly video: HTMLVideoElement;

  hls: Hls | null = null;
  fatalErrors = 0;
  /** New hls.js instances made to recover. */
  restarts = 0;
  waitingEvents = 0;
  /** The last errors, newest last, also those hls.js dealt with itself. */
  readonly errors: string[] = [];
  /** The browser allowed playing only without sound. */
  mutedByBrowser = false;
  /** The browser did not allow playing at all before a gesture. */
  blocked = false;
  /** The server refused what is loaded: nothing more is asked of it until the next start. */
  refused = false;

  #last: LastPicture;
  #onChange: () => void;
  #url: string | null = null;
  /** Where the whole is played from, and from where it is again after an error; null at the live edge. */
  #from: number | null = null;
  #lasts: number | null = null;
  #dateMs: number | null = null;
  /** Where a playlist that says so (EXT-X-START) begins, seconds; null when it does not. */
  #startOffset: number | null = null;
  #native = false;
  #lowLatency = true;
  #attempt = 0;
  #retry: ReturnType<typeof setTimeout> | undefined;
  #wantsPlay = true;
  /** While true, a pause is ours (media exchanged), not the viewer's. */
  #exchanging = false;
  #movedSinceLoad = false;
  #stillSinceMs: number | null = null;
  #mediaErrorMs = Number.NEGATIVE_INFINITY;
  /** The chunk in a hole at which play was to begin, until media after it is there; null when it began elsewhere. */
  #hole: { chunk: number; atMs: number } | null = null;
  /** Since when play is held back to fill the buffer after a long halt; null when it is not. */
  #heldSinceMs: number | null = null;
  /** The distance that hls.js aimed at last (seconds), and when it was raised. */
  #aimed = 0;
  #raisedMs = 0;
  /** The quality chosen by hand, by id so that it survives a new instance; null is automatic. */
  #chosen: string | null = null;

  constructor(video: HTMLVideoElement, onChange: () => void) {
    this.video = video;
    this.#last = new LastPicture(video);
    this.#onChange = onChange;
    const player = this;
    const chrome = video as ChromeVideo;
    chrome.streamType = 'live';
    chrome.targetLiveWindow = 0;
    chrome.videoRenditions = this.renditions;
    Object.defineProperty(chrome, 'liveEdgeStart', { get: () => player.#liveEdgeStart() });
    this.renditions.onSelect = (index) => this.#select(index);
    for (const type of ['playing', 'waiting', 'ended', 'volumechange', 'resize', 'loadeddata'] as const) {
      video.addEventListener(type, () => this.#handleMedia(type));
    }
    video.addEventListener('play', () => {
      this.#wantsPlay = true;
      // What ended begins again; the browser knows only the bounds of the playlist.
      if (this.#over || (this.#lasts !== null && video.currentTime < this.origin)) video.currentTime = this.origin;
      this.#followEdge();
      this.blocked = false;
      this.#onChange();
    });
    video.addEventListener('pause', () => {
      // An error pauses the browser's own HLS; that is not the viewer either.
      if (!this.#exchanging && !video.ended && video.error === null) this.#wantsPlay = false;
      this.#followEdge();
      this.#onChange();
    });
    video.addEventListener('error', () => {
      void this.#handleNativeError();
    });
    setInterval(() => this.#sample(), SAMPLE_MS);
  }

  get motion(): Motion {
    const { video } = this;
    if (this.#url === null) return 'idle';
    if (video.ended || (this.#over && video.paused)) return 'ended';
    if (!this.#movedSinceLoad && this.blocked) return 'moving';
    if (!this.#movedSinceLoad && !this.#last.shown) return 'loading';
    if (video.paused && !this.#wantsPlay) return 'moving';
    return this.holding || this.stallMeter.stalled || video.readyState < HTMLMediaElement.HAVE_FUTURE_DATA ? 'still' : 'moving';
  }

  /** Whether media is there again after a long halt and play waits for the buffer to fill. */
  get holding(): boolean {
    return this.#heldSinceMs !== null;
  }

  /** Whether there is a picture to show, if only the last one. */
  get pictured(): boolean {
    return this.#last.shown || (this.#movedSinceLoad && this.video.videoWidth > 0);
  }

  /** Whether the browser leaves the latency to this player; its own HLS decides by itself. */
  get choosesLatency(): boolean {
    return Hls.isSupported();
  }

  /** Whether parts are played about a second behind the edge, where the playlist has them. */
  get lowLatency(): boolean {
    return this.#lowLatency;
  }

  /** What is loaded starts again in the other mode; its last picture stays until then. */
  set lowLatency(on: boolean) {
    if (on === this.#lowLatency) return;
    this.#lowLatency = on;
    // The whole is played in chunks either way.
    if (this.#url === null || this.whole) return;
    this.#freeze();
    this.#attempt = 0;
    this.#start();
  }

  /** What is loaded; null when nothing is. */
  get url(): string | null {
    return this.#url;
  }

  /** Plays this address; a playlist loaded before is dropped. */
  load(url: string, { from = null, lasts = null, dateMs = null, keepPicture = false }: Load = {}): void {
    if (keepPicture) this.#freeze();
    else this.#last.drop();
    this.#url = url;
    this.#from = from;
    this.#lasts = lasts;
    this.#dateMs = dateMs;
    this.#startOffset = null;
    this.#attempt = 0;
    this.#movedSinceLoad = false;
    this.#start();
  }

  /** Stops and frees everything; the picture goes. */
  unload(): void {
    this.#url = null;
    this.refused = false;
    this.#last.drop();
    clearTimeout(this.#retry);
    this.#drop();
    this.#onChange();
  }

  /** Whether what is loaded has shown itself. */
  get begun(): boolean {
    return this.#movedSinceLoad;
  }

  /** Whether a playlist of everything is played, not the window behind the live edge. */
  get whole(): boolean {
    return this.#from !== null;
  }

  /** Whether what is loaded will not grow any more. */
  get finished(): boolean {
    const details = this.hls?.latestLevelDetails;
    return details == null ? this.#native && Number.isFinite(this.video.duration) : !details.live;
  }

  /** Media time (seconds) at which what is loaded begins for the viewer. */
  get origin(): number {
    return this.#lasts === null ? 0 : (this.#startOffset ?? 0);
  }

  /** Media time (seconds) of the oldest that can be played; null when unknown. */
  get oldest(): number | null {
    const { seekable } = this.video;
    return this.hls?.latestLevelDetails?.fragmentStart ?? (this.#native && seekable.length > 0 ? seekable.start(0) : null);
  }

  /** Media time (seconds) at which what is loaded ends by now; null when unknown. */
  get edge(): number | null {
    if (this.#lasts !== null) return this.origin + this.#lasts;
    const { seekable } = this.video;
    const details = this.hls?.latestLevelDetails;
    if (details == null) return this.#native && seekable.length > 0 ? seekable.end(seekable.length - 1) : null;
    // The age of a playlist that is no longer renewed says nothing.
    return details.edge + (details.live ? Math.min(details.age, details.targetduration) : 0);
  }

  /** Whether play is as near to live as it can be. */
  get atEdge(): boolean {
    return this.video.currentTime >= this.#liveEdgeStart();
  }

  /** Seconds behind the live edge that a viewer can be without being taken to it. */
  get reach(): number {
    return (MAX_LATENCY_CHUNKS - 2) * this.#chunkSeconds;
  }

  /** Wall-clock time (milliseconds since 1970) of the whole's beginning; null when unknown. */
  get zeroMs(): number | null {
    const first = this.whole ? this.hls?.latestLevelDetails?.fragments[0] : undefined;
    return first?.programDateTime == null ? null : first.programDateTime - first.start * 1000;
  }

  /** Goes to this media time (seconds); a viewer who paused stays paused. */
  seek(to: number): void {
    const { video } = this;
    if (this.whole && video.readyState === HTMLMediaElement.HAVE_NOTHING) {
      // Not even begun: it begins there instead.
      this.#from = to;
      this.#dateMs = null;
      this.#start();
    } else {
      this.#dateMs = null;
      video.currentTime = to;
    }
    this.#onChange();
  }

  /** Takes the viewer to the live edge and plays. */
  seekToLive(): void {
    const { video } = this;
    const target = this.hls?.liveSyncPosition ?? (video.seekable.length > 0 ? video.seekable.end(video.seekable.length - 1) - 1 : null);
    if (target !== null && Number.isFinite(target)) video.currentTime = Math.max(video.currentTime, target);
    this.#play();
  }

  /** Whoever asks for something new wants to see it, paused or not. */
  wishToPlay(): void {
    this.#wantsPlay = true;
  }

  unmute(): void {
    this.mutedByBrowser = false;
    this.video.muted = false;
    if (this.video.volume === 0) this.video.volume = 1;
    this.#play();
    this.#onChange();
  }

  /** Seconds of media ahead of the playhead. */
  get buffer(): number {
    const { buffered, currentTime } = this.video;
    for (let i = 0; i < buffered.length; i += 1) {
      if (buffered.start(i) <= currentTime + 0.1 && currentTime < buffered.end(i)) return buffered.end(i) - currentTime;
    }
    return 0;
  }

  /** Seconds the playhead is behind the end of the playlist; null when unknown. */
  get latency(): number | null {
    const latency = this.hls?.latency;
    return latency === undefined || !Number.isFinite(latency) || !this.#movedSinceLoad ? null : latency;
  }

  /** Seconds behind the end of the playlist that hls.js aims at; null when unknown. */
  get targetLatency(): number | null {
    return this.hls?.targetLatency ?? null;
  }

  /** Wall-clock time (milliseconds since 1970) at which the picture shown was made; null when unknown. */
  get pictureMs(): number | null {
    if (!this.#movedSinceLoad) return null;
    if (!this.#native) return this.hls?.playingDate?.getTime() ?? null;
    const start = (this.video as { getStartDate?: () => Date }).getStartDate?.().getTime() ?? Number.NaN;
    return Number.isFinite(start) ? start + this.video.currentTime * 1000 : null;
  }

  /** The quality on screen: an index into `renditions`, -1 when unknown. */
  get shown(): number {
    return this.hls?.currentLevel ?? -1;
  }

  get automatic(): boolean {
    return this.#chosen === null;
  }

  get frames(): { total: number; dropped: number } {
    const quality = this.video.getVideoPlaybackQuality?.();
    return { total: quality?.totalVideoFrames ?? 0, dropped: quality?.droppedVideoFrames ?? 0 };
  }

  #start(): void {
    const url = this.#url;
    if (url === null) return;
    clearTimeout(this.#retry);
    // After an error the whole goes on where it was.
    if (this.#from !== null && this.#movedSinceLoad) this.#from = this.video.currentTime;
    const known = this.#whatIsKnown();
    this.#drop();
    this.refused = false;
    this.#movedSinceLoad = false;
    this.#stillSinceMs = null;
    this.#hole = null;
    this.#release();
    if (Hls.isSupported()) {
      const hls = new Hls({ ...hlsConfig(this.#lowLatency, this.whole), ...known, startPosition: this.#from ?? -1 });
      this.hls = hls;
      this.#followEdge();
      hls.on(Events.MANIFEST_PARSED, () => {
        this.#listRenditions();
        this.#play();
      });
      if (this.whole) {
        hls.once(Events.MANIFEST_LOADED, (_event, data) => (this.#startOffset = data.startTimeOffset));
        hls.once(Events.LEVEL_LOADED, (_event, { details }) => {
          this.#startOffset ??= details.startTimeOffset;
          this.#correctStart(hls, details.fragments);
        });
      }
      for (const event of [Events.LEVELS_UPDATED, Events.LEVEL_SWITCHED] as const) {
        hls.on(event, () => {
          if (event === Events.LEVELS_UPDATED) this.#listRenditions();
          this.#onChange();
        });
      }
      hls.on(Events.ERROR, (_event, data) => this.#handleError(hls, data));
      hls.attachMedia(this.video);
      hls.loadSource(url);
    } else if (this.video.canPlayType('application/vnd.apple.mpegurl') !== '') {
      this.#native = true;
      this.video.src = url;
      const from = this.#from ?? -1;
      if (from >= 0) this.video.addEventListener('loadedmetadata', () => (this.video.currentTime = from), { once: true });
      this.#play();
    } else {
      this.#note('this browser plays neither MSE nor HLS');
    }
    this.#onChange();
  }

  /** What was learned of the network and the quality: what goes on from a picture begins with it, not from nothing. */
  #whatIsKnown(): Partial<HlsConfig> {
    const { hls } = this;
    if (hls === null || !this.#last.shown || hls.levels.length === 0) return {};
    return { abrEwmaDefaultEstimate: hls.bandwidthEstimate, startLevel: hls.loadLevel };
  }

  /** Where the estimated beginning turns out wrong, goes to the one that was meant. */
  #correctStart(hls: Hls, fragments: readonly Fragment[]): void {
    const dateMs = this.#dateMs;
    if (dateMs === null || this.#from === null) return;
    const exact = exactly(fragments, dateMs);
    if (exact === null) return;
    if (Math.abs(exact - this.#from) < NEAR_ENOUGH) return;
    this.#from = exact;
    const go = (): void => {
      if (hls === this.hls && this.#dateMs === dateMs) this.video.currentTime = exact;
    };
    if (this.video.readyState > HTMLMediaElement.HAVE_NOTHING) go();
    else this.video.addEventListener('loadedmetadata', go, { once: true });
  }

  /** hls.js takes a viewer to the edge who falls too far behind: not one who paused, and not one who went back. */
  #followEdge(): void {
    // Its constructor takes this only with a liveSyncDurationCount, which low latency must not have.
    if (this.hls !== null) this.hls.config.liveMaxLatencyDurationCount = this.whole || !this.#wantsPlay ? Infinity : MAX_LATENCY_CHUNKS;
  }

  /** Whether play reached the end that it was given. */
  get #over(): boolean {
    return this.#lasts !== null && this.video.currentTime >= this.origin + this.#lasts - SAMPLE_MS / 1000;
  }

  #drop(): void {
    this.#exchanging = true;
    this.hls?.destroy();
    this.hls = null;
    if (this.#native) {
      this.video.removeAttribute('src');
      this.video.load();
      this.#native = false;
    }
    this.renditions.replace([], -1);
    // The pause event of the exchange is queued; it is ours too.
    setTimeout(() => (this.#exchanging = false), 0);
  }

  #freeze(): void {
    if (this.#movedSinceLoad && this.video.videoWidth > 0) this.#last.keep();
  }

  #play(): void {
    if (!this.#wantsPlay) return;
    const { video } = this;
    video.play().catch((error: unknown) => {
      if (!(error instanceof DOMException) || error.name !== 'NotAllowedError') return;
      if (!video.muted) {
        video.muted = true;
        this.mutedByBrowser = true;
        this.#play();
      } else {
        this.blocked = true;
      }
      this.#onChange();
    });
  }

  #handleMedia(type: 'playing' | 'waiting' | 'ended' | 'volumechange' | 'resize' | 'loadeddata'): void {
    if (type === 'waiting' && this.stallMeter.played && !this.video.seeking) this.waitingEvents += 1;
    if (type === 'volumechange' && !this.video.muted) this.mutedByBrowser = false;
    // The first picture is shown now, not when the next reading is due.
    if (type === 'playing') this.#sample();
    this.#onChange();
  }

  /** The browser's own HLS does not tell why it failed, so this asks. */
  async #handleNativeError(): Promise<void> {
    const url = this.#url;
    if (!this.#native || url === null) return;
    const reason = `media: ${this.video.error?.message ?? 'unknown'}`;
    const status = await fetch(url, { cache: 'no-store', signal: AbortSignal.timeout(8_000) }).then((response) => response.status, () => 0);
    if (!this.#native || url !== this.#url) return;
    if (isRefusal(status)) this.#refuse();
    else this.#fail(reason);
  }

  #handleError(hls: Hls, data: ErrorData): void {
    if (hls !== this.hls || this.refused) return;
    this.#note(`${data.fatal ? 'fatal ' : ''}${data.details}: ${data.error?.message ?? ''}`);
    if (isRefusal(data.response?.code)) return this.#refuse();
    if (data.details === ErrorDetails.FRAG_GAP && !this.#movedSinceLoad && typeof data.frag?.sn === 'number') {
      this.#hole = { chunk: Math.max(this.#hole?.chunk ?? 0, data.frag.sn), atMs: performance.now() };
    }
    if (!data.fatal) return;
    if (data.type === ErrorTypes.MEDIA_ERROR) {
      const now = performance.now();
      const first = now - this.#mediaErrorMs > MEDIA_ERROR_APART_MS;
      this.#mediaErrorMs = now;
      if (first) {
        this.fatalErrors += 1;
        hls.recoverMediaError();
        this.#play();
        return;
      }
    }
    if (data.type === ErrorTypes.NETWORK_ERROR && hls.levels.length > 0 && this.motion === 'moving') {
      // What is buffered still plays; a new instance would throw it away.
      this.fatalErrors += 1;
      clearTimeout(this.#retry);
      this.#retry = setTimeout(() => hls.startLoad(), backoffMs(RETRY, 0, Math.random()));
      return;
    }
    this.#fail(data.details);
  }

  /**
   * An encoder that came back leaves a hole in the playlist. hls.js jumps over one between two buffered pieces, but stands
   * for ever where its start position lies in one: then play begins at the first chunk after it, once there is one.
   */
  #maybeLeaveHole(nowMs: number): void {
    const { hls } = this;
    if (hls === null || this.#hole === null) return;
    if (this.#movedSinceLoad || this.video.buffered.length > 0) {
      this.#hole = null;
      return;
    }
    const { chunk, atMs } = this.#hole;
    if (nowMs - atMs < HOLE_MS) return;
    const after = hls.latestLevelDetails?.fragments.find((fragment) => fragment.sn > chunk && fragment.gap !== true);
    if (after === undefined) return;
    this.#hole = null;
    hls.startLoad(after.start);
  }

  /** Asks for nothing more. hls.js would try its other levels first; they have the same ticket. */
  #refuse(): void {
    this.refused = true;
    this.#hole = null;
    clearTimeout(this.#retry);
    this.hls?.stopLoad();
    this.#onChange();
  }

  /** Counts a fatal error and makes a new start after a growing wait. The last picture stays until then. */
  #fail(reason: string): void {
    this.fatalErrors += 1;
    this.hls?.stopLoad();
    this.#restartLater(reason);
  }

  #restartLater(reason: string): void {
    clearTimeout(this.#retry);
    const waitMs = backoffMs(RETRY, this.#attempt, Math.random());
    this.#attempt += 1;
    this.#note(`starts again in ${waitMs} ms: ${reason}`);
    this.#retry = setTimeout(() => {
      this.restarts += 1;
      this.#start();
    }, waitMs);
    this.#onChange();
  }

  #note(text: string): void {
    if (this.errors.at(-1) === text) return;
    this.errors.push(text);
    if (this.errors.length > 40) this.errors.shift();
  }

  #sample(): void {
    const { video, stallMeter } = this;
    const nowMs = performance.now();
    const { stalled: stalledBefore, played: playedBefore } = stallMeter;
    stallMeter.handle({
      nowMs,
      position: video.currentTime,
      mayRest: video.paused || video.ended || video.seeking || this.holding || !this.#movedSinceLoad,
    });
    if (this.#over && !video.paused) video.pause();
    // The whole shows where a viewer who paused has gone.
    const begun = video.paused ? this.whole && !this.#wantsPlay : video.played.length > 0;
    if (!this.#movedSinceLoad && begun && !video.seeking && video.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA) {
      this.#movedSinceLoad = true;
      this.#last.drop();
      this.#onChange();
    }
    if (stalledBefore && !stallMeter.stalled && (stallMeter.stalls.at(-1)?.durationMs ?? 0) >= LONG_STALL_MS) this.#rejoin(nowMs);
    this.#maybeRelease(nowMs);
    this.#comeBack(nowMs);
    this.#keepDistance();
    this.#maybeLeaveHole(nowMs);
    if (stalledBefore !== stallMeter.stalled || playedBefore !== stallMeter.played) this.#onChange();

    const stuck = this.#url !== null && this.#wantsPlay && !this.blocked && (this.motion === 'still' || this.motion === 'loading');
    if (!stuck) {
      this.#stillSinceMs = null;
      if (this.motion === 'moving') this.#attempt = 0;
    } else if (this.#stillSinceMs === null) {
      this.#stillSinceMs = nowMs;
    }
  }

  /** Takes back what halts added to the distance that the playlist asks for. */
  #comeBack(nowMs: number): void {
    const { hls } = this;
    const asked = hls?.latestLevelDetails?.partHoldBack ?? 0;
    const target = hls?.targetLatency ?? 0;
    if (hls === null || !this.#inParts || asked === 0) return;
    if (target > this.#aimed) this.#raisedMs = nowMs;
    this.#aimed = target;
    if (target > asked + 0.1 && nowMs - this.#raisedMs > CALM_MS) hls.targetLatency = asked;
  }

  /** Keeps the distance to the live edge, by the rate. */
  #keepDistance(): void {
    const { video, latency, buffer } = this;
    if (this.whole || this.#native || this.holding) return;
    const wanted = rateAt({
      inParts: this.#inParts,
      rate: video.playbackRate,
      latency: this.finished ? null : latency,
      target: this.targetLatency,
      buffer,
      part: this.#partSeconds,
      chunk: this.#chunkSeconds,
    });
    if (video.playbackRate !== wanted) video.playbackRate = wanted;
  }

  /**
   * After a long halt. A viewer in low latency who is so far behind that catching up would take long is taken to the edge.
   * Who is at the edge, or in regular mode, waits until two parts or chunks are buffered.
   */
  #rejoin(nowMs: number): void {
    const { video } = this;
    const sync = this.hls?.liveSyncPosition ?? null;
    if (this.#partSeconds > 0 && sync !== null && sync - video.currentTime > this.#chunkSeconds) video.currentTime = sync;
    else this.#hold(nowMs);
  }

  /** Holds play back by its rate: pausing would look like the viewer's pause. */
  #hold(nowMs: number): void {
    if (this.hls === null || this.video.paused || this.buffer >= 2 * this.#pieceSeconds) return;
    this.#heldSinceMs = nowMs;
    this.video.playbackRate = 0;
    this.#onChange();
  }

  #maybeRelease(nowMs: number): void {
    if (this.#heldSinceMs === null) return;
    // Pieces may be a little shorter than announced.
    const full = this.buffer >= 1.9 * this.#pieceSeconds;
    const tooLong = nowMs - this.#heldSinceMs > 3_000 * this.#pieceSeconds;
    if (full || tooLong || this.video.paused) this.#release();
  }

  #release(): void {
    if (this.#heldSinceMs === null) return;
    this.#heldSinceMs = null;
    this.video.playbackRate = 1;
    this.#onChange();
  }

  get #chunkSeconds(): number {
    return this.hls?.latestLevelDetails?.targetduration ?? 2;
  }

  /** Longest part of the playlist, seconds; 0 when it is not played part by part. */
  get #partSeconds(): number {
    return this.#inParts ? (this.hls?.latestLevelDetails?.partTarget ?? 0) : 0;
  }

  /** Whether parts are played where there are any. */
  get #inParts(): boolean {
    return this.#lowLatency && !this.whole;
  }

  /** What arrives at once: a part or a chunk. */
  get #pieceSeconds(): number {
    return this.#partSeconds || this.#chunkSeconds;
  }

  /** How long the playhead has stood although it should move, milliseconds. */
  get stillMs(): number {
    return this.#stillSinceMs === null ? 0 : performance.now() - this.#stillSinceMs;
  }

  /** For a caller who knows that there is media to play: a playhead that stands for long gets a new start. */
  nudge(): void {
    if (this.stillMs < STUCK_MS) return;
    this.#stillSinceMs = null;
    this.#restartLater('stuck');
  }

  /** For a caller who knows that there is nothing new to play: a playhead that stands meanwhile is not stuck. */
  excuse(): void {
    this.#stillSinceMs = null;
  }

  #liveEdgeStart(): number {
    const { hls, video } = this;
    if (this.whole) return Number.NaN;
    const sync = hls?.liveSyncPosition;
    // The playhead is nowhere near exact: one and a half chunks of tolerance, with parts about a second.
    if (sync !== null && sync !== undefined) return sync - (3 * this.#partSeconds || 1.5 * this.#chunkSeconds);
    return this.#native && video.seekable.length > 0 ? video.seekable.end(video.seekable.length - 1) - 10 : Number.NaN;
  }

  #listRenditions(): void {
    const levels = this.hls?.levels ?? [];
    const listed = levels.filter((level) => level.width > 0).length === levels.length ? named(levels) : [];
    const index = listed.findIndex((rendition) => rendition.id === this.#chosen);
    this.renditions.replace(listed, index);
    if (index >= 0 && this.hls !== null && this.hls.loadLevel !== index) this.hls.nextLevel = index;
  }

  /** The viewer's choice: taken from the next chunk on, what is buffered of the current one is played out. */
  #select(index: number): void {
    this.#chosen = this.renditions[index]?.id ?? null;
    if (this.hls === null) return;
    if (index < 0) this.hls.loadLevel = -1;
    else this.hls.nextLevel = index;
    this.#onChange();
  }
}

const isRefusal = (status: number | undefined): boolean => status === 401 || status === 403;
