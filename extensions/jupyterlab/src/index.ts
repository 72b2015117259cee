/** The plugins: the panel itself, cells into notebooks, and the offer to open trajectories. */

import {
  ILabShell,
  ILayoutRestorer,
  type JupyterFrontEnd,
  type JupyterFrontEndPlugin
} from '@jupyterlab/application';
import { ICommandPalette, MainAreaWidget } from '@jupyterlab/apputils';
import { IEditorServices } from '@jupyterlab/codeeditor';
import { IEditorLanguageRegistry } from '@jupyterlab/codemirror';
import { IDocumentManager } from '@jupyterlab/docmanager';
import { FileDialog, IFileBrowserFactory } from '@jupyterlab/filebrowser';
import { INotebookTracker } from '@jupyterlab/notebook';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStateDB } from '@jupyterlab/statedb';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import type { ReadonlyPartialJSONObject } from '@lumino/coreutils';

import { Api } from './api.js';
import { loadHighlightStyle } from './code.js';
import { CommandIDs, addCommands } from './commands.js';
import type { PanelTools } from './context.js';
import { eyeIcon } from './icons.js';
import { isImagePath } from './images.js';
import { insertBelow, serveInsertions } from './insert.js';
import { PanelModel } from './model.js';
import { PanelWidget } from './panel.js';
import { options } from './settings.js';
import { TrajectoryOffer } from './trajectory.js';

const PANEL = '@kernel-agent/jupyterlab:panel';
const MEMORY = 'codevision:run';

const panelPlugin: JupyterFrontEndPlugin<void> = {
  id: PANEL,
  description: 'The CodeVision side panel',
  autoStart: true,
  requires: [IEditorServices, IEditorLanguageRegistry, IDocumentManager],
  optional: [
    INotebookTracker,
    IFileBrowserFactory,
    ISettingRegistry,
    IStateDB,
    ITranslator,
    ICommandPalette,
    ILayoutRestorer,
    ILabShell
  ],
  activate: (
    app: JupyterFrontEnd,
    editors: IEditorServices,
    languages: IEditorLanguageRegistry,
    documents: IDocumentManager,
    notebooks: INotebookTracker | null,
    browsers: IFileBrowserFactory | null,
    registry: ISettingRegistry | null,
    memory: IStateDB | null,
    translator: ITranslator | null,
    palette: ICommandPalette | null,
    restorer: ILayoutRestorer | null,
    labShell: ILabShell | null
  ) => {
    const trans = (translator ?? nullTranslator).load('kernel_agent');
    let settings: ISettingRegistry.ISettings | null = null;
    const model = new PanelModel(new Api(app.serviceManager.serverSettings), {
      options: () => options(settings),
      openNotebook: async path => {
        await app.commands.execute('docmanager:open', { path });
      },
      insertCells: async cells => {
        const open = notebooks?.currentWidget;
        if (!open) {
          throw new Error(trans.__('No notebook is open. Open one and choose the cell to insert below.'));
        }
        await open.context.ready;
        return insertBelow(open, null, cells);
      },
      remember: run => {
        void (run === null ? memory?.remove(MEMORY) : memory?.save(MEMORY, { id: run.id, path: run.path }));
      }
    });

    let wide: MainAreaWidget<PanelWidget> | null = null;
    const tools: Omit<PanelTools, 'widen'> = {
      model,
      trans,
      languages,
      editors,
      openSettings: () => void app.commands.execute('settingeditor:open', { query: 'CodeVision' }),
      chooseFiles: async () => {
        const chosen = await FileDialog.getOpenFiles({
          manager: documents,
          title: trans.__('Choose images'),
          filter: item => (item.type === 'directory' || isImagePath(item.path) ? {} : null),
          ...(translator === null ? {} : { translator })
        });
        const images = (chosen.value ?? []).filter(item => item.type !== 'directory').map(({ path }) => ({ path }));
        if (chosen.button.accept && images.length > 0) {
          model.addImages(images);
        }
      },
      fileUrl: path => app.serviceManager.contents.getDownloadUrl(path)
    };
    const widen = (): void => {
      if (wide === null || wide.isDisposed) {
        const content = new PanelWidget({ ...tools, widen: null });
        content.id = 'codevision-panel-wide-content';
        content.node.dataset['testid'] = 'codevision-panel-wide';
        wide = new MainAreaWidget({ content });
        wide.id = 'codevision-panel-wide';
        wide.title.label = 'CodeVision';
        wide.title.icon = eyeIcon;
        wide.title.closable = true;
        app.shell.add(wide, 'main');
      }
      app.shell.activateById(wide.id);
    };
    const panel = new PanelWidget({ ...tools, widen: labShell === null ? null : widen });
    app.shell.add(panel, 'right', { rank: 900 });
    restorer?.add(panel, panel.id);

    const show = (): void => {
      if (wide !== null && !wide.isDisposed && wide.isVisible) {
        return; // it is in view already, with more room
      }
      app.shell.activateById(panel.id);
    };
    addCommands({ app, model, trans, browsers, show });
    palette?.addItem({ command: CommandIDs.show, category: 'CodeVision' });

    void registry?.load(PANEL).then(
      loaded => {
        settings = loaded;
      },
      (error: unknown) => console.error('CodeVision: no settings', error)
    );
    void app.restored.then(async () => {
      loadHighlightStyle(editors.factoryService.newInlineEditor);
      await model.connect();
      const before = (await memory?.fetch(MEMORY)) as ReadonlyPartialJSONObject | undefined;
      if (typeof before?.['id'] === 'string') {
        const path = before['path'];
        await model.restore({ id: before['id'], path: typeof path === 'string' ? path : null });
      }
    });
  }
};

const insertPlugin: JupyterFrontEndPlugin<void> = {
  id: '@kernel-agent/jupyterlab:insert',
  description: 'Puts the cells of a run below the cell that asked for them',
  autoStart: true,
  requires: [INotebookTracker],
  activate: (_: JupyterFrontEnd, notebooks: INotebookTracker) => serveInsertions(notebooks)
};

const trajectoryPlugin: JupyterFrontEndPlugin<void> = {
  id: '@kernel-agent/jupyterlab:trajectory',
  description: 'Offers to open notebooks that are runs in the panel',
  autoStart: true,
  requires: [INotebookTracker],
  optional: [ITranslator],
  activate: (app: JupyterFrontEnd, _: INotebookTracker, translator: ITranslator | null) => {
    const trans = (translator ?? nullTranslator).load('kernel_agent');
    const open = (path: string): void => void app.commands.execute(CommandIDs.openTrajectory, { path });
    app.docRegistry.addWidgetExtension('Notebook', new TrajectoryOffer(trans, open));
  }
};

export default [panelPlugin, insertPlugin, trajectoryPlugin];
