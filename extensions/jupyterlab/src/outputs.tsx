/** What a cell showed. All of it is inert text and pictures: nothing a kernel wrote is read as HTML. */

import type { Output, RunImage } from './events.js';
import { Pictures } from './pictures.js';
import { plainText } from './state.js';
import { useTools } from './context.js';

interface OutputsProps {
  readonly run: string;
  readonly outputs: readonly Output[];
  readonly images: Readonly<Record<number, RunImage>>;
  readonly open: (index: number) => void;
}

/** Pictures that follow each other stand side by side. */
type Group = { readonly pictures: readonly RunImage[] } | { readonly output: Exclude<Output, { kind: 'image' }> };

function grouped(outputs: readonly Output[], images: Readonly<Record<number, RunImage>>): readonly Group[] {
  const groups: Group[] = [];
  for (const output of outputs) {
    if (output.kind !== 'image') {
      groups.push({ output });
      continue;
    }
    const image = images[output.index];
    const last = groups[groups.length - 1];
    if (image === undefined) {
      continue;
    }
    if (last !== undefined && 'pictures' in last) {
      groups[groups.length - 1] = { pictures: [...last.pictures, image] };
    } else {
      groups.push({ pictures: [image] });
    }
  }
  return groups;
}

export function Outputs({ run, outputs, images, open }: OutputsProps): JSX.Element | null {
  if (outputs.length === 0) {
    return null;
  }
  return (
    <div className="cv-Outputs" data-testid="codevision-outputs">
      {grouped(outputs, images).map((group, i) =>
        'pictures' in group ? (
          <Pictures key={i} run={run} images={group.pictures} open={open} />
        ) : (
          <TextOutput key={i} output={group.output} />
        )
      )}
    </div>
  );
}

function TextOutput({ output }: { output: Exclude<Output, { kind: 'image' }> }): JSX.Element {
  const { trans } = useTools();
  if (output.kind === 'error') {
    const frames = plainText(output.traceback.join('\n'));
    return (
      <details className="cv-Traceback" open data-testid="codevision-traceback">
        <summary>
          <strong>{output.ename}</strong>
          {output.evalue && `: ${plainText(output.evalue)}`}
        </summary>
        {frames && (
          <pre tabIndex={0} aria-label={trans.__('Traceback')}>
            {frames}
          </pre>
        )}
      </details>
    );
  }
  const error = output.kind === 'stream' && output.name === 'stderr';
  return (
    <>
      <pre
        className="cv-Text"
        data-stream={error ? 'stderr' : undefined}
        tabIndex={0}
        aria-label={error ? trans.__('Printed errors') : trans.__('Printed text')}
      >
        {plainText(output.text)}
      </pre>
      {output.dropped > 0 && (
        <p className="cv-Note">{trans._n('%1 character was left out', '%1 characters were left out', output.dropped)}</p>
      )}
    </>
  );
}
