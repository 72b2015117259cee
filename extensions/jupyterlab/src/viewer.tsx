/**
 * The image viewer: over everything, with zoom, and with the lineage of a picture: the pictures it was made from, and its outline
 * on the input. A modal dialog: Escape closes it, the arrow keys go from picture to picture, focus stays inside.
 */

import { caretLeftIcon, caretRightIcon, closeIcon } from '@jupyterlab/ui-components';
import { useCallback, useEffect, useLayoutEffect, useRef, useState, type KeyboardEvent, type PointerEvent } from 'react';
import { createPortal } from 'react-dom';

import { Button } from './controls.js';
import { useTools } from './context.js';
import type { RunImage } from './events.js';
import { fit, isOutline, lineage, outlinesOn, polygonPoints, zoom, type Placement } from './geometry.js';

interface ViewerProps {
  readonly run: string;
  readonly images: Readonly<Record<number, RunImage>>;
  readonly index: number;
  readonly show: (index: number) => void;
  readonly close: () => void;
}

export function Viewer({ run, images, index, show, close }: ViewerProps): JSX.Element | null {
  const { trans } = useTools();
  const [onRoot, setOnRoot] = useState(true);
  const dialog = useRef<HTMLDivElement>(null);
  const image = images[index];
  const root = image?.root !== null && image?.root !== undefined ? images[image.root] : undefined;
  const hasPlace = image !== undefined && root !== undefined && root.index !== index && isOutline(image.outline);

  useEffect(() => {
    const before = document.activeElement;
    dialog.current?.focus();
    const stay = (event: FocusEvent): void => {
      if (dialog.current !== null && event.target instanceof Node && !dialog.current.contains(event.target)) {
        dialog.current.focus(); // something of the page behind took the focus
      }
    };
    document.addEventListener('focusin', stay);
    return () => {
      document.removeEventListener('focusin', stay);
      if (before instanceof HTMLElement) {
        before.focus();
      }
    };
  }, []);

  if (image === undefined) {
    return null;
  }
  const order = Object.keys(images).map(Number);
  const next = (by: number): void => {
    const to = order[order.indexOf(index) + by];
    if (to !== undefined) {
      show(to);
    }
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    const keys: Record<string, () => void> = {
      Escape: close,
      ArrowLeft: () => next(-1),
      ArrowRight: () => next(1),
      Tab: () => keepInside(dialog.current, event)
    };
    event.stopPropagation();
    const action = keys[event.key];
    if (action !== undefined) {
      action();
      if (event.key !== 'Tab') {
        event.preventDefault();
      }
    }
  };
  const line = lineage(images, index);
  return createPortal(
    <div
      ref={dialog}
      className="cv-Viewer"
      role="dialog"
      aria-modal="true"
      aria-label={trans.__('Image %1', image.name)}
      tabIndex={-1}
      data-testid="codevision-viewer"
      data-lm-suppress-shortcuts="true"
      onKeyDown={onKeyDown}
    >
      <div className="cv-Viewer-head">
        <nav className="cv-Lineage" aria-label={trans.__('Made from')} data-testid="codevision-lineage">
          {line.map((step, i) => (
            <span key={step.index} className="cv-Lineage-step">
              {i > 0 && <span aria-hidden="true">→</span>}
              <button
                type="button"
                className="cv-Lineage-image"
                aria-current={step.index === index}
                data-testid={`codevision-lineage-${step.index}`}
                onClick={() => show(step.index)}
              >
                {step.name}
              </button>
            </span>
          ))}
        </nav>
        <span className="cv-Viewer-size">
          {image.size[0]} × {image.size[1]} · {image.origin}
        </span>
        <span className="cv-Viewer-tools">
          <Button
            label={trans.__('Previous image')}
            testId="codevision-viewer-previous"
            icon={caretLeftIcon}
            disabled={order.indexOf(index) <= 0}
            onClick={() => next(-1)}
          />
          <Button
            label={trans.__('Next image')}
            testId="codevision-viewer-next"
            icon={caretRightIcon}
            disabled={order.indexOf(index) >= order.length - 1}
            onClick={() => next(1)}
          />
          {hasPlace && (
            <Button
              text
              pressed={onRoot}
              label={trans.__('Show where it lies')}
              testId="codevision-viewer-where"
              onClick={() => setOnRoot(!onRoot)}
            />
          )}
          <Button label={trans.__('Close')} testId="codevision-viewer-close" icon={closeIcon} onClick={close} />
        </span>
      </div>
      <div className="cv-Viewer-stages">
        <Stage run={run} image={image} images={images} outlined={null} show={show} />
        {hasPlace && onRoot && <Stage run={run} image={root} images={images} outlined={index} show={show} />}
      </div>
    </div>,
    document.body
  );
}

function keepInside(dialog: HTMLElement | null, event: KeyboardEvent): void {
  const stops = Array.from(dialog?.querySelectorAll<HTMLElement>('button:not(:disabled), [tabindex="0"]') ?? []);
  const first = stops[0];
  const last = stops[stops.length - 1];
  const at = document.activeElement;
  if (event.shiftKey ? at === first || at === dialog : at === last) {
    event.preventDefault();
    (event.shiftKey ? last : first)?.focus();
  }
}

