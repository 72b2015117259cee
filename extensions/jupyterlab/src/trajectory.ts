/** Notebooks that are trajectories: they are offered in the panel, by a button of their toolbar and once by a notification. */

import { Notification, ToolbarButton } from '@jupyterlab/apputils';
import type { DocumentRegistry } from '@jupyterlab/docregistry';
import type { INotebookModel, NotebookPanel } from '@jupyterlab/notebook';
import type { TranslationBundle } from '@jupyterlab/translation';
import { DisposableDelegate, type IDisposable } from '@lumino/disposable';

import { eyeIcon } from './icons.js';

/** Where a trajectory keeps its record in the metadata of the notebook. */
export const KEY = 'codevision';

export function isTrajectory(model: INotebookModel | null): boolean {
  const record: unknown = model?.getMetadata(KEY);
  return typeof record === 'object' && record !== null && 'schema' in record && 'run' in record;
}

export class TrajectoryOffer implements DocumentRegistry.IWidgetExtension<NotebookPanel, INotebookModel> {
  constructor(
    private readonly _trans: TranslationBundle,
    private readonly _open: (path: string) => void
  ) {}

  createNew(panel: NotebookPanel, context: DocumentRegistry.IContext<INotebookModel>): IDisposable {
    let button: ToolbarButton | null = null;
    void context.ready.then(() => {
      if (panel.isDisposed || !isTrajectory(context.model)) {
        return;
      }
      const open = (): void => this._open(context.localPath);
      button = new ToolbarButton({
        icon: eyeIcon,
        label: this._trans.__('Trajectory'),
        tooltip: this._trans.__('Open this run in the CodeVision panel'),
        onClick: open
      });
      button.node.dataset['testid'] = 'codevision-open-trajectory';
      panel.toolbar.insertItem(10, 'codevision-trajectory', button);
      this._offer(context.localPath, open);
    });
    return new DisposableDelegate(() => button?.dispose());
  }

  private _offer(path: string, open: () => void): void {
    if (this._offered.has(path)) {
      return;
    }
    this._offered.add(path);
    Notification.info(this._trans.__('This notebook is a CodeVision run.'), {
      autoClose: 8000,
      actions: [{ label: this._trans.__('Open in the panel'), callback: open }]
    });
  }

  private readonly _offered = new Set<string>();
}
