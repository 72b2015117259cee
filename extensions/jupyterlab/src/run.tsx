/** A run: its state and budget on top, then question, steps and answer, turn by turn. */

import { closeIcon, copyIcon, notebookIcon, runIcon, stopIcon, treeViewIcon, undoIcon } from '@jupyterlab/ui-components';
import { useCallback, useEffect, useLayoutEffect, useRef, useState } from 'react';

import { Audit } from './audit.js';
import { BudgetBars } from './budget.js';
import { Banner, Button, Chip } from './controls.js';
import { useModel, useTools } from './context.js';
import type { Follower } from './follower.js';
import { auditIcon, insertIcon, pauseRunIcon } from './icons.js';
import { Pictures } from './pictures.js';
import { isBusy, isFresh, plainText, stepsOf, type RunView, type TurnView } from './state.js';
import { Step } from './step.js';
import { Family } from './tree.js';
import { Viewer } from './viewer.js';
import { reasonWord, stateWord } from './words.js';

export function Run({ run }: { run: Follower }): JSX.Element {
  const model = useModel();
  const { trans } = useTools();
  const [shown, setShown] = useState<number | null>(null);
  const open = useCallback((index: number) => setShown(index), []);
  const view = run.view;
  return (
    <>
      <RunBar run={run} />
      {run.gone !== null && (
        <Banner tone="error" testId="codevision-gone">
          {trans.__('The server does not have this run any more (%1). Its notebook is in the history.', run.gone)}
        </Banner>
      )}
      {!run.connected && run.gone === null && view.state !== 'closed' && view.seq >= 0 && (
        <Banner tone="info" testId="codevision-reconnecting">
          {trans.__('The connection is lost; the run goes on. Connecting again…')}
        </Banner>
      )}
      {model.showFamily && <Family />}
      <Audit />
      <Transcript view={view} open={open} />
      <Spoken view={view} />
      {shown !== null && (
        <Viewer run={view.id} images={view.images} index={shown} show={setShown} close={() => setShown(null)} />
      )}
    </>
  );
}

function RunBar({ run }: { run: Follower }): JSX.Element {
  const { model, trans } = useTools();
  const view = run.view;
  const busy = isBusy(view);
  return (
    <div className="cv-RunBar">
      <div className="cv-Row">
        <Chip tone={view.state} testId="codevision-state">
          {stateWord(trans, view.state)}
        </Chip>
        <span className="cv-RunBar-model" title={facts(view, true)}>
          {facts(view, false)}
        </span>
        <span className="cv-Spacer" />
        {busy && (
          <>
            {view.state === 'paused' ? (
              <Button
                label={trans.__('Go on')}
                testId="codevision-resume"
                icon={runIcon}
                onClick={() => void model.command({ command: 'resume' })}
              />
            ) : (
              <Button
                label={trans.__('Pause after this step')}
                testId="codevision-pause"
                icon={pauseRunIcon}
                onClick={() => void model.command({ command: 'pause' })}
              />
            )}
            <Button
              label={trans.__('Stop')}
              testId="codevision-stop"
              icon={stopIcon}
              onClick={() => void model.command({ command: 'stop' })}
            />
          </>
        )}
        {view.state === 'idle' && run.gone === null && (
          <Button
            label={trans.__('Close the run: its kernel ends, its notebook stays')}
            testId="codevision-close"
            icon={closeIcon}
            onClick={() => void model.closeRun()}
          />
        )}
      </div>
      <BudgetBars left={view.left} limit={view.limit} />
      <div className="cv-Row cv-RunBar-tools">
        {view.state !== 'closed' && (
          <label className="cv-Check">
            <input
              type="checkbox"
              checked={view.approveEach}
              data-testid="codevision-approve-each"
              onChange={event => void model.command({ command: 'approve_each', on: event.target.checked })}
            />
            {trans.__('Approve each step')}
          </label>
        )}
        <span className="cv-Spacer" />
        <Button
          label={trans.__('Branches')}
          testId="codevision-show-branches"
          icon={treeViewIcon}
          pressed={model.showFamily}
          onClick={() => void model.toggleFamily()}
        />
        <Button
          label={trans.__('Audit')}
          testId="codevision-run-audit"
          icon={auditIcon}
          disabled={busy || model.audit === 'running'}
          onClick={() => void model.runAudit()}
        />
        <Button
          label={trans.__('Insert into notebook')}
          testId="codevision-insert"
          icon={insertIcon}
          onClick={() =>
            void model.insertIntoNotebook(null, count =>
              trans._n('%1 cell is now below the active cell.', '%1 cells are now below the active cell.', count)
            )
          }
        />
        <Button
          label={trans.__('Open as notebook')}
          testId="codevision-open-notebook"
          icon={notebookIcon}
          onClick={() => void model.openAsNotebook()}
        />
      </div>
    </div>
  );
}

/** Model, protocol and isolation, as far as they are known. */
function facts(view: RunView, all: boolean): string {
  const isolation = view.isolation === 'not started' ? '' : view.isolation;
  return [view.model, all ? view.protocol : '', isolation].filter(Boolean).join(' · ');
}

