/** Images from where they lie to a question: files of this computer, files of the server, outputs of a notebook. */

import type { TranslationBundle } from '@jupyterlab/translation';

import type { ChosenImage } from './events.js';

const LARGEST = 64 * 2 ** 20; // bytes of one file; the server has limits of its own

/** The images among the files of a drop, a paste or a file dialog. Throws where there is none, or one is too large. */
export async function readFiles(files: FileList | readonly File[] | null, trans: TranslationBundle): Promise<readonly ChosenImage[]> {
  const pictures = Array.from(files ?? []).filter(file => file.type.startsWith('image/'));
  if (pictures.length === 0) {
    throw new Error(trans.__('None of these files is an image (PNG, JPEG, WebP, GIF, TIFF, BMP).'));
  }
  return Promise.all(pictures.map(file => readFile(file, trans)));
}

async function readFile(file: File, trans: TranslationBundle): Promise<ChosenImage> {
  if (file.size > LARGEST) {
    throw new Error(
      trans.__('%1 has %2 MiB; at most %3 can be sent. Put it beside your notebooks instead.', file.name, mib(file.size), mib(LARGEST))
    );
  }
  const url = await new Promise<string>((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result as string);
    reader.onerror = () => reject(new Error(trans.__('%1 cannot be read: %2', file.name, reader.error?.message ?? '')));
    reader.readAsDataURL(file);
  });
  return { name: file.name, ...parts(url), mime: file.type };
}

function mib(bytes: number): number {
  return Math.ceil(bytes / 2 ** 20);
}

/** The image of a `data:` URL, or null where it is none. */
export function fromDataUrl(url: string, name: string): ChosenImage | null {
  return /^data:image\/(png|jpeg|gif|webp|bmp|tiff)[;,]/.test(url) ? { name, ...parts(url) } : null;
}

function parts(url: string): { data: string; mime: string } {
  const comma = url.indexOf(',');
  const head = url.slice(5, comma);
  const body = url.slice(comma + 1);
  const data = head.endsWith(';base64') ? body.replace(/\s/g, '') : btoa(decodeURIComponent(body));
  return { data, mime: head.split(';')[0] ?? '' };
}

/** The picture at or under this node of a notebook's output, as it is there; null where there is none. */
export function fromOutput(node: HTMLElement, name: string): ChosenImage | null {
  const picture = node.matches('img, canvas') ? node : node.querySelector('img, canvas');
  if (picture instanceof HTMLImageElement) {
    return fromDataUrl(picture.src, name);
  }
  return picture instanceof HTMLCanvasElement ? fromDataUrl(picture.toDataURL('image/png'), name) : null;
}

/** Whether the name is one of an image file that the agent can read. */
export function isImagePath(path: string): boolean {
  return /\.(png|jpe?g|gif|webp|bmp|tiff?)$/i.test(path);
}
