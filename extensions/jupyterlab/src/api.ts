/**
 * The server extension's HTTP interface. Every request goes through JupyterLab's `ServerConnection`, which brings the token or
 * the XSRF cookie. Errors carry the server's own words.
 */

import { URLExt } from '@jupyterlab/coreutils';
import type * as nbformat from '@jupyterlab/nbformat';
import { ServerConnection } from '@jupyterlab/services';

import type { AuditReport, ChosenImage, RunOptions, RunSummary, ServerStatus } from './events.js';
import { Gone, type Connection } from './follow.js';

/** What the server refused, in its words; `status` is the HTTP status. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    message: string
  ) {
    super(message);
  }
}

export type Command =
  | { command: 'stop' | 'pause' | 'resume' | 'close' }
  | { command: 'approve_each'; on: boolean }
  | { command: 'approve'; code: string | null }
  | { command: 'refuse'; reason: string }
  | { command: 'ask'; question: string }
  | { command: 'rewind'; steps: number }
  | { command: 'edit'; step: number; code: string }
  | { command: 'fork'; steps: number | null };

export class Api {
  constructor(readonly settings: ServerConnection.ISettings = ServerConnection.makeSettings()) {}

  status(): Promise<ServerStatus> {
    return this._json('status');
  }

  async runs(search: string, limit: number): Promise<readonly RunSummary[]> {
    const answer = await this._json<{ runs: RunSummary[] }>(`runs${URLExt.objectToQueryString({ search, limit })}`);
    return answer.runs;
  }

  async start(question: string, images: readonly ChosenImage[], options: RunOptions): Promise<string> {
    const body = {
      question,
      images: images.map(image => ('path' in image ? { path: image.path } : { name: image.name, data: image.data })),
      options
    };
    return (await this._json<{ id: string }>('runs', 'POST', body)).id;
  }

  async openNotebook(path: string): Promise<string> {
    return (await this._json<{ id: string }>('runs/open', 'POST', { path })).id;
  }

  /** The id of the branch, where the command made one. */
  async command(id: string, command: Command): Promise<string | null> {
    const answer = await this._json<{ id?: string } | null>(`runs/${encodeURIComponent(id)}/commands`, 'POST', command);
    return answer?.id ?? null;
  }

  async cells(id: string, turn: number | null): Promise<nbformat.ICell[]> {
    const query = turn === null ? '' : URLExt.objectToQueryString({ turn });
    return (await this._json<{ cells: nbformat.ICell[] }>(`runs/${encodeURIComponent(id)}/cells${query}`)).cells;
  }

  async path(id: string): Promise<string> {
    return (await this._json<{ path: string }>(`runs/${encodeURIComponent(id)}/path`)).path;
  }

  audit(id: string): Promise<AuditReport> {
    return this._json(`runs/${encodeURIComponent(id)}/audit`, 'POST', {});
  }

  async remove(id: string): Promise<void> {
    await this._request(`runs/${encodeURIComponent(id)}`, { method: 'DELETE' });
  }

  /** Where an image lies: the view that the model saw, or the data at full size. */
  imageUrl(id: string, index: number, kind: 'view' | 'data'): string {
    const url = this._url(`runs/${encodeURIComponent(id)}/images/${index}`);
    const token = this.settings.appendToken && this.settings.token ? { token: this.settings.token } : {};
    return url + URLExt.objectToQueryString({ kind, ...token });
  }

  /** The event stream of a run, for `follow`. */
  connection(id: string): Connection {
    return {
      open: async (after, signal) => {
        const path = `runs/${encodeURIComponent(id)}/events${URLExt.objectToQueryString({ after })}`;
        let response: Response;
        try {
          response = await this._request(path, { signal, headers: { Accept: 'text/event-stream' } });
        } catch (error) {
          if (error instanceof Refused && error.status >= 400 && error.status < 500 && error.status !== 429) {
            throw new Gone(error.message);
          }
          throw error;
        }
        return chunksOf(response);
      },
      wait: (milliseconds, signal) =>
        new Promise(resolve => {
          const done = (): void => {
            clearTimeout(timer);
            window.removeEventListener('online', done);
            signal.removeEventListener('abort', done);
            resolve();
          };
          const timer = setTimeout(done, milliseconds);
          window.addEventListener('online', done);
          signal.addEventListener('abort', done);
        })
    };
  }

  private _url(path: string): string {
    return URLExt.join(this.settings.baseUrl, 'codevision', 'api') + '/' + path;
  }

  private async _json<T>(path: string, method = 'GET', body?: unknown): Promise<T> {
    const init: RequestInit = body === undefined ? { method } : { method, body: JSON.stringify(body) };
    const response = await this._request(path, init);
    const text = await response.text();
    return (text === '' ? null : JSON.parse(text)) as T;
  }

  private async _request(path: string, init: RequestInit): Promise<Response> {
    const response = await ServerConnection.makeRequest(this._url(path), init, this.settings);
    if (!response.ok) {
      throw new Refused(response.status, await reason(response));
    }
    return response;
  }
}

async function reason(response: Response): Promise<string> {
  const text = await response.text().catch(() => '');
  try {
    const { message } = JSON.parse(text) as { message?: unknown };
    if (typeof message === 'string' && message !== '') {
      return message;
    }
  } catch {
    // a page of a proxy, say
  }
  return `${response.status} ${response.statusText}`.trim();
}

async function* chunksOf(response: Response): AsyncIterable<Uint8Array> {
  const reader = response.body?.getReader();
  if (reader === undefined) {
    return;
  }
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) {
        return;
      }
      yield value;
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}
