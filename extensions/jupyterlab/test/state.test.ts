import assert from 'node:assert/strict';
import { test } from 'node:test';

import { emptyRun, isBusy, isFresh, plainText, reduce, reduceAll, spent, stepsOf } from '../src/state.js';
import { RUN, TURN, image, numbered, step } from './making.js';

test('a step goes from writing to done', () => {
  const events = numbered(
    RUN,
    TURN,
    { type: 'state', state: 'running', approve_each: false },
    { type: 'writing', step: 0, text: 'I ' },
    { type: 'writing', step: 0, text: 'look' },
    { type: 'action', step: 0, thought: 'look', action: { kind: 'code', code: 'a()' }, approval: false },
    { type: 'running', step: 0, code: 'a()', edited: false },
    step(0, { action: { kind: 'code', code: 'a()' }, images: [image(1)] }),
    { type: 'answer', turn: 0, answer: 'K7', stop_reason: 'answer', failure: null },
    { type: 'state', state: 'idle', approve_each: false }
  );
  const phases: unknown[] = [];
  let view = emptyRun('r');
  for (const event of events) {
    view = reduce(view, event);
    phases.push(view.steps[0]?.phase);
  }
  assert.deepEqual(phases.slice(3), ['writing', 'writing', 'proposed', 'running', 'done', 'done', 'done']);
  assert.equal(reduceAll(emptyRun('r'), events.slice(0, 5)).steps[0]?.writing, 'I look');
  assert.deepEqual(Object.keys(view.images), ['0', '1']);
  assert.deepEqual([view.turns[0]?.answer, view.turns[0]?.over, isBusy(view)], ['K7', true, false]);
});

test('the text so far, given whole after a reconnect, replaces what there was', () => {
  const events = numbered(RUN, TURN, { type: 'writing', step: 0, text: 'I l' }, { type: 'writing', step: 0, text: 'I look', whole: true });
  assert.equal(reduceAll(emptyRun('r'), events).steps[0]?.writing, 'I look');
});

test('an event seen before changes nothing, not even the object', () => {
  const events = numbered(RUN, TURN, step(0));
  const view = reduceAll(emptyRun('r'), events);
  assert.equal(reduceAll(view, events), view);
});

test('an unchanged step stays the same object, so that it is not drawn again', () => {
  const before = reduceAll(emptyRun('r'), numbered(RUN, TURN, step(0), step(1)));
  const after = reduce(before, { seq: 9, time: 0, type: 'writing', step: 2, text: 'x' });
  assert.equal(after.steps[0], before.steps[0]);
  assert.equal(after.steps[1], before.steps[1]);
});

test('the code that ran is shown, where a person changed it', () => {
  const view = reduceAll(
    emptyRun('r'),
    numbered(RUN, TURN, { type: 'running', step: 0, code: 'mine()', edited: true }, step(0, { edited: true }))
  );
  assert.deepEqual([view.steps[0]?.code, view.steps[0]?.edited], ['mine()', true]);
});

test('steps belong to the turn that began before them', () => {
  const view = reduceAll(
    emptyRun('r'),
    numbered(RUN, TURN, step(0), step(1), { type: 'turn', turn: 1, question: 'And?', budget: {}, first_step: 2 }, step(2))
  );
  assert.deepEqual(view.turns.map(turn => stepsOf(view, turn).map(one => one.index)), [[0, 1], [2]]);
});

test('an event of a newer server is passed over', () => {
  const view = reduceAll(emptyRun('r'), numbered(RUN));
  const newer = { seq: 5, time: 0, type: 'glitter' } as unknown as Parameters<typeof reduce>[1];
  assert.deepEqual(reduce(view, newer), { ...view, seq: 5 });
});

test('colours of terminals are left out', () => {
  assert.equal(plainText('\u001b[31mred\u001b[0m \u001b[1;4mbold'), 'red bold');
});

test('what is spent of a budget', () => {
  assert.equal(spent({ steps: 1 }, { steps: 4 }, 'steps'), 0.75);
  assert.equal(spent({ steps: -1 }, { steps: 4 }, 'steps'), 1);
  assert.equal(spent({ steps: 1 }, { steps: null }, 'steps'), null);
});

test('a branch is fresh until something is done in it', () => {
  const parent = { run: 'a', steps: 1 };
  const cut = { type: 'answer', turn: 0, answer: null, stop_reason: 'interrupted', failure: null } as const;
  const fresh = reduceAll(emptyRun('r'), numbered({ ...RUN, parent } as typeof RUN, TURN, step(0), cut));
  const further = reduceAll(emptyRun('r'), numbered({ ...RUN, parent } as typeof RUN, TURN, step(0), step(1), cut));
  const first = reduceAll(emptyRun('r'), numbered(RUN, TURN, step(0), cut));
  assert.deepEqual([fresh, further, first].map(view => view.turns[0] && isFresh(view, view.turns[0])), [true, false, false]);
});
