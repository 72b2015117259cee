/** Cells that come from elsewhere: checked, and made harmless. Pure. */

import type * as nbformat from '@jupyterlab/nbformat';

const KINDS = ['code', 'markdown', 'raw'];

/** The cells under `cells`, or null where there is no list of nbformat 4 cells. */
export function cellsOf(data: unknown): readonly nbformat.ICell[] | null {
  const cells = (data as { cells?: unknown } | null | undefined)?.cells;
  return Array.isArray(cells) && cells.every(isCell) ? (cells as nbformat.ICell[]) : null;
}

function isCell(cell: unknown): boolean {
  const { cell_type: kind, source, outputs } = (cell ?? {}) as Partial<nbformat.ICodeCell>;
  const text = typeof source === 'string' || (Array.isArray(source) && source.every(line => typeof line === 'string'));
  return KINDS.includes(String(kind)) && text && (kind !== 'code' || outputs === undefined || Array.isArray(outputs));
}

/** The same cells without ids (the notebook gives its own) and without a claim that their outputs may be trusted. */
export function untrusted(cells: readonly nbformat.ICell[]): nbformat.ICell[] {
  return cells.map(({ id: _, metadata, ...cell }) => {
    const { trusted: __, ...rest } = (metadata ?? {}) as Record<string, unknown>;
    const base = cell.cell_type === 'code' ? { outputs: [], execution_count: null } : {};
    return { ...base, ...cell, metadata: rest } as nbformat.ICell;
  });
}
