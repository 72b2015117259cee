import assert from 'node:assert/strict';
import { test } from 'node:test';

import { LARGEST, area, fit, lineage, outlinesOn, polygonPoints, zoom } from '../src/geometry.js';
import { image } from './making.js';

const SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10]] as const;
const TURNED = [[5, 0], [10, 5], [5, 10], [0, 5]] as const;
const IMAGES = {
  0: image(0),
  1: image(1, { parent: 0, root: 0, outline: TURNED }),
  2: image(2, { parent: 1, root: 0, outline: SQUARE }),
  3: image(3, { parent: 9, root: null })
};

test('lineage goes back to the input, and ends at what is missing', () => {
  assert.deepEqual(lineage(IMAGES, 2).map(one => one.index), [0, 1, 2]);
  assert.deepEqual(lineage(IMAGES, 3).map(one => one.index), [3]);
  const round = { 1: image(1, { parent: 2 }), 2: image(2, { parent: 1 }) };
  assert.deepEqual(lineage(round, 2).map(one => one.index), [1, 2]);
});

test('outlines lie on their root, the smallest on top', () => {
  assert.deepEqual(outlinesOn(IMAGES, 0).map(one => one.index), [2, 1]);
  assert.deepEqual(outlinesOn(IMAGES, 1), []);
  assert.equal(area(SQUARE), 100);
  assert.equal(area(TURNED), 50);
  assert.equal(area([[0, 0], [Number.NaN, 1], [1, 1]]), 0);
  assert.equal(polygonPoints([[0, 1.2345], [3, 4]]), '0,1.23 3,4');
});

test('a picture fits the stage, in its middle', () => {
  const place = fit([1000, 500], [548, 548]);
  assert.deepEqual(place, { scale: 0.5, x: 24, y: 149 });
  assert.equal(fit([10, 10], [1000, 1000]).scale, 4);
  assert.ok(fit([10, 10], [0, 0]).scale > 0);
});

test('what lies under the pointer stays there when zoomed', () => {
  const before = fit([1000, 500], [548, 548]);
  const at = [100, 200] as const;
  const after = zoom(before, 3, at);
  const under = (place: typeof before): number[] => [(at[0] - place.x) / place.scale, (at[1] - place.y) / place.scale];
  assert.deepEqual(under(after).map(Math.round), under(before).map(Math.round));
  assert.equal(zoom(before, 1e9, at).scale, LARGEST);
});
