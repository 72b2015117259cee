/** What is left of a turn's budget, as bars. */

import type { TranslationBundle } from '@jupyterlab/translation';

import { useTools } from './context.js';
import type { Amounts } from './events.js';
import { spent } from './state.js';

export function BudgetBars({ left, limit }: { left: Amounts; limit: Amounts }): JSX.Element | null {
  const { trans } = useTools();
  const names = { steps: trans.__('Steps'), seconds: trans.__('Time'), tokens: trans.__('Tokens') } as const;
  const bars = (['steps', 'seconds', 'tokens'] as const).flatMap(key => {
    const part = spent(left, limit, key);
    return part === null ? [] : [{ key, part, left: left[key] ?? 0, limit: limit[key] ?? 0 }];
  });
  if (bars.length === 0) {
    return null;
  }
  return (
    <div className="cv-Budget" data-testid="codevision-budget">
      {bars.map(bar => (
        <div
          key={bar.key}
          className="cv-Bar"
          role="meter"
          aria-label={trans.__('%1 left', names[bar.key])}
          aria-valuemin={0}
          aria-valuemax={bar.limit}
          aria-valuenow={Math.max(0, bar.left)}
          aria-valuetext={trans.__('%1 of %2', amount(trans, bar.key, bar.left), amount(trans, bar.key, bar.limit))}
          data-tone={bar.part > 0.85 ? 'low' : undefined}
          data-testid={`codevision-budget-${bar.key}`}
        >
          <span className="cv-Bar-name">{names[bar.key]}</span>
          <span className="cv-Bar-value">{amount(trans, bar.key, bar.left)}</span>
          <span className="cv-Bar-track">
            <span className="cv-Bar-fill" style={{ width: `${(1 - bar.part) * 100}%` }} />
          </span>
        </div>
      ))}
    </div>
  );
}

function amount(trans: TranslationBundle, key: string, value: number): string {
  const whole = Math.max(0, Math.round(value));
  if (key === 'seconds') {
    return whole >= 120 ? trans.__('%1 min', Math.floor(whole / 60)) : trans.__('%1 s', whole);
  }
  return whole >= 10_000 ? `${Math.round(whole / 1000)}k` : String(whole);
}
