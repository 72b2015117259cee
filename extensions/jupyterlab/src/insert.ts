/**
 * Cells into the open notebook: from the panel, and for the magic's `t.insert_cells()`, which sends them over the comm target
 * `codevision:insert` as `{"cells": [nbformat cells]}` and is answered `{"inserted": n}`, or `{"inserted": 0, "message": why}`.
 */

import type { Cell, CodeCell } from '@jupyterlab/cells';
import type * as nbformat from '@jupyterlab/nbformat';
import type { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import type { Kernel, KernelMessage } from '@jupyterlab/services';

export const TARGET = 'codevision:insert';

/** Puts cells below cell `index` and makes the last of them active. They get ids of their own. Returns how many. */
export function insertBelow(panel: NotebookPanel, index: number, cells: readonly nbformat.ICell[]): number {
  const notebook = panel.content;
  const shared = notebook.model?.sharedModel;
  if (shared === undefined || cells.length === 0) {
    return 0;
  }
  const fresh = cells.map(({ id: _, ...cell }) => cell as nbformat.ICell);
  const at = Math.min(index + 1, shared.cells.length);
  shared.transact(() => shared.insertCells(at, fresh as Parameters<typeof shared.insertCells>[1]));
  notebook.activeCellIndex = at + cells.length - 1;
  return cells.length;
}

/** The cells of a message, or null where it does not hold any. */
export function cellsOf(data: unknown): readonly nbformat.ICell[] | null {
  const cells = (data as { cells?: unknown } | null)?.cells;
  const known = ['code', 'markdown', 'raw'];
  const whole =
    Array.isArray(cells) &&
    cells.every((cell: Partial<nbformat.ICell> | null) => typeof cell === 'object' && known.includes(String(cell?.cell_type)));
  return whole ? (cells as nbformat.ICell[]) : null;
}

/** The index of the cell whose execution is message `request`; the active cell's where it is not to be found. */
function ranIn(panel: NotebookPanel, request: string | undefined): number {
  const index = panel.content.widgets.findIndex(
    (cell: Cell) => cell.model.type === 'code' && (cell as CodeCell).outputArea.future?.msg.header.msg_id === request
  );
  return index >= 0 ? index : panel.content.activeCellIndex;
}

/** Listens on the kernel of every notebook that is open, and of every kernel that follows it. */
export function serveInsertions(tracker: INotebookTracker): void {
  const served = new WeakSet<Kernel.IKernelConnection>();
  const watch = (panel: NotebookPanel): void => {
    const serve = (): void => {
      const kernel = panel.sessionContext.session?.kernel;
      if (kernel && !served.has(kernel)) {
        served.add(kernel);
        kernel.registerCommTarget(TARGET, (comm, opened) => {
          comm.onMsg = message => answer(panel, comm, message);
          answer(panel, comm, opened);
        });
      }
    };
    panel.sessionContext.kernelChanged.connect(serve);
    serve();
  };
  tracker.forEach(watch);
  tracker.widgetAdded.connect((_, panel) => watch(panel));
}

function answer(
  panel: NotebookPanel,
  comm: Kernel.IComm,
  message: KernelMessage.ICommOpenMsg | KernelMessage.ICommMsgMsg
): void {
  const { data } = message.content;
  if (!('cells' in data) || comm.isDisposed) {
    return; // the opening alone
  }
  const cells = cellsOf(data);
  if (cells === null) {
    comm.send({ inserted: 0, message: 'The message has no list of nbformat cells under "cells".' });
    return;
  }
  const request = (message.parent_header as Partial<KernelMessage.IHeader>).msg_id;
  comm.send({ inserted: insertBelow(panel, ranIn(panel, request), cells) });
}
