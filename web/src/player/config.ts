/** How hls.js is set: plain live HLS, three target durations behind the edge, patient with a server that is gone for a while. */
import type { HlsConfig, LoadPolicy, RetryConfig } from 'hls.js';
import workerPath from 'hls.js/dist/hls.worker.js?url';

/**
 * Retries inside hls.js. They bridge a restart of some ten seconds without a new instance; longer absences are
 * for the player's own recovery.
 */
function patient(maxNumRetry: number): LoadPolicy {
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
      maxTimeToFirstByteMs: 8_000,
      maxLoadTimeMs: 20_000,
      timeoutRetry: { maxNumRetry: 3, retryDelayMs: 0, maxRetryDelayMs: 0 },
      errorRetry,
    },
  };
}

export const hlsConfig: Partial<HlsConfig> = {
  // The worker is a file of our own: no blob: script, so that worker-src can stay 'self'.
  workerPath,
  lowLatencyMode: false,
  liveSyncDurationCount: 3,
  // Beyond this (20 s at 2 s chunks) a viewer who fell behind is taken to the edge; the window holds 15 chunks.
  liveMaxLatencyDurationCount: 10,
  liveDurationInfinity: true,
  backBufferLength: 30,
  maxBufferLength: 30,
  capLevelToPlayerSize: false,
  enableInterstitialPlayback: false,
  manifestLoadPolicy: patient(3),
  playlistLoadPolicy: patient(6),
  fragLoadPolicy: patient(6),
};
