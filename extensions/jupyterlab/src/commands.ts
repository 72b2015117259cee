/** The commands of the panel, for menus, the palette and other extensions. */

import type { JupyterFrontEnd } from '@jupyterlab/application';
import type { IFileBrowserFactory } from '@jupyterlab/filebrowser';
import type { TranslationBundle } from '@jupyterlab/translation';

import { eyeIcon } from './icons.js';
import { fromOutput, isImagePath } from './images.js';
import type { PanelModel } from './model.js';

export const CommandIDs = {
  show: 'codevision:show',
  askFile: 'codevision:ask-file',
  askOutput: 'codevision:ask-output',
  openTrajectory: 'codevision:open-trajectory'
} as const;

interface Wiring {
  readonly app: JupyterFrontEnd;
  readonly model: PanelModel;
  readonly trans: TranslationBundle;
  readonly browsers: IFileBrowserFactory | null;
  readonly show: () => void;
}

export function addCommands({ app, model, trans, browsers, show }: Wiring): void {
  const selected = (): string[] =>
    Array.from(browsers?.tracker.currentWidget?.selectedItems() ?? [], item => item.path);
  app.commands.addCommand(CommandIDs.show, {
    label: trans.__('CodeVision'),
    caption: trans.__('Ask about images'),
    icon: eyeIcon,
    execute: show
  });
  app.commands.addCommand(CommandIDs.askFile, {
    label: trans.__('Ask CodeVision about This Image'),
    icon: eyeIcon,
    isVisible: () => selected().some(isImagePath),
    execute: args => {
      const paths = typeof args['path'] === 'string' ? [args['path']] : selected().filter(isImagePath);
      model.addImages(paths.map(path => ({ path })));
      show();
    }
  });
  let outputs = 0;
  app.commands.addCommand(CommandIDs.askOutput, {
    label: trans.__('Ask CodeVision about This Picture'),
    icon: eyeIcon,
    execute: () => {
      const node = app.contextMenuHitTest(it => it.matches('img, canvas, .jp-OutputArea-output'));
      const image = node === undefined ? null : fromOutput(node, `output-${++outputs}.png`);
      if (image === null) {
        model.fail(new Error(trans.__('This output is no picture that can be taken (PNG, JPEG, GIF, WebP).')));
      } else {
        model.addImages([image]);
      }
      show();
    }
  });
  app.commands.addCommand(CommandIDs.openTrajectory, {
    label: trans.__('Open as CodeVision Run'),
    icon: eyeIcon,
    isVisible: () => selected().some(path => path.endsWith('.ipynb')),
    execute: args => {
      const path = typeof args['path'] === 'string' ? args['path'] : selected().find(it => it.endsWith('.ipynb'));
      show();
      return path === undefined ? undefined : model.openPath(path);
    }
  });
}
