import assert from 'node:assert/strict';
import { test } from 'node:test';

import { EventStreamParser } from '../src/sse.js';

const TEXT = 'id: 0\ndata: {"a":"ü–😀"}\n\n: alive\n\nid: 1\r\ndata: x\r\ndata: y\r\n\r\nevent: z\ndata\n\n';
const WHOLE = [
  { id: '0', data: '{"a":"ü–😀"}' },
  { id: '1', data: 'x\ny' },
  { id: null, data: '' }
];

function parsed(chunks: Uint8Array[]): unknown[] {
  const parser = new EventStreamParser();
  return chunks.flatMap(chunk => parser.push(chunk));
}

test('a stream in one piece', () => {
  assert.deepEqual(parsed([new TextEncoder().encode(TEXT)]), WHOLE);
});

test('a stream cut at every byte, also within characters and line ends', () => {
  const bytes = new TextEncoder().encode(TEXT);
  for (let cut = 1; cut < bytes.length; cut++) {
    assert.deepEqual(parsed([bytes.slice(0, cut), bytes.slice(cut)]), WHOLE, `cut at ${cut}`);
  }
  assert.deepEqual(parsed(Array.from(bytes, byte => Uint8Array.of(byte))), WHOLE);
});

test('an unfinished message is not given', () => {
  assert.deepEqual(parsed([new TextEncoder().encode('id: 3\ndata: half\n')]), []);
});
