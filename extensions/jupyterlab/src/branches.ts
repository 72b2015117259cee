/** The family of a run: where it branched off, and what branched off it. Pure. */

import type { RunSummary } from './events.js';

export interface BranchNode {
  readonly run: RunSummary;
  /** How many steps it shares with its parent; 0 for the oldest. */
  readonly shared: number;
  readonly children: readonly BranchNode[];
}

/** The tree that holds run `id`, or null where the run is not among `runs`. A parent that is not there makes its child the oldest. */
export function familyOf(runs: readonly RunSummary[], id: string): BranchNode | null {
  const byId = new Map(runs.map(run => [run.id, run]));
  let top = byId.get(id);
  if (top === undefined) {
    return null;
  }
  const seen = new Set<string>();
  while (top.parent !== null && !seen.has(top.id)) {
    seen.add(top.id);
    const parent = byId.get(top.parent.run);
    if (parent === undefined || seen.has(parent.id)) {
      break;
    }
    top = parent;
  }
  return node(top, runs, new Set());
}

function node(run: RunSummary, runs: readonly RunSummary[], above: ReadonlySet<string>): BranchNode {
  const line = new Set(above).add(run.id);
  const children = runs
    .filter(child => child.parent?.run === run.id && !line.has(child.id))
    .sort((a, b) => (a.parent?.steps ?? 0) - (b.parent?.steps ?? 0))
    .map(child => node(child, runs, line));
  return { run, shared: run.parent?.steps ?? 0, children };
}

/** How many runs the tree holds. */
export function countRuns(tree: BranchNode): number {
  return tree.children.reduce((sum, child) => sum + countRuns(child), 1);
}
