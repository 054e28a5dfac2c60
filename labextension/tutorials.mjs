// The tutorials' cells, for the command that opens them: without what they have shown, and without pictures and links to
// files that are not beside the copy.

import { readFileSync, readdirSync, writeFileSync } from 'node:fs';

const folder = new URL('../tutorials/', import.meta.url);
const alone = text => text.replace(/^!\[[^\]]*\]\([^)]*\)\n?/gm, '').replace(/\[([^\]]*)\]\((?!https?:)[^)]*\)/g, '$1');
const tutorials = readdirSync(folder)
  .filter(file => file.endsWith('.ipynb'))
  .sort()
  .map(file => {
    const { cells, ...rest } = JSON.parse(readFileSync(new URL(file, folder), 'utf8'));
    const plain = cells.map(cell =>
      cell.cell_type === 'code'
        ? { ...cell, outputs: [], execution_count: null }
        : { ...cell, source: alone([cell.source].flat().join('')) }
    );
    const title = [cells[0].source]
      .flat()
      .join('')
      .split('\n', 1)[0]
      .replace(/^#+\s*/, '');
    return { file, title, notebook: { ...rest, cells: plain } };
  });
writeFileSync(new URL('src/tutorials.json', import.meta.url), JSON.stringify(tutorials));
