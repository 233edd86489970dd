/** A picture for a stream that has none yet: water over a weir, its hues and waves drawn from the name. */

const SVG = 'http://www.w3.org/2000/svg';
const WIDTH = 640;
const HEIGHT = 360;

/** Draws the picture of `name`. The same name always gives the same picture. */
export function art(name: string): SVGSVGElement {
  const next = numbers(name);
  const hue = 165 + next() * 65;
  const svg = element('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'xMidYMid slice', 'aria-hidden': 'true', class: 'art' });
  svg.append(element('rect', { width: WIDTH * 3, x: -WIDTH, height: HEIGHT, fill: `hsl(${hue.toFixed(0)} 42% 15%)` }));
  const sunX = 90 + next() * 460;
  const sunY = 70 + next() * 60;
  const sunHue = next() < 0.5 ? 38 : 14;
  svg.append(element('circle', { cx: sunX.toFixed(0), cy: sunY.toFixed(0), r: (26 + next() * 22).toFixed(0), fill: `hsl(${sunHue} 72% 70%)`, 'fill-opacity': 0.85 }));
  const layers = 6;
  for (let i = 0; i < layers; i += 1) {
    const depth = i / (layers - 1);
    const top = 120 + depth * 170 + next() * 12;
    const layerHue = hue + (next() - 0.5) * 24;
    svg.append(
      element('path', {
        d: wave(top, 22 - depth * 10, 180 + next() * 240, next() * 360),
        fill: `hsl(${layerHue.toFixed(0)} ${(38 + depth * 12).toFixed(0)}% ${(22 + depth * 20).toFixed(0)}%)`,
        'fill-opacity': 0.72,
        class: `art-wave art-wave-${i % 3}`,
      }),
    );
  }
  return svg;
}

/** A band of water from `top` to the bottom edge, three pictures wide so that it can drift. */
function wave(top: number, height: number, length: number, phase: number): string {
  const half = length / 2;
  const from = -WIDTH - phase;
  let path = `M${from.toFixed(0)} ${top.toFixed(0)}q${(half / 2).toFixed(1)} ${(-height).toFixed(1)} ${half.toFixed(1)} 0`;
  for (let x = from + half; x < WIDTH * 2; x += half) path += `t${half.toFixed(1)} 0`;
  return `${path}V${HEIGHT}H${from.toFixed(0)}z`;
}

/** Numbers in [0, 1) that depend on the name alone (FNV-1a into xorshift). */
function numbers(name: string): () => number {
  let state = 0x811c9dc5;
  for (const char of name) state = Math.imul(state ^ (char.codePointAt(0) ?? 0), 0x01000193);
  state = state >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state / 2 ** 32;
  };
}

function element<K extends keyof SVGElementTagNameMap>(tag: K, attributes: Record<string, string | number>): SVGElementTagNameMap[K] {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  return made;
}
