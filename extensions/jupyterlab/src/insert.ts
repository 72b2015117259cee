/**
 * Cells into an open notebook: from the panel, and from a kernel.
 *
 * A kernel opens a comm of target `kernel_agent.insert` with `{"cell_id": str | null, "cells": [nbformat cells]}`; the cells go in
 * below the cell of that id (below the active one where there is none such), and the comm is answered `{"inserted": n}`, or
 * `{"problem": why}`. One undo takes them all out again; the selection stays; they are never trusted, whatever they say of themselves.
 */

import type * as nbformat from '@jupyterlab/nbformat';
import type { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import type { Kernel } from '@jupyterlab/services';

import { cellsOf, untrusted } from './cells.js';

export const TARGET = 'kernel_agent.insert';

/** Puts cells below the cell of this id, or below the active one. They get ids of their own. Returns how many. */
export function insertBelow(panel: NotebookPanel, cell: string | null, cells: readonly nbformat.ICell[]): number {
  const shared = panel.content.model?.sharedModel;
  if (shared === undefined || cells.length === 0) {
    return 0;
  }
  const found = cell === null ? -1 : shared.cells.findIndex(one => one.id === cell);
  const at = Math.min((found >= 0 ? found : panel.content.activeCellIndex) + 1, shared.cells.length);
  const { undoManager } = shared as { undoManager?: { stopCapturing(): void } };
  undoManager?.stopCapturing(); // what was typed a moment ago is undone by itself
  shared.transact(() => shared.insertCells(at, untrusted(cells) as Parameters<typeof shared.insertCells>[1]));
  undoManager?.stopCapturing();
  return cells.length;
}

/** Listens on the kernel of every notebook that is open, and of every kernel that follows it. */
export function serveInsertions(tracker: INotebookTracker): void {
  const served = new WeakSet<Kernel.IKernelConnection>();
  const watch = (panel: NotebookPanel): void => {
    const serve = (): void => {
      const kernel = panel.sessionContext.session?.kernel;
      if (kernel && !served.has(kernel)) {
        served.add(kernel); // the target outlives restarts of the kernel, and goes with the connection
        kernel.registerCommTarget(TARGET, (comm, opened) => {
          void comm.send(answer(tracker, kernel, opened.content.data)).done.catch(() => undefined);
        });
      }
    };
    panel.sessionContext.kernelChanged.connect(serve);
    serve();
  };
  tracker.forEach(watch);
  tracker.widgetAdded.connect((_, panel) => watch(panel));
}

type Answer = { inserted: number } | { problem: string };

function answer(tracker: INotebookTracker, kernel: Kernel.IKernelConnection, data: unknown): Answer {
  const cells = cellsOf(data);
  if (cells === null) {
    return { problem: 'the message has no list of nbformat 4 cells under "cells"' };
  }
  const panel = tracker.find(one => one.sessionContext.session?.kernel === kernel);
  if (panel === undefined) {
    return { problem: 'no notebook of this kernel is open here' };
  }
  if (panel.content.model?.readOnly) {
    return { problem: 'the notebook is read-only' };
  }
  const { cell_id: cell } = data as { cell_id?: unknown };
  try {
    return { inserted: insertBelow(panel, typeof cell === 'string' ? cell : null, cells) };
  } catch (error) {
    return { problem: `the notebook did not take the cells: ${String(error)}` };
  }
}
