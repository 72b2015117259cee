/** What the panel's model needs of JupyterLab. Types only. */

import type * as nbformat from '@jupyterlab/nbformat';

import type { RunOptions } from './events.js';

/** What the model needs of the application around it. */
export interface Surroundings {
  /** The user's settings, as options of a new run. */
  options(): RunOptions;
  openNotebook(path: string): Promise<void>;
  /** How many cells went into the open notebook. Throws where none is open. */
  insertCells(cells: readonly nbformat.ICell[]): Promise<number>;
  /** The run in view is remembered over a reload of the page. */
  remember(run: RunSummaryKey | null): void;
}

export interface RunSummaryKey {
  readonly id: string;
  readonly path: string | null;
}
