/** The findings of an audit, cell by cell; or plainly that there is none to be had. */

import { Button, Chip } from './controls.js';
import { useModel, useTools } from './context.js';

export function Audit(): JSX.Element | null {
  const model = useModel();
  const { trans } = useTools();
  const report = model.audit;
  if (report === null) {
    return null;
  }
  return (
    <section className="cv-Card cv-Audit" aria-label={trans.__('Audit')} aria-live="polite" data-testid="codevision-audit">
      <div className="cv-Row">
        <h3>{trans.__('Audit')}</h3>
        {report !== 'running' && report.installed && typeof report.ok === 'boolean' && (
          <Chip tone={report.ok ? 'ok' : 'error'} testId="codevision-audit-verdict">
            {report.ok ? trans.__('holds') : trans.__('does not hold')}
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
          {!report.installed && <p>{trans.__('The audit is not installed on this server.')}</p>}
          {report.message && <p className="cv-Note">{report.message}</p>}
          {(report.cells ?? []).length > 0 && (
            <ul className="cv-Verdicts">
              {(report.cells ?? []).map((cell, i) => (
                <li key={i} data-testid={`codevision-audit-cell-${i}`}>
                  <span className="cv-Verdict-cell">{trans.__('cell %1', String(cell.cell))}</span>
                  <Chip tone={toneOf(cell.verdict)}>{cell.verdict}</Chip>
                  <span className="cv-Verdict-detail">{cell.detail ?? ''}</span>
                </li>
              ))}
            </ul>
          )}
        </>
      )}
    </section>
  );
}

function toneOf(verdict: string): string {
  if (/differ|missing|fail/i.test(verdict)) {
    return 'error';
  }
  return /identical|normali|toleran|ok/i.test(verdict) ? 'ok' : 'warn';
}
