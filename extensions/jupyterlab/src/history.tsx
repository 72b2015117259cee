/** The runs there were, newest first, with search over questions and answers. */

import { useEffect, useState } from 'react';

import { Chip } from './controls.js';
import { useModel, useTools } from './context.js';
import type { RunSummary } from './events.js';
import { reasonWord, stateWord } from './words.js';

const PAUSE = 200; // milliseconds without a key before the search begins

export function History(): JSX.Element {
  const model = useModel();
  const { trans } = useTools();
  const [text, setText] = useState(model.search);
  useEffect(() => {
    if (text === model.search) {
      return;
    }
    const timer = setTimeout(() => void model.find(text), PAUSE);
    return () => clearTimeout(timer);
  }, [model, text]);
  const runs = model.history;
  return (
    <div className="cv-History">
      <input
        type="search"
        className="cv-Input"
        value={text}
        placeholder={trans.__('Search questions and answers')}
        aria-label={trans.__('Search runs')}
        data-testid="codevision-search"
        onChange={event => setText(event.target.value)}
      />
      {runs !== null && runs.length === 0 && (
        <p className="cv-Empty">{model.search ? trans.__('No run matches.') : trans.__('No run yet.')}</p>
      )}
      <ul className="cv-Runs" aria-label={trans.__('Runs')} data-testid="codevision-runs">
        {(runs ?? []).map(run => (
          <li key={run.id}>
            <button
              type="button"
              className="cv-RunRow"
              aria-current={model.run?.id === run.id}
              data-testid={`codevision-run-${run.id}`}
              onClick={() => void model.open(run)}
            >
              <span className="cv-RunRow-question">{run.question || trans.__('(no question)')}</span>
              <span className="cv-RunRow-answer">{run.answer ?? (run.stop_reason ? reasonWord(trans, run.stop_reason) : '')}</span>
              <RunFacts run={run} />
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}

function RunFacts({ run }: { run: RunSummary }): JSX.Element {
  const { trans } = useTools();
  return (
    <span className="cv-RunRow-facts">
      {run.live && run.state !== null && <Chip tone={run.state}>{stateWord(trans, run.state)}</Chip>}
      <span>{when(run.started)}</span>
      <span>{trans._n('%1 step', '%1 steps', run.steps)}</span>
      {run.parent !== null && <span>{trans.__('branch')}</span>}
    </span>
  );
}

function when(started: number | string | null): string {
  if (started === null) {
    return '';
  }
  const date = new Date(typeof started === 'number' ? started * 1000 : started);
  return Number.isNaN(date.getTime())
    ? ''
    : date.toLocaleString(undefined, { month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit' });
}
