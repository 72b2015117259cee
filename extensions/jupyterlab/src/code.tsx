/** Code to read, highlighted by the application's CodeMirror once it comes into view; code to edit, in the application's editor. */

import { CodeEditor } from '@jupyterlab/codeeditor';
import { memo, useEffect, useLayoutEffect, useRef } from 'react';

import { useTools } from './context.js';

const PYTHON = 'text/x-python';

/** Highlighting builds text nodes and spans with class names: the code itself is never read as HTML. */
export const Code = memo(function Code({ code, label }: { code: string; label: string }): JSX.Element {
  const { languages } = useTools();
  const node = useRef<HTMLElement>(null);
  useLayoutEffect(() => {
    const target = node.current;
    if (target === null) {
      return;
    }
    target.textContent = code;
    let current = true;
    const watcher = new IntersectionObserver(
      entries => {
        if (!entries.some(entry => entry.isIntersecting)) {
          return;
        }
        watcher.disconnect();
        const built = document.createElement('code');
        void languages.highlight(code, languages.findByMIME(PYTHON), built).then(() => {
          if (current) {
            target.replaceChildren(...built.childNodes);
          }
        });
      },
      { rootMargin: '300px' }
    );
    watcher.observe(target);
    return () => {
      current = false;
      watcher.disconnect();
    };
  }, [code, languages]);
  return (
    <pre className="cv-Code cm-s-jupyter" tabIndex={0} aria-label={label} data-testid="codevision-code">
      <code ref={node} />
    </pre>
  );
});

interface EditorProps {
  readonly code: string;
  readonly label: string;
  /** Called with the whole text whenever it changes. */
  readonly onChange: (code: string) => void;
}

export function CodeBox({ code, label, onChange }: EditorProps): JSX.Element {
  const { editors } = useTools();
  const host = useRef<HTMLDivElement>(null);
  const change = useRef(onChange);
  change.current = onChange;
  const first = useRef(code);
  useEffect(() => {
    if (host.current === null) {
      return;
    }
    const model = new CodeEditor.Model({ mimeType: PYTHON });
    model.sharedModel.setSource(first.current);
    const editor = editors.factoryService.newInlineEditor({
      host: host.current,
      model,
      config: { lineWrap: true, lineNumbers: false, autoClosingBrackets: true }
    });
    const tell = (): void => change.current(model.sharedModel.getSource());
    model.sharedModel.changed.connect(tell);
    host.current.querySelector('[contenteditable]')?.setAttribute('aria-label', label);
    editor.focus();
    return () => {
      model.sharedModel.changed.disconnect(tell);
      editor.dispose();
      model.dispose();
    };
  }, [editors, label]);
  return <div ref={host} className="cv-CodeBox" data-testid="codevision-code-editor" />;
}

/** The highlighter's style sheet comes with the first editor: one is made and thrown away. */
export function loadHighlightStyle(factory: CodeEditor.Factory): void {
  const model = new CodeEditor.Model({ mimeType: PYTHON });
  const host = document.createElement('div');
  host.style.display = 'none';
  document.body.appendChild(host);
  factory({ host, model }).dispose();
  model.dispose();
  host.remove();
}
