// Invite links and the cells that use them.

const WRAPPING =
  /^[\s"'`<>()[\],.;\u201c\u201d\u2018\u2019\u00ab\u00bb\u200b]+|[\s"'`<>()[\],.;\u201c\u201d\u2018\u2019\u00ab\u00bb\u200b]+$/g;
const LINK = /^https?:\/\/[^\s"'`<>{}\\#]+\/swarm\/(join|watch)\/[a-z0-9][a-z0-9-]{0,63}\/?#[\w-]{36}$/;

export type Fault = 'empty' | 'no link' | 'incomplete' | 'watch';

/** Read a link as people paste it, with spaces, line breaks or quotes around it: the link, or what is wrong with it.
 * Whether the server accepts its secret is for the server to say. */
export function readLink(text: string): { link: string } | { fault: Fault } {
  const link = text.replace(WRAPPING, '').replace(/[\s\u200b]+/g, '');
  if (!link) {
    return { fault: 'empty' };
  }
  const match = LINK.exec(link);
  if (match) {
    return match[1] === 'join' ? { link } : { fault: 'watch' };
  }
  return { fault: /^https?:\/\/.*\/swarm\/(join|watch)/.test(link) ? 'incomplete' : 'no link' };
}

/** A word of a magic's line: nothing in it ends the quotes, or is taken for a variable. */
function quoted(text: string): string {
  const plain = text
    .replace(/["{}$\p{Cc}]/gu, ' ')
    .replace(/^[\s-]+/, '')
    .replace(/\s+/g, ' ')
    .trim();
  return /^[\w.-]+$/.test(plain) ? plain : `"${plain}"`;
}

const LOAD = '%load_ext jupyter_swarm';

export function hostCell(name: string, recipe: string, rounds: number): string {
  return `${LOAD}\n%swarm host ${quoted(name)} --recipe ${recipe} --rounds ${rounds}`;
}

/** name: how others see the kernel, '' if it is to have none. */
export function joinCell(link: string, name: string): string {
  const called = quoted(name);
  return `${LOAD}\n%swarm join ${link}${called === '""' ? '' : ` --name ${called}`}`;
}
