/** Draws the "Signal" panel. */
import { byId, setText } from '../shared/dom';
import { seconds } from '../shared/format';
import type { Player } from '../player/player';
import { HEALTH_WORDS, describeBehind, describeQuality, healthOf, type Reading } from './readout';

const signal = byId('signal', HTMLElement);
const readings = {
  health: byId('health', HTMLElement),
  behind: byId('behind', HTMLElement),
  buffer: byId('buffer', HTMLElement),
  quality: byId('quality', HTMLElement),
  dropped: byId('dropped', HTMLElement),
  stalls: byId('stalls', HTMLElement),
};

/** `behind`: seconds to what the streamer sends; `expected`: a picture should move now. */
export function drawSignal(player: Player, behind: number | null, expected: boolean): void {
  const { total, dropped } = player.frames;
  const last = player.stallMeter.stalls.at(-1);
  const reading: Reading = {
    behind,
    buffer: player.buffer,
    lowLatency: player.lowLatency && !player.whole,
    totalFrames: total,
    droppedFrames: dropped,
    stalled: player.motion === 'still' && expected,
    calm: last === undefined ? Number.POSITIVE_INFINITY : (performance.now() - last.atMs - last.durationMs) / 1000,
    moving: player.motion === 'moving' && !player.video.paused,
  };
  const health = healthOf(reading);
  signal.dataset['health'] = health;
  setText(readings.health, HEALTH_WORDS[health]);
  setText(readings.behind, describeBehind(reading));
  setText(readings.buffer, reading.moving ? seconds(reading.buffer) : '–');
  setText(readings.quality, describeQuality(player));
  setText(readings.dropped, total === 0 ? '–' : `${dropped} of ${total}`);
  setText(readings.stalls, String(player.stallMeter.count));
}
