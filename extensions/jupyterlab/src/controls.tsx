/** The small controls that the panel is made of. */

import type { LabIcon } from '@jupyterlab/ui-components';
import type { ReactNode } from 'react';

interface ButtonProps {
  readonly label: string;
  readonly testId: string;
  readonly icon?: LabIcon;
  readonly onClick: () => void;
  readonly disabled?: boolean;
  /** Of a button that stays down. */
  readonly pressed?: boolean;
  readonly primary?: boolean;
  /** Whether the label is to be seen, or only to be heard and hovered. */
  readonly text?: boolean;
}

export function Button({ label, testId, icon, onClick, disabled, pressed, primary, text }: ButtonProps): JSX.Element {
  const look = ['cv-Button', primary ? 'cv-mod-primary' : '', text ? 'cv-mod-text' : ''].filter(Boolean).join(' ');
  return (
    <button
      type="button"
      className={look}
      title={label}
      aria-label={label}
      aria-pressed={pressed}
      data-testid={testId}
      disabled={disabled}
      onClick={onClick}
    >
      {icon && <icon.react tag="span" className="cv-Button-icon" width="16px" height="16px" />}
      {text && <span>{label}</span>}
    </button>
  );
}

export function Chip({ children, tone, testId }: { children: ReactNode; tone?: string; testId?: string }): JSX.Element {
  return (
    <span className="cv-Chip" data-tone={tone} data-testid={testId}>
      {children}
    </span>
  );
}

/** A message on top of the panel that can be put away. */
export function Banner(props: {
  tone: 'error' | 'info';
  testId: string;
  children: ReactNode;
  closeLabel?: string;
  onClose?: () => void;
}): JSX.Element {
  return (
    <div className="cv-Banner" data-tone={props.tone} data-testid={props.testId} role={props.tone === 'error' ? 'alert' : 'status'}>
      <div className="cv-Banner-text">{props.children}</div>
      {props.onClose && (
        <button type="button" className="cv-Banner-close" aria-label={props.closeLabel} onClick={props.onClose}>
          ×
        </button>
      )}
    </div>
  );
}
