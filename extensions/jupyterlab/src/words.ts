/** The words for what a run is doing and why a turn ended. */

import type { TranslationBundle } from '@jupyterlab/translation';

/** What a run is doing. */
export function stateWord(trans: TranslationBundle, state: string): string {
  const words: Record<string, string> = {
    running: trans.__('running'),
    paused: trans.__('paused'),
    waiting: trans.__('waits for you'),
    idle: trans.__('ready'),
    closed: trans.__('closed')
  };
  return words[state] ?? state;
}

/** Why there is no answer, as a sentence. */
export function reasonWord(trans: TranslationBundle, reason: string | null): string {
  const words: Record<string, string> = {
    interrupted: trans.__('Stopped.'),
    step_limit: trans.__('The budget of steps is spent.'),
    time_limit: trans.__('The time is up.'),
    token_limit: trans.__('The budget of tokens is spent.'),
    image_limit: trans.__('The budget of images is spent.'),
    model_error: trans.__('The model failed.'),
    kernel_error: trans.__('The kernel failed.'),
    crashed: trans.__('The run was cut short.')
  };
  return words[reason ?? ''] ?? trans.__('No answer: %1', (reason ?? '').replace(/_/g, ' '));
}
