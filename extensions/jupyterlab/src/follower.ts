/** One run as the panel holds it: its view, kept up to date by the server's events, and whether the connection stands. */

import type { IDisposable } from '@lumino/disposable';
import { Signal, type ISignal } from '@lumino/signaling';

import type { Api } from './api.js';
import { follow } from './follow.js';
import { emptyRun, reduceAll, type RunView } from './state.js';

export class Follower implements IDisposable {
  constructor(
    api: Api,
    readonly id: string
  ) {
    this._view = emptyRun(id);
    follow(
      api.connection(id),
      -1,
      {
        events: events => {
          this._view = reduceAll(this._view, events);
          this._changed.emit();
        },
        connected: connected => {
          this._connected = connected;
          this._changed.emit();
        }
      },
      this._abort.signal
    ).catch((error: Error) => {
      this._gone = error.message;
      this._changed.emit();
    });
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get view(): RunView {
    return this._view;
  }

  get connected(): boolean {
    return this._connected;
  }

  /** Why the server does not know the run (any more); null while it does. */
  get gone(): string | null {
    return this._gone;
  }

  get isDisposed(): boolean {
    return this._abort.signal.aborted;
  }

  dispose(): void {
    this._abort.abort();
    Signal.clearData(this);
  }

  private readonly _abort = new AbortController();
  private readonly _changed = new Signal<this, void>(this);
  private _view: RunView;
  private _connected = false;
  private _gone: string | null = null;
}
