/** Values for the tests. */

import type { RunEvent, RunImage, RunSummary } from '../src/events.js';

export function image(index: number, more: Partial<RunImage> = {}): RunImage {
  return {
    index,
    name: `image_${index}`,
    size: [100, 50],
    view_size: [100, 50],
    mime: 'image/png',
    view_mime: 'image/png',
    pixel_sha256: '',
    parent: null,
    origin: 'input',
    source: null,
    outline: null,
    root: index,
    lossless: true,
    ...more
  };
}

export function summary(id: string, parent: RunSummary['parent'] = null): RunSummary {
  return { id, question: '', answer: null, stop_reason: null, started: 0, seconds: 0, steps: 3, path: null, live: true, state: 'idle', parent };
}

type Body = RunEvent extends infer E ? (E extends RunEvent ? Omit<E, 'seq' | 'time'> : never) : never;

/** Events with numbers and times. */
export function numbered(...bodies: Body[]): RunEvent[] {
  return bodies.map((body, seq) => ({ seq, time: seq, ...body }) as RunEvent);
}

export const RUN: Body = {
  type: 'run',
  id: 'r',
  parent: null,
  model: 'm',
  protocol: 'native',
  isolation: 'strong',
  path: null,
  images: [image(0)]
};

export const TURN: Body = { type: 'turn', turn: 0, question: 'What?', budget: { steps: 4, seconds: 60 }, first_step: 0 };

export function step(index: number, more: Partial<Extract<RunEvent, { type: 'step' }>> = {}): Body {
  return {
    type: 'step',
    step: index,
    thought: 'so',
    action: { kind: 'code', code: 'model()' },
    status: 'ok',
    edited: false,
    seconds: 1,
    tokens: 2,
    outputs: [],
    images: [],
    events: [],
    ...more
  } as Body;
}
