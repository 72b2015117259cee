/** Where a question is written and its images are chosen. Enter asks, Shift+Enter begins a new line. */

import { closeIcon, fileUploadIcon, folderIcon } from '@jupyterlab/ui-components';
import { useEffect, useRef, useState, type ClipboardEvent, type KeyboardEvent } from 'react';

import { Button } from './controls.js';
import { useModel, useTools } from './context.js';
import type { ChosenImage } from './events.js';
import { readFiles } from './images.js';
import { isBusy } from './state.js';

export function Composer(): JSX.Element {
  const model = useModel();
  const { trans, chooseFiles } = useTools();
  const [question, setQuestion] = useState('');
  const upload = useRef<HTMLInputElement>(null);
  const run = model.run;
  const busy = run !== null && isBusy(run.view);
  const closed = run !== null && (run.view.state === 'closed' || run.gone !== null);
  const ready = question.trim() !== '' && !busy && !closed && !model.starting && (run !== null || model.images.length > 0);

  const ask = async (): Promise<void> => {
    if (ready && (await model.ask(question.trim()))) {
      setQuestion('');
    }
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    if (event.key === 'Enter' && !event.shiftKey && !event.nativeEvent.isComposing) {
      event.preventDefault();
      void ask();
    }
  };
  const add = (files: FileList | null): void => {
    readFiles(files, trans).then(
      images => model.addImages(images),
      (error: unknown) => model.fail(error)
    );
  };
  const onPaste = (event: ClipboardEvent): void => {
    if (event.clipboardData.files.length > 0) {
      event.preventDefault();
      add(event.clipboardData.files);
    }
  };
  const hint = closed
    ? trans.__('This run is closed. Start a new one.')
    : run !== null
      ? trans.__('Ask on: same images, same kernel')
      : trans.__('Ask about the images');
  return (
    <div className="cv-Composer">
      {run === null && <Chosen />}
      <textarea
        className="cv-Question"
        rows={2}
        value={question}
        placeholder={hint}
        aria-label={hint}
        disabled={closed}
        data-testid="codevision-question"
        onChange={event => setQuestion(event.target.value)}
        onKeyDown={onKeyDown}
        onPaste={onPaste}
      />
      <div className="cv-Row cv-Composer-foot">
        {run === null && (
          <>
            <Button
              text
              label={trans.__('Files')}
              testId="codevision-choose-files"
              icon={folderIcon}
              onClick={() => void chooseFiles()}
            />
            <Button
              text
              label={trans.__('Upload')}
              testId="codevision-upload"
              icon={fileUploadIcon}
              onClick={() => upload.current?.click()}
            />
            <input
              ref={upload}
              type="file"
              accept="image/*"
              multiple
              hidden
              aria-label={trans.__('Images of this computer')}
              data-testid="codevision-upload-input"
              onChange={event => {
                add(event.target.files);
                event.target.value = '';
              }}
            />
          </>
        )}
        <span className="cv-Spacer" />
        <Button
          primary
          text
          label={model.starting ? trans.__('Starting…') : trans.__('Ask')}
          testId="codevision-ask"
          disabled={!ready}
          onClick={() => void ask()}
        />
      </div>
    </div>
  );
}

function Chosen(): JSX.Element {
  const { model, trans } = useTools();
  if (model.images.length === 0) {
    return (
      <div className="cv-Drop" data-testid="codevision-drop">
        <p>{trans.__('Drop images here')}</p>
        <p className="cv-Note">{trans.__('or right-click an image file, or a picture in a notebook')}</p>
      </div>
    );
  }
  return (
    <ul className="cv-Chosen" aria-label={trans.__('Chosen images')} data-testid="codevision-chosen">
      {model.images.map((image, i) => (
        <li key={i} className="cv-Chosen-image">
          <Thumbnail image={image} />
          <span className="cv-Chosen-name">{nameOf(image)}</span>
          <button
            type="button"
            className="cv-Chosen-remove"
            aria-label={trans.__('Remove %1', nameOf(image))}
            data-testid={`codevision-remove-image-${i}`}
            onClick={() => model.removeImage(i)}
          >
            <closeIcon.react tag="span" width="12px" height="12px" />
          </button>
        </li>
      ))}
    </ul>
  );
}

function nameOf(image: ChosenImage): string {
  return 'path' in image ? (image.path.split('/').pop() ?? image.path) : image.name;
}

function Thumbnail({ image }: { image: ChosenImage }): JSX.Element {
  const { fileUrl } = useTools();
  const [url, setUrl] = useState<string | null>('data' in image ? `data:${image.mime};base64,${image.data}` : null);
  useEffect(() => {
    if ('path' in image) {
      void fileUrl(image.path).then(setUrl);
    }
  }, [image, fileUrl]);
  return url === null ? <span className="cv-Chosen-thumb" /> : <img className="cv-Chosen-thumb" src={url} alt="" />;
}
