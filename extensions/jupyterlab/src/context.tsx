/** What every part of the panel is given: the model, the translator, the application's editors and highlighter. */

import type { IEditorServices } from '@jupyterlab/codeeditor';
import type { IEditorLanguageRegistry } from '@jupyterlab/codemirror';
import type { TranslationBundle } from '@jupyterlab/translation';
import { createContext, useContext, useSyncExternalStore } from 'react';

import type { PanelModel } from './model.js';

export interface PanelTools {
  readonly model: PanelModel;
  readonly trans: TranslationBundle;
  readonly languages: IEditorLanguageRegistry;
  readonly editors: IEditorServices;
  /** Opens the user's settings of the panel. */
  openSettings(): void;
  /** Lets a person choose images among the server's files. */
  chooseFiles(): Promise<void>;
  /** Where the browser finds a file of the server. */
  fileUrl(path: string): Promise<string>;
  /** Puts the panel where there is more room; null where there is no such place, or it is there. */
  widen: (() => void) | null;
}

export const Tools = createContext<PanelTools | null>(null);

export function useTools(): PanelTools {
  const tools = useContext(Tools);
  if (tools === null) {
    throw new Error('A part of the panel was rendered outside of it');
  }
  return tools;
}

/** The model; the component renders anew with every change of it. */
export function useModel(): PanelModel {
  const { model } = useTools();
  useSyncExternalStore(
    tell => {
      model.changed.connect(tell);
      return () => {
        model.changed.disconnect(tell);
      };
    },
    () => model.version
  );
  return model;
}
