import assert from 'node:assert/strict';
import { test } from 'node:test';

import type { RunEvent } from '../src/events.js';
import { Gone, delay, follow, type Connection } from '../src/follow.js';

const encoder = new TextEncoder();

function message(seq: number, type = 'writing', more: object = {}): string {
  return `id: ${seq}\ndata: ${JSON.stringify({ seq, time: 0, type, ...more })}\n\n`;
}

const CLOSED = { state: 'closed', approve_each: false };

/** A server of which each connection gives its chunks and then does as `end` says. */
function server(connections: Array<{ chunks: string[]; end: 'close' | 'throw' | 'hang' }>): Connection & { asked: number[]; waits: number[] } {
  const asked: number[] = [];
  const waits: number[] = [];
  return {
    asked,
    waits,
    async open(after) {
      asked.push(after);
      const next = connections.shift();
      if (next === undefined) {
        throw new Gone('no more');
      }
      return (async function* () {
        for (const chunk of next.chunks) {
          yield encoder.encode(chunk);
        }
        if (next.end === 'throw') {
          throw new TypeError('network');
        } else if (next.end === 'hang') {
          await new Promise(() => undefined);
        }
      })();
    },
    async wait(milliseconds) {
      waits.push(milliseconds);
    }
  };
}

async function followed(connection: Connection, silence?: number): Promise<{ seqs: number[]; stands: boolean[]; error: unknown }> {
  const seqs: number[] = [];
  const stands: boolean[] = [];
  let error: unknown = null;
  const listener = {
    events: (events: readonly RunEvent[]) => seqs.push(...events.map(event => event.seq)),
    connected: (connected: boolean) => stands.push(connected)
  };
  await follow(connection, -1, listener, new AbortController().signal, silence).catch((reason: unknown) => {
    error = reason;
  });
  return { seqs, stands, error };
}

test('a connection that breaks is taken up after the last event; nothing is lost, nothing comes twice', async () => {
  const connection = server([
    { chunks: [message(0) + message(1), message(2)], end: 'throw' },
    { chunks: [message(2) + message(3)], end: 'close' },
    { chunks: [message(7), message(8, 'state', CLOSED)], end: 'hang' }
  ]);
  const { seqs, stands, error } = await followed(connection);
  assert.deepEqual(seqs, [0, 1, 2, 3, 7, 8]);
  assert.deepEqual(connection.asked, [-1, 2, 3]);
  assert.deepEqual(stands, [true, false, true, false, true]);
  assert.equal(error, null);
});

test('half a message of a broken connection is asked for again', async () => {
  const connection = server([
    { chunks: [message(0), message(1).slice(0, 20)], end: 'throw' },
    { chunks: [message(1), message(2, 'state', CLOSED)], end: 'close' }
  ]);
  assert.deepEqual((await followed(connection)).seqs, [0, 1, 2]);
  assert.deepEqual(connection.asked, [-1, 0]);
});

test('a silent connection is given up and made anew', async () => {
  const connection = server([
    { chunks: [message(0)], end: 'hang' },
    { chunks: [message(1, 'state', CLOSED)], end: 'close' }
  ]);
  assert.deepEqual((await followed(connection, 30)).seqs, [0, 1]);
});

test('it waits longer from try to try, within bounds, and ends where the run is gone', async () => {
  const nothing = Array.from({ length: 8 }, () => ({ chunks: [], end: 'throw' as const }));
  const connection = server(nothing);
  const { error } = await followed(connection);
  assert.ok(error instanceof Gone);
  assert.deepEqual(connection.waits, [0, 1, 2, 3, 4, 5, 6, 7].map(delay));
  assert.equal(Math.max(...connection.waits), 5000);
});
