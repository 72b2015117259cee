import assert from 'node:assert/strict';
import { test } from 'node:test';

import { countRuns, familyOf } from '../src/branches.js';
import { summary } from './making.js';

const RUNS = [
  summary('c', { run: 'b', steps: 2 }),
  summary('b', { run: 'a', steps: 3 }),
  summary('a'),
  summary('d', { run: 'a', steps: 1 }),
  summary('alone')
];

test('the whole family, from whichever of its runs', () => {
  for (const id of ['a', 'b', 'c', 'd']) {
    const tree = familyOf(RUNS, id);
    assert.equal(tree?.run.id, 'a');
    assert.deepEqual(tree?.children.map(child => [child.run.id, child.shared]), [['d', 1], ['b', 3]]);
    assert.deepEqual(tree?.children[1]?.children.map(child => child.run.id), ['c']);
    assert.equal(countRuns(tree), 4);
  }
});

test('a run that is not there has none; a missing parent makes its child the oldest', () => {
  assert.equal(familyOf(RUNS, 'x'), null);
  assert.equal(familyOf([summary('c', { run: 'gone', steps: 2 })], 'c')?.run.id, 'c');
});

test('runs that are each other\'s parents make no endless tree', () => {
  const tree = familyOf([summary('a', { run: 'b', steps: 1 }), summary('b', { run: 'a', steps: 1 })], 'a');
  assert.ok(tree !== null && countRuns(tree) === 2);
});
