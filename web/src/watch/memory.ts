/** What the viewer chose on this page, kept from one visit to the next. Storage that throws is a choice not kept. */

const LOW_LATENCY = 'weir.low-latency';

/** Whether low latency is wished; it is until switched off. */
export function recallLowLatency(): boolean {
  try {
    return localStorage.getItem(LOW_LATENCY) !== 'off';
  } catch {
    return true;
  }
}

export function keepLowLatency(on: boolean): void {
  try {
    localStorage.setItem(LOW_LATENCY, on ? 'on' : 'off');
  } catch {
    // No storage, or a full one: the choice holds for this visit.
  }
}