const NEAR = 48; // pixels from the end within which the transcript follows what comes

function Transcript({ view, open }: { view: RunView; open: (index: number) => void }): JSX.Element {
  const { trans } = useTools();
  const scroller = useRef<HTMLDivElement>(null);
  const [atEnd, setAtEnd] = useState(true);
  const last = view.steps[view.steps.length - 1];

  useLayoutEffect(() => {
    const box = scroller.current;
    if (box !== null && atEnd) {
      box.scrollTop = box.scrollHeight;
    }
  }, [view, atEnd]);

  // Pictures and highlighting change heights after the render: the end is kept in view then too.
  useEffect(() => {
    const box = scroller.current;
    const content = box?.firstElementChild;
    if (!box || !content || !atEnd) {
      return;
    }
    const watcher = new ResizeObserver(() => {
      box.scrollTop = box.scrollHeight;
    });
    watcher.observe(content);
    return () => watcher.disconnect();
  }, [atEnd]);

  const onScroll = (): void => {
    const box = scroller.current;
    if (box !== null) {
      setAtEnd(box.scrollHeight - box.scrollTop - box.clientHeight < NEAR);
    }
  };
  return (
    <div className="cv-Transcript-frame">
      <div ref={scroller} className="cv-Transcript" data-testid="codevision-transcript" onScroll={onScroll} tabIndex={0} role="region" aria-label={trans.__('Run')}>
        <div>
          {view.inputs.length > 0 && <Pictures run={view.id} images={view.inputs} open={open} />}
          {view.turns.map(turn => (
            <Turn key={turn.index} view={view} turn={turn} open={open} />
          ))}
          {view.seq >= 0 && view.turns.length === 0 && last === undefined && (
            <p className="cv-Empty">{trans.__('Starting a kernel…')}</p>
          )}
        </div>
      </div>
      {!atEnd && isBusy(view) && (
        <button type="button" className="cv-Latest" data-testid="codevision-latest" onClick={() => setAtEnd(true)}>
          {trans.__('To the latest step')}
        </button>
      )}
    </div>
  );
}

function Turn({ view, turn, open }: { view: RunView; turn: TurnView; open: (index: number) => void }): JSX.Element {
  const { model, trans } = useTools();
  const over = turn.over || turn.index < view.turns.length - 1 || !isBusy(view);
  return (
    <section className="cv-Turn" aria-label={trans.__('Question %1', turn.index + 1)} data-testid={`codevision-turn-${turn.index}`}>
      <div className="cv-Asked">
        <h3 className="cv-Asked-text">{turn.question}</h3>
        {over && turn.firstStep > 0 && (
          <Button
            label={trans.__('Rewind to before this question')}
            testId={`codevision-rewind-turn-${turn.index}`}
            icon={undoIcon}
            onClick={() => void model.command({ command: 'rewind', steps: turn.firstStep })}
          />
        )}
      </div>
      <ol className="cv-Steps">
        {stepsOf(view, turn).map(step => (
          <Step key={step.index} run={view.id} step={step} over={over} images={view.images} open={open} />
        ))}
      </ol>
      {turn.over && <Answer turn={turn} fresh={isFresh(view, turn)} />}
    </section>
  );
}

/** `fresh`: the turn was cut here by going back, and nothing has been done since. */
function Answer({ turn, fresh }: { turn: TurnView; fresh: boolean }): JSX.Element {
  const { model, trans } = useTools();
  return (
    <div className="cv-Answer" data-testid={`codevision-answer-${turn.index}`} data-none={turn.answer === null ? 'true' : undefined}>
      {turn.answer !== null ? (
        <>
          <p className="cv-Answer-text">{plainText(turn.answer)}</p>
          <Button
            label={trans.__('Copy the answer')}
            testId={`codevision-copy-${turn.index}`}
            icon={copyIcon}
            onClick={() => void navigator.clipboard?.writeText(turn.answer ?? '').catch((error: unknown) => model.fail(error))}
          />
        </>
      ) : (
        <p>{fresh ? trans.__('The branch begins here: ask on, or edit a step.') : reasonWord(trans, turn.stopReason)}</p>
      )}
      {turn.failure && <p className="cv-Problem">{plainText(turn.failure)}</p>}
    </div>
  );
}

/** For screen readers: what happened, in a sentence, as it happens. */
function Spoken({ view }: { view: RunView }): JSX.Element {
  const { trans } = useTools();
  const turn = view.turns[view.turns.length - 1];
  const step = view.steps[view.steps.length - 1];
  let text = '';
  if (turn?.over) {
    text = turn.answer !== null ? trans.__('Answer: %1', turn.answer) : trans.__('The run ended without an answer.');
  } else if (step?.phase === 'waiting') {
    text = trans.__('Step %1 waits for your approval.', step.index + 1);
  } else if (step?.phase === 'running') {
    text = trans.__('Step %1 runs.', step.index + 1);
  } else if (step?.phase === 'done') {
    text = trans.__('Step %1 is done: %2.', step.index + 1, step.status ?? 'ok');
  }
  return (
    <div className="cv-Hidden" role="status" aria-live="polite" data-testid="codevision-live">
      {text}
    </div>
  );
}
