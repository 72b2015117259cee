/**
 * Where pictures lie on the pictures they were made from, and how a picture is zoomed. Pure.
 */

import type { Point, RunImage } from './events.js';

type Images = Readonly<Record<number, RunImage>>;

/** The image and the images it was made from, the oldest first. Ends at a parent that is missing or met before. */
export function lineage(images: Images, index: number): readonly RunImage[] {
  const line: RunImage[] = [];
  const seen = new Set<number>();
  for (let next: number | null = index; next !== null && !seen.has(next); ) {
    const image: RunImage | undefined = images[next];
    if (image === undefined) {
      break;
    }
    seen.add(next);
    line.unshift(image);
    next = image.parent;
  }
  return line;
}

/** The images whose outlines are known on image `root`, other than itself; the largest first, so that small ones lie on top. */
export function outlinesOn(images: Images, root: number): readonly RunImage[] {
  return Object.values(images)
    .filter(image => image.root === root && image.index !== root && isOutline(image.outline))
    .sort((a, b) => area(b.outline) - area(a.outline));
}

/** Whether this is a polygon of finite corners. */
export function isOutline(outline: readonly Point[] | null): outline is readonly Point[] {
  return (
    Array.isArray(outline) &&
    outline.length >= 3 &&
    outline.every(corner => Number.isFinite(corner[0]) && Number.isFinite(corner[1]))
  );
}

/** Area in square pixels (the shoelace formula); 0 where there is no outline. */
export function area(outline: readonly Point[] | null): number {
  if (!isOutline(outline)) {
    return 0;
  }
  let twice = 0;
  outline.forEach((a, i) => {
    const b = outline[(i + 1) % outline.length] as Point;
    twice += a[0] * b[1] - b[0] * a[1];
  });
  return Math.abs(twice) / 2;
}

/** The attribute `points` of an SVG polygon. */
export function polygonPoints(outline: readonly Point[]): string {
  return outline.map(corner => `${round(corner[0])},${round(corner[1])}`).join(' ');
}

function round(value: number): number {
  return Math.round(value * 100) / 100;
}

/** A picture on the screen: its scale, and where its top left corner lies, in pixels of the stage. */
export interface Placement {
  readonly scale: number;
  readonly x: number;
  readonly y: number;
}

const MARGIN = 24;
export const LARGEST = 32;
export const SMALLEST = 0.02;

/** The whole picture in the middle of the stage; small pictures are enlarged, but at most `enlarge` times. */
export function fit(size: Point, stage: Point, enlarge = 4): Placement {
  const room = [Math.max(1, stage[0] - 2 * MARGIN), Math.max(1, stage[1] - 2 * MARGIN)] as const;
  const scale = clampScale(Math.min(room[0] / Math.max(1, size[0]), room[1] / Math.max(1, size[1]), enlarge));
  return { scale, x: (stage[0] - size[0] * scale) / 2, y: (stage[1] - size[1] * scale) / 2 };
}

/** Zoomed by `factor` so that what lies under `at` (pixels of the stage) stays there. */
export function zoom(placement: Placement, factor: number, at: Point): Placement {
  const scale = clampScale(placement.scale * factor);
  const real = scale / placement.scale;
  return { scale, x: at[0] - (at[0] - placement.x) * real, y: at[1] - (at[1] - placement.y) * real };
}

function clampScale(scale: number): number {
  return Math.min(LARGEST, Math.max(SMALLEST, scale));
}
