import assert from 'node:assert/strict';
import { test } from 'node:test';

import { cellsOf, untrusted } from '../src/cells.js';
import { fromDataUrl, isImagePath } from '../src/images.js';
import { optionsFrom } from '../src/settings.js';

const CODE = { cell_type: 'code', source: 'a()', metadata: { trusted: true, tags: ['x'] }, id: 'same' };

test('only lists of nbformat cells are taken', () => {
  assert.equal(cellsOf({ cells: [CODE, { cell_type: 'markdown', source: ['a', 'b'] }] })?.length, 2);
  for (const bad of [null, {}, { cells: 'x' }, { cells: [null] }, { cells: [{ cell_type: 'html', source: '' }] }, { cells: [{ cell_type: 'code' }] }]) {
    assert.equal(cellsOf(bad), null);
  }
});

test('cells cannot call themselves trusted, and get ids of their own', () => {
  const [cell] = untrusted(cellsOf({ cells: [CODE] }) ?? []);
  assert.deepEqual(cell, { cell_type: 'code', source: 'a()', metadata: { tags: ['x'] }, outputs: [], execution_count: null });
});

test('settings that say nothing leave the choice to the server', () => {
  assert.deepEqual(optionsFrom({ model: ' ', serverUrl: '', isolation: 'auto', steps: 0, approveEach: false }), {});
  assert.deepEqual(optionsFrom({ model: 'm', serverUrl: 'http://x/v1', isolation: 'strong', steps: 3, approveEach: true }), {
    model: 'm',
    base_url: 'http://x/v1',
    isolation: 'strong',
    steps: 3,
    approve_each: true
  });
});

test('images by name and by data URL', () => {
  assert.ok(isImagePath('a/b.PNG') && isImagePath('x.jpeg') && !isImagePath('x.svg') && !isImagePath('png'));
  assert.deepEqual(fromDataUrl('data:image/png;base64,QUJD', 'n'), { name: 'n', data: 'QUJD', mime: 'image/png' });
  assert.equal(fromDataUrl('data:image/svg+xml,<svg/>', 'n'), null);
  assert.equal(fromDataUrl('https://example.org/a.png', 'n'), null);
});
