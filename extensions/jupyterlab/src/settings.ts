/** The settings of the panel, as the options of a new run. What is left empty is the server's to choose. */

import type { ISettingRegistry } from '@jupyterlab/settingregistry';

import type { RunOptions } from './events.js';

const TEXTS = { model: 'model', serverUrl: 'base_url', protocol: 'protocol', isolation: 'isolation' } as const;
const NUMBERS = { steps: 'steps', seconds: 'seconds', tokens: 'tokens', images: 'images' } as const;

/** `values` as JupyterLab's settings editor writes them. */
export function optionsFrom(values: Readonly<Record<string, unknown>>): RunOptions {
  const options: Record<string, unknown> = {};
  for (const [key, name] of Object.entries(TEXTS)) {
    const value = values[key];
    if (typeof value === 'string' && value.trim() !== '' && value !== 'auto') {
      options[name] = value.trim();
    }
  }
  for (const [key, name] of Object.entries(NUMBERS)) {
    const value = values[key];
    if (typeof value === 'number' && value > 0) {
      options[name] = value;
    }
  }
  if (values['approveEach'] === true) {
    options['approve_each'] = true;
  }
  return options;
}

export function options(settings: ISettingRegistry.ISettings | null): RunOptions {
  return settings === null ? {} : optionsFrom(settings.composite as Record<string, unknown>);
}
