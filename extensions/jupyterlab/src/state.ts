/**
 * Events -> what the panel shows of a run. Pure: `reduce(view, event)` gives a new view and shares what did not change, so that
 * a list of steps re-renders only the step that did. An event at or before the last one seen changes nothing.
 */

import type { ActionInfo, Amounts, Output, RunEvent, RunImage, RunState, Share, StepStatus } from './events.js';

export type Phase = 'writing' | 'proposed' | 'waiting' | 'running' | 'done';

export interface StepView {
  readonly index: number;
  readonly phase: Phase;
  /** What the model has written so far, as it came; replaced by thought and action when they are known. */
  readonly writing: string;
  readonly thought: string;
  readonly action: ActionInfo | null;
  /** The code as it runs or ran: the model's, or a person's in its place. */
  readonly code: string | null;
  readonly edited: boolean;
  readonly status: StepStatus | null;
  readonly seconds: number | null;
  readonly tokens: number | null;
  readonly outputs: readonly Output[];
  readonly notes: ReadonlyArray<{ readonly kind: string; readonly data: unknown }>;
}

export interface TurnView {
  readonly index: number;
  readonly question: string;
  readonly firstStep: number;
  readonly over: boolean;
  readonly answer: string | null;
  readonly stopReason: string | null;
  readonly failure: string | null;
}

export interface BranchView {
  readonly run: string;
  readonly steps: number;
  readonly why: string;
}

export interface RunView {
  readonly id: string;
  readonly seq: number;
  readonly model: string;
  readonly protocol: string;
  readonly isolation: string;
  readonly path: string | null;
  readonly parent: Share | null;
  /** The images a person gave. */
  readonly inputs: readonly RunImage[];
  /** All images, by index. */
  readonly images: Readonly<Record<number, RunImage>>;
  readonly turns: readonly TurnView[];
  readonly steps: readonly StepView[];
  readonly left: Amounts;
  readonly limit: Amounts;
  readonly state: RunState;
  readonly approveEach: boolean;
  readonly branches: readonly BranchView[];
}

export function emptyRun(id: string): RunView {
  return {
    id,
    seq: -1,
    model: '',
    protocol: '',
    isolation: '',
    path: null,
    parent: null,
    inputs: [],
    images: {},
    turns: [],
    steps: [],
    left: {},
    limit: {},
    state: 'idle',
    approveEach: false,
    branches: []
  };
}

function emptyStep(index: number): StepView {
  return {
    index,
    phase: 'writing',
    writing: '',
    thought: '',
    action: null,
    code: null,
    edited: false,
    status: null,
    seconds: null,
    tokens: null,
    outputs: [],
    notes: []
  };
}

export function reduceAll(view: RunView, events: readonly RunEvent[]): RunView {
  return events.reduce(reduce, view);
}

export function reduce(view: RunView, event: RunEvent): RunView {
  if (event.seq <= view.seq) {
    return view;
  }
  return { ...apply(view, event), seq: event.seq };
}

function apply(view: RunView, event: RunEvent): RunView {
  switch (event.type) {
    case 'run':
      return {
        ...view,
        id: event.id,
        model: event.model,
        protocol: event.protocol,
        isolation: event.isolation,
        path: event.path,
        parent: event.parent,
        inputs: event.images,
        images: withImages(view.images, event.images)
      };
    case 'turn':
      return {
        ...view,
        limit: event.budget,
        left: event.budget,
        turns: put(view.turns, event.turn, {
          index: event.turn,
          question: event.question,
          firstStep: event.first_step,
          over: false,
          answer: null,
          stopReason: null,
          failure: null
        })
      };
    case 'writing':
      return withStep(view, event.step, step =>
        step.phase === 'writing' ? { ...step, writing: event.whole ? event.text : step.writing + event.text } : step
      );
    case 'action':
      return withStep(view, event.step, step => ({
        ...step,
        phase: event.approval ? 'waiting' : 'proposed',
        thought: event.thought,
        action: event.action,
        code: event.action.code ?? null
      }));
    case 'running':
      return withStep(view, event.step, step => ({
        ...step,
        phase: 'running',
        code: event.code,
        edited: event.edited
      }));
    case 'step':
      return withStep({ ...view, images: withImages(view.images, event.images) }, event.step, step => ({
        ...step,
        phase: 'done',
        writing: '',
        thought: event.thought,
        action: event.action,
        // an edited step's action still tells the model's code: what ran was told by `running`
        code: event.edited ? (step.code ?? event.action.code ?? null) : (event.action.code ?? step.code),
        edited: event.edited,
        status: event.status,
        seconds: event.seconds,
        tokens: event.tokens,
        outputs: event.outputs,
        notes: event.events
      }));
    case 'budget':
      return { ...view, left: event.left, limit: event.limit };
    case 'state':
      return { ...view, state: event.state, approveEach: event.approve_each };
    case 'answer': {
      const turn = view.turns[event.turn];
      if (turn === undefined) {
        return view;
      }
      const over = { ...turn, over: true, answer: event.answer, stopReason: event.stop_reason, failure: event.failure };
      return { ...view, turns: put(view.turns, event.turn, over) };
    }
    case 'branch':
      return { ...view, branches: [...view.branches, { run: event.run, steps: event.steps, why: event.why }] };
    default:
      return view; // of a newer server
  }
}

function put<T>(items: readonly T[], index: number, item: T): readonly T[] {
  const copy = items.slice();
  copy[index] = item;
  return copy;
}

function withStep(view: RunView, index: number, change: (step: StepView) => StepView): RunView {
  const steps = view.steps.slice();
  for (let missing = steps.length; missing < index; missing++) {
    steps[missing] = emptyStep(missing); // a hole would break every map over the steps
  }
  steps[index] = change(steps[index] ?? emptyStep(index));
  return { ...view, steps };
}

function withImages(known: Readonly<Record<number, RunImage>>, images: readonly RunImage[]): Readonly<Record<number, RunImage>> {
  return images.length === 0 ? known : { ...known, ...Object.fromEntries(images.map(image => [image.index, image])) };
}

/** The steps of a turn: from its first to the next turn's first. */
export function stepsOf(view: RunView, turn: TurnView): readonly StepView[] {
  return view.steps.slice(turn.firstStep, view.turns[turn.index + 1]?.firstStep);
}

/** Whether a turn is going on, in whatever state. */
export function isBusy(view: RunView): boolean {
  return view.state === 'running' || view.state === 'paused' || view.state === 'waiting';
}

/** Whether this turn of a branch was cut by going back, and nothing has been done since. */
export function isFresh(view: RunView, turn: TurnView): boolean {
  const last = turn.index === view.turns.length - 1;
  return last && turn.answer === null && turn.stopReason === 'interrupted' && view.parent?.steps === view.steps.length;
}

const ANSI = /\u001b\[[0-?]*[ -/]*[@-~]/g;

/** Text of a kernel without colours and other control sequences of terminals. */
export function plainText(text: string): string {
  return text.replace(ANSI, '');
}

/** What a budget has spent, 0 to 1; null where it has no limit. */
export function spent(left: Amounts, limit: Amounts, key: keyof Amounts): number | null {
  const total = limit[key];
  const rest = left[key];
  if (typeof total !== 'number' || typeof rest !== 'number' || total <= 0) {
    return null;
  }
  return Math.min(1, Math.max(0, 1 - rest / total));
}
