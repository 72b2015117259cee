/** One step: what the model thought, the code, what it showed; and what a person may do about it. */

import { editIcon, undoIcon } from '@jupyterlab/ui-components';
import { memo, useState } from 'react';

import { Code, CodeBox } from './code.js';
import { Button } from './controls.js';
import { useTools } from './context.js';
import type { RunImage } from './events.js';
import { branchIcon } from './icons.js';
import { Outputs } from './outputs.js';
import { plainText, type StepView } from './state.js';

interface StepProps {
  readonly run: string;
  readonly step: StepView;
  /** Whether its turn is over: a step that is not done then was broken off. */
  readonly over: boolean;
  readonly images: Readonly<Record<number, RunImage>>;
  readonly open: (index: number) => void;
}

function sameStep(a: StepProps, b: StepProps): boolean {
  // the images a step shows come with the step itself, so a larger record of images changes nothing here
  return a.step === b.step && a.over === b.over && a.run === b.run && a.open === b.open;
}

export const Step = memo(function Step({ run, step, over, images, open }: StepProps): JSX.Element {
  const { model, trans } = useTools();
  const [editing, setEditing] = useState(false);
  const phase = over && step.phase !== 'done' ? 'broken' : step.phase;
  const settled = phase === 'done' || phase === 'broken';
  const number = step.index + 1;
  return (
    <li
      className="cv-Step"
      data-phase={phase}
      data-status={step.status ?? undefined}
      data-testid={`codevision-step-${step.index}`}
      aria-label={trans.__('Step %1', number)}
    >
      <div className="cv-Step-head">
        <span className="cv-Step-name">{trans.__('Step %1', number)}</span>
        <StepState step={step} phase={phase} />
        <span className="cv-Step-cost">
          {step.seconds !== null && trans.__('%1 s', step.seconds.toFixed(1))}
          {step.tokens ? ` · ${trans.__('%1 tokens', step.tokens)}` : ''}
        </span>
        {settled && (
          <span className="cv-Step-actions">
            {step.code !== null && (
              <Button
                label={trans.__('Edit the code of step %1 and go on from there', number)}
                testId={`codevision-edit-${step.index}`}
                icon={editIcon}
                pressed={editing}
                onClick={() => setEditing(!editing)}
              />
            )}
            <Button
              label={trans.__('Rewind to after step %1', number)}
              testId={`codevision-rewind-${step.index}`}
              icon={undoIcon}
              onClick={() => void model.command({ command: 'rewind', steps: number })}
            />
            <Button
              label={trans.__('Branch off after step %1', number)}
              testId={`codevision-fork-${step.index}`}
              icon={branchIcon}
              onClick={() => void model.command({ command: 'fork', steps: number })}
            />
          </span>
        )}
      </div>
      {step.writing && phase !== 'done' && step.action === null && (
        <p className="cv-Writing" data-testid="codevision-writing">
          {plainText(step.writing)}
        </p>
      )}
      {step.thought && <p className="cv-Thought">{plainText(step.thought)}</p>}
      {step.action?.kind === 'malformed' && step.action.problem && <p className="cv-Problem">{step.action.problem}</p>}
      {phase === 'waiting' ? (
        <Approval step={step} />
      ) : editing && step.code !== null ? (
        <Rework step={step} close={() => setEditing(false)} />
      ) : (
        step.code !== null && <Code code={step.code} label={trans.__('Code of step %1', number)} />
      )}
      {step.edited && <p className="cv-Note">{trans.__('A person edited this code.')}</p>}
      <Outputs run={run} outputs={step.outputs} images={images} open={open} />
      {step.notes.length > 0 && (
        <p className="cv-Note" title={step.notes.map(note => JSON.stringify(note.data)).join('\n')}>
          {step.notes.map(note => note.kind.replace(/_/g, ' ')).join(' · ')}
        </p>
      )}
    </li>
  );
}, sameStep);

function StepState({ step, phase }: { step: StepView; phase: string }): JSX.Element {
  const { trans } = useTools();
  const words: Record<string, string> = {
    writing: trans.__('writing'),
    proposed: trans.__('ready'),
    waiting: trans.__('waits for you'),
    running: trans.__('running'),
    broken: trans.__('broken off'),
    ok: trans.__('done'),
    error: trans.__('exception'),
    timeout: trans.__('interrupted'),
    killed: trans.__('kernel died'),
    malformed: trans.__('malformed'),
    refused: trans.__('refused')
  };
  const key = phase === 'done' ? (step.status ?? 'ok') : phase;
  return (
    <span className="cv-Step-state" data-state={key}>
      {words[key] ?? key}
    </span>
  );
}

/** Edit the code of a step that ran and go on from there, in a branch. */
function Rework({ step, close }: { step: StepView; close: () => void }): JSX.Element {
  const { model, trans } = useTools();
  const [code, setCode] = useState(step.code ?? '');
  const go = async (): Promise<void> => {
    if (await model.command({ command: 'edit', step: step.index, code })) {
      close();
    }
  };
  return (
    <div className="cv-Edit">
      <CodeBox code={code} label={trans.__('Code of step %1', step.index + 1)} onChange={setCode} />
      <div className="cv-Row">
        <Button primary text label={trans.__('Run and go on')} testId="codevision-edit-run" onClick={() => void go()} />
        <Button text label={trans.__('Cancel')} testId="codevision-edit-cancel" onClick={close} />
      </div>
      <p className="cv-Note">{trans.__('This makes a branch. The run as it is stays.')}</p>
    </div>
  );
}

/** The code waits for a person: run it, run it changed, or refuse it and say why. */
function Approval({ step }: { step: StepView }): JSX.Element {
  const { model, trans } = useTools();
  const [editing, setEditing] = useState(false);
  const [refusing, setRefusing] = useState(false);
  const [code, setCode] = useState(step.code ?? '');
  const [reason, setReason] = useState('');
  const label = trans.__('Code of step %1', step.index + 1);
  const edited = editing && code !== step.code;
  return (
    <div className="cv-Approval" data-testid="codevision-approval" role="group" aria-label={trans.__('Approve step %1', step.index + 1)}>
      {editing ? <CodeBox code={code} label={label} onChange={setCode} /> : <Code code={step.code ?? ''} label={label} />}
      {refusing ? (
        <form
          className="cv-Row"
          onSubmit={event => {
            event.preventDefault();
            void model.command({ command: 'refuse', reason });
          }}
        >
          <input
            className="cv-Input"
            autoFocus
            value={reason}
            placeholder={trans.__('Why? The model is told.')}
            aria-label={trans.__('Reason for refusing')}
            data-testid="codevision-refuse-reason"
            onChange={event => setReason(event.target.value)}
          />
          <button type="submit" className="cv-Button cv-mod-text cv-mod-warn" data-testid="codevision-refuse-send">
            {trans.__('Refuse')}
          </button>
          <Button text label={trans.__('Back')} testId="codevision-refuse-back" onClick={() => setRefusing(false)} />
        </form>
      ) : (
        <div className="cv-Row">
          <Button
            primary
            text
            label={edited ? trans.__('Run edited code') : trans.__('Approve and run')}
            testId="codevision-approve"
            onClick={() => void model.command({ command: 'approve', code: edited ? code : null })}
          />
          <Button
            text
            label={trans.__('Edit')}
            testId="codevision-approve-edit"
            pressed={editing}
            onClick={() => setEditing(!editing)}
          />
          <Button text label={trans.__('Refuse…')} testId="codevision-refuse" onClick={() => setRefusing(true)} />
        </div>
      )}
    </div>
  );
}
