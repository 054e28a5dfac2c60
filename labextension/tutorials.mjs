// The tutorials' cells, without what they have shown, for the command that opens them.

import { readFileSync, readdirSync, writeFileSync } from 'node:fs';

const folder = new URL('../tutorials/', import.meta.url);
const tutorials = readdirSync(folder)
  .filter(file => file.endsWith('.ipynb'))
  .sort()
  .map(file => {
    const { cells, ...rest } = JSON.parse(readFileSync(new URL(file, folder), 'utf8'));
    const plain = cells.map(cell =>
      cell.cell_type === 'code' ? { ...cell, outputs: [], execution_count: null } : cell
    );
    const title = [cells[0].source]
      .flat()
      .join('')
      .split('\n', 1)[0]
      .replace(/^#+\s*/, '');
    return { file, title, notebook: { ...rest, cells: plain } };
  });
writeFileSync(new URL('src/tutorials.json', import.meta.url), JSON.stringify(tutorials));
