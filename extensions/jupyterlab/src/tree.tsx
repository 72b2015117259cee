/** The tree of branches that the run in view belongs to. */

import { useModel, useTools } from './context.js';
import { countRuns, type BranchNode } from './branches.js';
import { stateWord, reasonWord } from './words.js';

export function Family(): JSX.Element {
  const model = useModel();
  const { trans } = useTools();
  const tree = model.family;
  return (
    <section className="cv-Card cv-Family" aria-label={trans.__('Branches')} data-testid="codevision-branches">
      <h3>{trans.__('Branches')}</h3>
      {tree !== null && (
        <ul>
          <Branch node={tree} top />
        </ul>
      )}
      {(tree === null || countRuns(tree) === 1) && (
        <p className="cv-Note">{trans.__('No branch yet. Rewind, edit a step or branch off to make one.')}</p>
      )}
    </section>
  );
}

function Branch({ node, top }: { node: BranchNode; top?: boolean }): JSX.Element {
  const { model, trans } = useTools();
  const { run } = node;
  const here = model.run?.id === run.id;
  return (
    <li>
      <button
        type="button"
        className="cv-Branch"
        aria-current={here}
        data-testid={`codevision-branch-${run.id}`}
        onClick={() => void model.open(run)}
      >
        <span className="cv-Branch-dot" aria-hidden="true" />
        <span className="cv-Branch-text">
          {top ? trans.__('first') : trans._n('from step %1', 'from step %1', node.shared)}
          {' · '}
          {trans._n('%1 step', '%1 steps', run.steps)}
        </span>
        <span className="cv-Branch-answer">{run.answer ?? (run.live && run.state !== null ? stateWord(trans, run.state) : reasonWord(trans, run.stop_reason))}</span>
      </button>
      {node.children.length > 0 && (
        <ul>
          {node.children.map(child => (
            <Branch key={child.run.id} node={child} />
          ))}
        </ul>
      )}
    </li>
  );
}
