/** Icons of our own, in the colours of the theme. */

import { LabIcon } from '@jupyterlab/ui-components';

function icon(name: string, body: string): LabIcon {
  const svgstr = `<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24">${body}</svg>`;
  return new LabIcon({ name: `codevision:${name}`, svgstr });
}

/** An eye whose iris is a cell. */
export const eyeIcon = icon(
  'eye',
  '<g class="jp-icon3" fill="#616161"><path d="M12 5C6.6 5 2.6 9 1 12c1.600 3 5.600 7 11 7s9.400-4 11-7c-1.600-3-5.600-7-11-7zm0 12c-4 0-7.200-2.800-8.700-5C4.800 9.800 8 7 12 7s7.200 2.800 8.700 5c-1.500 2.200-4.700 5-8.700 5z"/><rect x="8.700" y="8.700" width="6.600" height="6.600" rx="1.800"/></g>'
);

export const branchIcon = icon(
  'branch',
  '<g class="jp-icon3" fill="#616161"><path d="M7 7.800V16.200a3 3 0 1 1-2 0V7.800a3 3 0 1 1 2 0zM6 6.200a1.200 1.200 0 1 0 0-2.400 1.200 1.200 0 0 0 0 2.400zm0 14a1.200 1.200 0 1 0 0-2.400 1.200 1.200 0 0 0 0 2.400z"/><path d="M19 9.800c-.200 3.400-2.700 5.200-7 5.200H8v-2h4c3.200 0 4.800-1.100 5-3.200a3 3 0 1 1 2 0zM18 8.200a1.200 1.200 0 1 0 0-2.400 1.200 1.200 0 0 0 0 2.400z"/></g>'
);

export const pauseRunIcon = icon('pause', '<g class="jp-icon3" fill="#616161"><path d="M7 5h3.500v14H7zM13.500 5H17v14h-3.500z"/></g>');

export const insertIcon = icon(
  'insert',
  '<g class="jp-icon3" fill="#616161"><path d="M3 4h18v6H3zm2 2v2h14V6z"/><path d="M11 12h2v4.200l1.600-1.600L16 16l-4 4-4-4 1.400-1.400 1.600 1.600z"/></g>'
);

export const auditIcon = icon(
  'audit',
  '<g class="jp-icon3" fill="#616161"><path d="M12 2 4 5v6c0 5.200 3.400 9.700 8 11 4.600-1.300 8-5.800 8-11V5zm6 9c0 4-2.500 7.600-6 8.900C8.500 18.600 6 15 6 11V6.400l6-2.300 6 2.300z"/><path d="m10.800 15.300-3-3 1.300-1.300 1.700 1.700 4.300-4.300 1.300 1.300z"/></g>'
);

export const wideIcon = icon(
  'wide',
  '<g class="jp-icon3" fill="#616161"><path d="M14 4h6v6h-2V7.400l-4.300 4.300-1.400-1.400L16.600 6H14zM10 20H4v-6h2v2.600l4.300-4.300 1.400 1.400L7.400 18H10z"/></g>'
);
