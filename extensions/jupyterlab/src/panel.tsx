/** The panel as a widget: pages, messages, drops of images. */

import { ReactWidget, addIcon, historyIcon, settingsIcon } from '@jupyterlab/ui-components';
import type { Message } from '@lumino/messaging';

import { Banner, Button } from './controls.js';
import { Composer } from './composer.js';
import { Tools, useModel, useTools, type PanelTools } from './context.js';
import type { ChosenImage } from './events.js';
import { History } from './history.js';
import { eyeIcon, wideIcon } from './icons.js';
import { isImagePath, readFiles } from './images.js';
import { Run } from './run.js';

const FILE_BROWSER = 'application/x-jupyter-icontents';

/** JupyterLab's own drags, of the file browser's files among others, come as these events. */
interface LuminoDrag extends Event {
  readonly mimeData: { hasData(mime: string): boolean; getData(mime: string): unknown };
  dropAction: string;
  readonly proposedAction: string;
}

export class PanelWidget extends ReactWidget {
  constructor(private readonly _tools: PanelTools) {
    super();
    this.id = 'codevision-panel';
    this.addClass('cv-Panel');
    this.title.icon = eyeIcon;
    this.title.caption = 'CodeVision';
    this.title.closable = false;
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', 'CodeVision');
    this.node.dataset['testid'] = 'codevision-panel';
  }

  protected override render(): JSX.Element {
    return (
      <Tools.Provider value={this._tools}>
        <Pages />
      </Tools.Provider>
    );
  }

  handleEvent(event: Event): void {
    switch (event.type) {
      case 'dragover':
      case 'dragenter':
        if ((event as DragEvent).dataTransfer?.types.includes('Files')) {
          event.preventDefault();
          this._mark(true);
        }
        break;
      case 'drop':
        this._dropFiles(event as DragEvent);
        break;
      case 'lm-dragenter':
      case 'lm-dragover':
        if ((event as LuminoDrag).mimeData.hasData(FILE_BROWSER)) {
          event.preventDefault();
          event.stopPropagation();
          (event as LuminoDrag).dropAction = (event as LuminoDrag).proposedAction;
          this._mark(true);
        }
        break;
      case 'lm-drop':
        this._dropPaths(event as LuminoDrag);
        break;
      default: // dragleave, lm-dragleave
        this._mark(false);
    }
  }

  protected override onAfterAttach(message: Message): void {
    super.onAfterAttach(message);
    DRAGS.forEach(type => this.node.addEventListener(type, this));
  }

  protected override onBeforeDetach(message: Message): void {
    DRAGS.forEach(type => this.node.removeEventListener(type, this));
    super.onBeforeDetach(message);
  }

  private _mark(over: boolean): void {
    this.toggleClass('cv-mod-drop', over);
  }

  private _dropFiles(event: DragEvent): void {
    this._mark(false);
    const { model, trans } = this._tools;
    if (event.dataTransfer !== null && event.dataTransfer.files.length > 0) {
      event.preventDefault();
      event.stopPropagation();
      readFiles(event.dataTransfer.files, trans).then(
        images => model.addImages(images),
        (error: unknown) => model.fail(error)
      );
    }
  }

  private _dropPaths(event: LuminoDrag): void {
    this._mark(false);
    const { model, trans } = this._tools;
    const dropped = event.mimeData.getData(FILE_BROWSER);
    if (!Array.isArray(dropped)) {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
    const images: ChosenImage[] = (dropped as string[]).filter(isImagePath).map(path => ({ path }));
    if (images.length > 0) {
      model.addImages(images);
    } else {
      model.fail(new Error(trans.__('None of these files is an image.')));
    }
  }
}

const DRAGS = ['dragenter', 'dragover', 'dragleave', 'drop', 'lm-dragenter', 'lm-dragover', 'lm-dragleave', 'lm-drop'];

function Pages(): JSX.Element {
  const model = useModel();
  const { trans, openSettings, widen } = useTools();
  return (
    <>
      <div className="cv-Header">
        <h2 className="cv-Title">CodeVision</h2>
        <span className="cv-Spacer" />
        <Button label={trans.__('New run')} testId="codevision-new" icon={addIcon} onClick={() => model.newRun()} />
        <Button
          label={trans.__('History')}
          testId="codevision-history"
          icon={historyIcon}
          pressed={model.page === 'history'}
          onClick={() => model.show(model.page === 'history' ? 'run' : 'history')}
        />
        {widen && <Button label={trans.__('More room')} testId="codevision-widen" icon={wideIcon} onClick={widen} />}
        <Button label={trans.__('Settings')} testId="codevision-settings" icon={settingsIcon} onClick={openSettings} />
      </div>
      {model.unreachable !== null && (
        <Banner tone="error" testId="codevision-unreachable" closeLabel={trans.__('Try again')} onClose={() => void model.connect()}>
          {trans.__('The CodeVision server extension does not answer: %1. Try: jupyter server extension list', model.unreachable)}
        </Banner>
      )}
      {model.status !== null && model.status.isolation.level === null && (
        <Banner tone="error" testId="codevision-not-isolated">
          {trans.__('The model\'s code cannot be isolated here, so nothing is run: %1', model.status.isolation.why ?? '')}
        </Banner>
      )}
      {model.error !== null && (
        <Banner tone="error" testId="codevision-error" closeLabel={trans.__('Dismiss')} onClose={() => model.dismiss()}>
          {model.error}
        </Banner>
      )}
      {model.notice !== null && (
        <Banner tone="info" testId="codevision-notice" closeLabel={trans.__('Dismiss')} onClose={() => model.dismiss()}>
          {model.notice}
        </Banner>
      )}
      {model.page === 'history' ? (
        <History />
      ) : (
        <>
          {model.run !== null ? <Run key={model.run.id} run={model.run} /> : <Welcome />}
          <Composer />
        </>
      )}
    </>
  );
}

function Welcome(): JSX.Element {
  const { trans } = useTools();
  return (
    <div className="cv-Welcome">
      <eyeIcon.react tag="span" width="40px" height="40px" className="cv-Welcome-icon" />
      <p>{trans.__('Ask about images. The model looks by writing Python, and you watch.')}</p>
    </div>
  );
}