interface StageProps {
  readonly run: string;
  readonly image: RunImage;
  readonly images: Readonly<Record<number, RunImage>>;
  /** The image whose outline stands out; null: all outlines are faint. */
  readonly outlined: number | null;
  readonly show: (index: number) => void;
}

/** One picture with the outlines of what was made from it; wheel and keys zoom, dragging moves. */
function Stage({ run, image, images, outlined, show }: StageProps): JSX.Element {
  const { model, trans } = useTools();
  const stage = useRef<HTMLDivElement>(null);
  const [place, setPlace] = useState<Placement | null>(null);
  const drag = useRef<{ x: number; y: number } | null>(null);

  const refit = useCallback((): void => {
    const box = stage.current;
    if (box !== null) {
      setPlace(fit(image.size, [box.clientWidth, box.clientHeight]));
    }
  }, [image]);

  useLayoutEffect(() => {
    refit();
    const box = stage.current;
    if (box === null) {
      return;
    }
    const watcher = new ResizeObserver(refit);
    watcher.observe(box);
    const wheel = (event: WheelEvent): void => {
      event.preventDefault();
      const corner = box.getBoundingClientRect();
      const at = [event.clientX - corner.left, event.clientY - corner.top] as const;
      setPlace(now => now && zoom(now, Math.exp(-event.deltaY / 400), at));
    };
    box.addEventListener('wheel', wheel, { passive: false });
    return () => {
      watcher.disconnect();
      box.removeEventListener('wheel', wheel);
    };
  }, [refit]);

  const zoomBy = (factor: number): void => {
    const box = stage.current;
    if (box !== null) {
      setPlace(now => now && zoom(now, factor, [box.clientWidth / 2, box.clientHeight / 2]));
    }
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    if (event.key === '+' || event.key === '=') {
      zoomBy(1.25);
    } else if (event.key === '-') {
      zoomBy(0.8);
    } else if (event.key === '0') {
      refit();
    }
  };
  const onPointerDown = (event: PointerEvent): void => {
    if (event.button === 0 && !(event.target instanceof SVGPolygonElement)) {
      drag.current = { x: event.clientX, y: event.clientY };
      stage.current?.setPointerCapture(event.pointerId);
    }
  };
  const onPointerMove = (event: PointerEvent): void => {
    const from = drag.current;
    if (from !== null) {
      const by = [event.clientX - from.x, event.clientY - from.y] as const;
      drag.current = { x: event.clientX, y: event.clientY };
      setPlace(now => now && { ...now, x: now.x + by[0], y: now.y + by[1] });
    }
  };
  const [width, height] = [image.size[0], image.size[1]];
  const name = `codevision-stage-${image.index}`;
  return (
    <figure className="cv-Stage-box">
      <figcaption className="cv-Stage-name">
        {outlined === null ? image.name : trans.__('on %1', image.name)}
        <span className="cv-Stage-zoom" data-testid={`${name}-zoom`}>
          {place === null ? '' : `${Math.round(place.scale * 100)} %`}
        </span>
        <Button text label="−" testId={`${name}-out`} onClick={() => zoomBy(0.8)} />
        <Button text label="+" testId={`${name}-in`} onClick={() => zoomBy(1.25)} />
        <Button text label={trans.__('Fit')} testId={`${name}-fit`} onClick={refit} />
      </figcaption>
      <div
        ref={stage}
        className="cv-Stage"
        tabIndex={0}
        role="group"
        aria-label={trans.__('%1: plus and minus zoom, 0 fits', image.name)}
        data-testid={name}
        onKeyDown={onKeyDown}
        onPointerDown={onPointerDown}
        onPointerMove={onPointerMove}
        onPointerUp={() => {
          drag.current = null;
        }}
        onDoubleClick={refit}
      >
        {place !== null && (
          <div
            className="cv-Stage-sheet"
            style={{ width, height, transform: `translate(${place.x}px, ${place.y}px) scale(${place.scale})` }}
          >
            <img
              src={model.api.imageUrl(run, image.index, 'data')}
              alt={image.name}
              width={width}
              height={height}
              draggable={false}
              data-crisp={place.scale > 3 ? 'true' : undefined}
            />
            <svg viewBox={`0 0 ${width} ${height}`} width={width} height={height}>
              {outlinesOn(images, image.index).map(part => (
                <polygon
                  key={part.index}
                  className="cv-Outline"
                  points={polygonPoints(part.outline ?? [])}
                  data-chosen={part.index === outlined ? 'true' : undefined}
                  data-testid={`codevision-outline-${part.index}`}
                  vectorEffect="non-scaling-stroke"
                  onClick={() => show(part.index)}
                >
                  <title>{part.name}</title>
                </polygon>
              ))}
            </svg>
          </div>
        )}
      </div>
    </figure>
  );
}
