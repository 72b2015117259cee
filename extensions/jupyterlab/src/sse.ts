/**
 * Parser of `text/event-stream` (WHATWG HTML, section 9.2) for what our server sends: `id`, `data`, comments.
 *
 * Chunks may break anywhere, also within a character or a line end. Pure: no network, no timers.
 */

export interface Message {
  readonly id: string | null;
  readonly data: string;
}

export class EventStreamParser {
  private readonly _decoder = new TextDecoder();
  private _rest = '';
  private _id: string | null = null;
  private _data: string[] = [];

  /** The messages that this chunk completes, in order. */
  push(chunk: Uint8Array): Message[] {
    const text = this._rest + this._decoder.decode(chunk, { stream: true });
    // A CR at the very end may be the first half of CRLF: it waits for the next chunk.
    const whole = text.endsWith('\r') ? text.slice(0, -1) : text;
    const lines = whole.split(/\r\n|\n|\r/);
    this._rest = (lines.pop() ?? '') + text.slice(whole.length);
    const messages: Message[] = [];
    for (const line of lines) {
      this._line(line, messages);
    }
    return messages;
  }

  private _line(line: string, messages: Message[]): void {
    if (line === '') {
      if (this._data.length > 0) {
        messages.push({ id: this._id, data: this._data.join('\n') });
      }
      this._id = null;
      this._data = [];
      return;
    }
    const colon = line.indexOf(':');
    if (colon === 0) {
      return; // a comment: the heartbeat
    }
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
    if (field === 'data') {
      this._data.push(value);
    } else if (field === 'id') {
      this._id = value;
    }
  }
}
