/** Pictures of a run: small ones in the text, side by side with their names; a click opens the viewer. */

import { memo } from 'react';

import type { RunImage } from './events.js';
import { useTools } from './context.js';

interface PictureProps {
  readonly run: string;
  readonly image: RunImage;
  readonly open: (index: number) => void;
}

export const Picture = memo(function Picture({ run, image, open }: PictureProps): JSX.Element {
  const { model, trans } = useTools();
  const [width, height] = [image.view_size[0], image.view_size[1]];
  return (
    <figure className="cv-Picture">
      <button
        type="button"
        className="cv-Picture-button"
        aria-label={trans.__('Look at %1, %2 by %3 pixels', image.name, image.size[0], image.size[1])}
        data-testid={`codevision-image-${image.index}`}
        onClick={() => open(image.index)}
      >
        <img
          src={model.api.imageUrl(run, image.index, 'view')}
          alt={image.name}
          width={width}
          height={height}
          loading="lazy"
          decoding="async"
          draggable={false}
        />
      </button>
      <figcaption>
        <span className="cv-Picture-name">{image.name}</span>
        <span className="cv-Picture-size">
          {image.size[0]} × {image.size[1]}
        </span>
      </figcaption>
    </figure>
  );
});

export function Pictures(props: { run: string; images: readonly RunImage[]; open: (index: number) => void }): JSX.Element {
  return (
    <div className="cv-Pictures">
      {props.images.map(image => (
        <Picture key={image.index} run={props.run} image={image} open={props.open} />
      ))}
    </div>
  );
}
