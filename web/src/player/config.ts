/**
 * How hls.js is set, patient with a server that is gone for a while. Low latency: parts, as far behind the edge as the
 * playlist asks (PART-HOLD-BACK). Regular, and for playlists without parts: three target durations behind the edge. The whole: anywhere.
 */
import { AudioStreamController, type HlsConfig, type LoadPolicy, type RetryConfig } from 'hls.js';

/**
 * Retries inside hls.js. They bridge a restart of some ten seconds without a new instance; longer absences are
 * for the player's own recovery.
 */
function patient(maxNumRetry: number, maxTimeToFirstByteMs = 8_000): LoadPolicy {
  const errorRetry: RetryConfig = {
    maxNumRetry,
    retryDelayMs: 500,
    maxRetryDelayMs: 4_000,
    backoff: 'exponential',
    // A refused connection (status 0) is fatal to hls.js while the browser is online. Here it is a server that restarts.
    shouldRetry: (_config, count, _timeout, response, retry) => retry || (response?.code === 0 && count < maxNumRetry),
  };
  return {
    default: {
      maxTimeToFirstByteMs,
      maxLoadTimeMs: 20_000,
      timeoutRetry: { maxNumRetry: 3, retryDelayMs: 0, maxRetryDelayMs: 0 },
      errorRetry,
    },
  };
}

/** Target durations behind the edge (20 s at 2 s chunks) beyond which a viewer is taken to it; the window holds 15 chunks. */
export const MAX_LATENCY_CHUNKS = 10;

/**
 * Loads sound as soon as the picture has told where its time begins. Where there are parts hls.js by itself lets two of its
 * ticks pass, 100 ms each, and nothing is shown without sound.
 */
class PromptSound extends AudioStreamController {
  override onInitPtsFound(...found: Parameters<AudioStreamController['onInitPtsFound']>): void {
    super.onInitPtsFound(...found);
    // From waiting to idle, and from idle to loading.
    this.tick();
    this.tick();
  }
}

/** What both modes share. */
const common: Partial<HlsConfig> = {
  audioStreamController: PromptSound,
  // Fragmented MP4 is handed on as it is: to start a worker takes longer than all it would do.
  enableWorker: false,
  // The first part comes while the browser still opens the MediaSource.
  startFragPrefetch: true,
  liveDurationInfinity: true,
  backBufferLength: 30,
  maxBufferLength: 30,
  capLevelToPlayerSize: false,
  enableInterstitialPlayback: false,
  manifestLoadPolicy: patient(3),
  playlistLoadPolicy: patient(6),
  fragLoadPolicy: patient(6),
};

const regular: Partial<HlsConfig> = {
  ...common,
  lowLatencyMode: false,
  liveSyncDurationCount: 3,
  liveMaxLatencyDurationCount: MAX_LATENCY_CHUNKS,
};

/**
 * Says no distance of its own: any liveSync* here would take the place of the playlist's PART-HOLD-BACK. The rate is the
 * player's own (pace.ts), so maxLiveSyncPlaybackRate stays 1.
 */
const lowLatency: Partial<HlsConfig> = {
  ...common,
  lowLatencyMode: true,
  // A part more after each halt. hls.js never takes it back until it starts anew, and its own 1 s would double the
  // distance for good when the encoder was away once.
  liveSyncOnStallIncrease: 0.35,
  // A playlist request may be held until the next chunk is there: 10 s with the longest chunks. Requests for a part
  // hls.js itself gives up after 0.8 target durations or three parts, then asks without holding; so the server's own
  // limit of three target durations need not be waited for.
  playlistLoadPolicy: patient(6, 12_000),
};

/** The whole of a broadcast, finished or not: in chunks, and nobody is taken to the edge of it. */
const whole: Partial<HlsConfig> = {
  ...regular,
  liveMaxLatencyDurationCount: Infinity,
  // Whoever looks for something in a recording leaves most of what is fetched ahead.
  maxMaxBufferLength: 60,
  backBufferLength: 60,
};

export function hlsConfig(low: boolean, all: boolean): Partial<HlsConfig> {
  return all ? whole : low ? lowLatency : regular;
}
