// Whoever uses the keyboard stays where they are, also when what they used goes away.

import * as React from 'react';

/** For the root of what is drawn. When the control that has the keyboard's focus is drawn no more, the title of its
 * section gets the focus, or else the first control of all. */
export function useKeptFocus(): React.RefObject<HTMLDivElement> {
  const root = React.useRef<HTMLDivElement>(null);
  const path = React.useRef<Element[]>([]);
  React.useEffect(() => {
    const node = root.current!;
    const came = (event: FocusEvent): void => {
      const used = event.target as Element;
      path.current = used.matches(':focus-visible') ? event.composedPath().filter(one => one instanceof Element) : [];
    };
    node.addEventListener('focusin', came);
    return () => node.removeEventListener('focusin', came);
  }, []);
  React.useLayoutEffect(() => {
    const [used, ...around] = path.current;
    if (used && !used.isConnected && document.activeElement === document.body) {
      const section = around.find(one => one.isConnected)?.closest('details');
      const place = section?.querySelector('summary') ?? root.current!.querySelector<HTMLElement>('select, button');
      place?.focus();
    }
  });
  return root;
}
