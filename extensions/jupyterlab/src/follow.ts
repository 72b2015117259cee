/**
 * Follows the events of a run over connections that break: asks for what comes after the last event seen, so that nothing is
 * lost, and drops what it has seen already, so that nothing is doubled. Gives up only where the run is gone or closed.
 */

import type { RunEvent } from './events.js';
import { EventStreamParser } from './sse.js';

/** The server's "no": the run is not there, or may not be seen. Asking again would not help. */
export class Gone extends Error {}

export interface Connection {
  /** The bodies' chunks of one connection, from after event `after` on (-1: all). Throws `Gone`, or anything else to be tried again. */
  open(after: number, signal: AbortSignal): Promise<AsyncIterable<Uint8Array>>;
  /** Ends after so many milliseconds, or as soon as it is worth trying again. */
  wait(milliseconds: number, signal: AbortSignal): Promise<void>;
}

export interface Listener {
  /** New events, in order of `seq`; several at once where they came in one chunk. */
  events(events: readonly RunEvent[]): void;
  /** Whether a connection stands. */
  connected(connected: boolean): void;
}

/** Milliseconds before the n-th try (from 0) after a connection broke. */
export function delay(tries: number): number {
  return Math.min(5000, 100 * 2 ** tries);
}

/** A connection is taken for dead after so many milliseconds without a byte: two heartbeats of the server and some. */
export const SILENCE = 40_000;

export async function follow(
  connection: Connection,
  after: number,
  listener: Listener,
  signal: AbortSignal,
  silence: number = SILENCE
): Promise<void> {
  let last = after;
  let closed = false;
  for (let tries = 0; !signal.aborted && !closed; tries++) {
    const attempt = new AbortController();
    const abort = (): void => attempt.abort();
    signal.addEventListener('abort', abort);
    try {
      const chunks = await connection.open(last, attempt.signal);
      const parser = new EventStreamParser();
      listener.connected(true);
      for await (const chunk of guarded(chunks, silence, attempt)) {
        tries = 0;
        const fresh: RunEvent[] = [];
        for (const message of parser.push(chunk)) {
          const event = JSON.parse(message.data) as RunEvent;
          if (event.seq > last) {
            last = event.seq;
            fresh.push(event);
          }
        }
        if (fresh.length > 0) {
          const final = fresh[fresh.length - 1];
          closed = final?.type === 'state' && final.state === 'closed';
          listener.events(fresh);
        }
        if (closed) {
          break; // nothing comes after it
        }
      }
    } catch (error) {
      if (error instanceof Gone) {
        throw error;
      }
    } finally {
      signal.removeEventListener('abort', abort);
      attempt.abort();
    }
    if (!signal.aborted && !closed) {
      listener.connected(false);
      await connection.wait(delay(tries), signal);
    }
  }
}

/** The same chunks; ends where none came for `silence` milliseconds (a proxy that swallowed the end, a laptop that slept). */
async function* guarded(
  chunks: AsyncIterable<Uint8Array>,
  silence: number,
  attempt: AbortController
): AsyncIterable<Uint8Array> {
  const iterator = chunks[Symbol.asyncIterator]();
  for (;;) {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const quiet = new Promise<null>(resolve => {
      timer = setTimeout(() => resolve(null), silence);
    });
    const next = iterator.next();
    next.catch(() => undefined); // after the silence nobody waits for it any more
    const result = await Promise.race([next, quiet]).finally(() => clearTimeout(timer));
    if (result === null) {
      attempt.abort();
      return;
    }
    if (result.done) {
      return;
    }
    yield result.value;
  }
}
