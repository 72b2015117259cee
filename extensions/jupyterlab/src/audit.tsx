/** What an audit found: the outcome, the cells run again, and whatever does not hold or could not be checked. */

import { Button, Chip } from './controls.js';
import { useModel, useTools } from './context.js';
import type { Outcome } from './events.js';

const TONES: Record<Outcome, string> = { holds: 'ok', fails: 'error', unchecked: 'warn' };

export function Audit(): JSX.Element | null {
  const model = useModel();
  const { trans } = useTools();
  const report = model.audit;
  if (report === null) {
    return null;
  }
  const said: Record<Outcome, string> = {
    holds: trans.__('holds'),
    fails: trans.__('does not hold'),
    unchecked: trans.__('cannot be checked')
  };
  return (
    <section className="cv-Card cv-Audit" aria-label={trans.__('Audit')} aria-live="polite" data-testid="codevision-audit">
      <div className="cv-Row">
        <h3>{trans.__('Audit')}</h3>
        {report !== 'running' && (
          <Chip tone={TONES[report.outcome]} testId="codevision-audit-verdict">
            {said[report.outcome]}
          </Chip>
        )}
        <span className="cv-Spacer" />
        {report !== 'running' && (
          <Button text label={trans.__('Close')} testId="codevision-audit-close" onClick={() => model.closeAudit()} />
        )}
      </div>
      {report === 'running' ? (
        <p className="cv-Note">{trans.__('Running every cell again in a fresh kernel…')}</p>
      ) : (
        <>
          <ul className="cv-Verdicts">
            {report.cells.map(({ step, verdict, why }) => (
              <li key={step} data-testid={`codevision-audit-cell-${step}`}>
                <span className="cv-Verdict-cell">{trans.__('step %1', String(step + 1))}</span>
                <Chip tone={toneOf(verdict)}>{verdict}</Chip>
                <span className="cv-Verdict-detail">{why}</span>
              </li>
            ))}
            {report.findings.map(({ outcome, cell, field, message }, i) => (
              <li key={`finding-${i}`} data-testid={`codevision-audit-finding-${i}`}>
                <span className="cv-Verdict-cell">{cell}</span>
                <Chip tone={TONES[outcome]}>{field}</Chip>
                <span className="cv-Verdict-detail">{message}</span>
              </li>
            ))}
          </ul>
          <p className="cv-Note">{report.signed}</p>
        </>
      )}
    </section>
  );
}

function toneOf(verdict: string): string {
  return verdict === 'differs' || verdict === 'missing' ? 'error' : verdict === 'not replayable' ? 'warn' : 'ok';
}
