/**
 * The events of a run and the answers of the server, as they travel. Types only.
 *
 * Sizes and outlines are in pixels, `[width, height]` and `[x, y]`; times in seconds; a turn, step or image by its index from 0.
 */

export interface Point extends ReadonlyArray<number> {
  readonly 0: number;
  readonly 1: number;
}

export interface RunImage {
  readonly index: number;
  readonly name: string;
  readonly size: Point;
  readonly view_size: Point;
  readonly mime: string;
  readonly view_mime: string;
  readonly pixel_sha256: string;
  readonly parent: number | null;
  readonly origin: string;
  readonly source: string | null;
  /** Corners of this image on image `root`; null where unknown. */
  readonly outline: readonly Point[] | null;
  readonly root: number | null;
  readonly lossless: boolean;
}

export interface Amounts {
  readonly steps?: number | null;
  readonly seconds?: number | null;
  readonly tokens?: number | null;
  readonly images?: number | null;
}

export interface ActionInfo {
  readonly kind: 'code' | 'answer' | 'malformed';
  readonly code?: string | null;
  readonly description?: string | null;
  readonly image_index?: number | null;
  readonly text?: string | null;
  readonly problem?: string | null;
}

export type Output =
  | { readonly kind: 'stream'; readonly name: string; readonly text: string; readonly dropped: number }
  | { readonly kind: 'text'; readonly text: string; readonly is_result: boolean; readonly dropped: number }
  | { readonly kind: 'image'; readonly index: number; readonly is_result: boolean }
  | { readonly kind: 'error'; readonly ename: string; readonly evalue: string; readonly traceback: readonly string[] };

export type StepStatus = 'ok' | 'error' | 'timeout' | 'killed' | 'malformed' | 'refused';
export type RunState = 'running' | 'paused' | 'waiting' | 'idle' | 'closed';
export interface Share {
  readonly run: string;
  readonly steps: number;
}

interface Common {
  readonly seq: number;
  readonly time: number;
}

export type RunEvent = Common &
  (
    | {
        readonly type: 'run';
        readonly id: string;
        readonly parent: Share | null;
        readonly model: string;
        readonly protocol: string;
        readonly isolation: string;
        readonly path: string | null;
        readonly images: readonly RunImage[];
      }
    | {
        readonly type: 'turn';
        readonly turn: number;
        readonly question: string;
        readonly budget: Amounts;
        readonly first_step: number;
      }
    | { readonly type: 'writing'; readonly step: number; readonly text: string; readonly whole?: boolean }
    | {
        readonly type: 'action';
        readonly step: number;
        readonly thought: string;
        readonly action: ActionInfo;
        readonly approval: boolean;
      }
    | { readonly type: 'running'; readonly step: number; readonly code: string; readonly edited: boolean }
    | {
        readonly type: 'step';
        readonly step: number;
        readonly thought: string;
        readonly action: ActionInfo;
        readonly status: StepStatus | null;
        readonly edited: boolean;
        readonly seconds: number;
        readonly tokens: number;
        readonly outputs: readonly Output[];
        readonly images: readonly RunImage[];
        readonly events: ReadonlyArray<{ readonly kind: string; readonly data: unknown }>;
      }
    | { readonly type: 'budget'; readonly left: Amounts; readonly limit: Amounts }
    | { readonly type: 'state'; readonly state: RunState; readonly approve_each: boolean }
    | {
        readonly type: 'answer';
        readonly turn: number;
        readonly answer: string | null;
        readonly stop_reason: string;
        readonly failure: string | null;
      }
    | { readonly type: 'branch'; readonly run: string; readonly steps: number; readonly why: 'rewind' | 'edit' | 'fork' }
  );

/** A run in the history: live, or a notebook of the run folder. */
export interface RunSummary {
  readonly id: string;
  readonly question: string;
  readonly answer: string | null;
  readonly stop_reason: string | null;
  readonly started: number | string | null;
  readonly seconds: number | null;
  readonly steps: number;
  readonly path: string | null;
  readonly live: boolean;
  readonly state: string | null;
  readonly parent: Share | null;
}

export type Outcome = 'holds' | 'fails' | 'unchecked';

export interface AuditReport {
  readonly outcome: Outcome;
  /** Who signed the run, and what that is worth. */
  readonly signed: string;
  readonly cells: ReadonlyArray<{ readonly step: number; readonly verdict: string; readonly why: string }>;
  readonly findings: ReadonlyArray<{
    readonly outcome: Outcome;
    readonly cell: string;
    readonly field: string;
    readonly message: string;
  }>;
}

export interface ServerStatus {
  readonly version: string;
  /** The level that kernels get, or why there is none. */
  readonly isolation: { readonly level: string | null; readonly why: string | null };
  readonly defaults: Readonly<Record<string, unknown>>;
}

/** An image chosen for a question: a file of the server, or bytes of the browser. */
export type ChosenImage =
  | { readonly path: string }
  | { readonly name: string; readonly data: string; readonly mime: string };

export interface RunOptions {
  readonly model?: string;
  readonly base_url?: string;
  readonly protocol?: string;
  readonly isolation?: string;
  readonly steps?: number;
  readonly seconds?: number;
  readonly tokens?: number;
  readonly images?: number;
  readonly approve_each?: boolean;
}
