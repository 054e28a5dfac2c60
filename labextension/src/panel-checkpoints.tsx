// What is kept of the model: listed, saved, downloaded.

import * as React from 'react';

import { type ICheckpoint, type SwarmApi } from './api.js';
import { metric, moment } from './format.js';
import type { IChosen } from './model.js';
import { Button, type IContext } from './panel-parts.js';
import { agreed } from './panel-status.js';
import { bytes, short } from './ticks.js';
import { LARGEST, zip } from './zip.js';

const MANIFEST = 'manifest.json';

export const Checkpoints = React.memo(function Checkpoints(props: {
  session: string;
  list: readonly ICheckpoint[];
  canSave: boolean;
  context: IContext;
}): JSX.Element {
  const { session, list, canSave, context } = props;
  const { model, trans, act, say } = context;
  const [name, setName] = React.useState('');
  const save = (event: React.FormEvent): void => {
    event.preventDefault();
    act(async () => {
      const made = await model.api.save(session, name.trim());
      setName('');
      await model.readCheckpoints();
      say(trans.__('The checkpoint %1 is saved.', made.name));
    });
  };
  return (
    <>
      {canSave ? (
        <form className="swarm-form" onSubmit={save}>
          <input
            className="swarm-input"
            value={name}
            maxLength={200}
            placeholder={trans.__('Name, if you like')}
            aria-label={trans.__('Name of the checkpoint')}
            onChange={event => setName(event.target.value)}
          />
          <button type="submit" className="swarm-button">
            {trans.__('Save now')}
          </button>
        </form>
      ) : null}
      <ul className="swarm-list" aria-label={trans.__('Checkpoints')}>
        {[...list].reverse().map(one => (
          <Checkpoint key={one.number} checkpoint={one} session={session} context={context} />
        ))}
      </ul>
      {list.length ? null : <p className="swarm-quiet">{trans.__('There is none yet.')}</p>}
    </>
  );
});

function Checkpoint(props: { checkpoint: ICheckpoint; session: string; context: IContext }): JSX.Element {
  const { checkpoint, session, context } = props;
  const { model, trans, act, say } = context;
  const [done, setDone] = React.useState<number | null>(null);
  const stop = React.useRef<AbortController | null>(null);
  React.useEffect(() => () => stop.current?.abort(), []);
  const manifest = checkpoint.manifest;
  const size = manifest?.files.reduce((sum, file) => sum + file.bytes, 0) ?? 0;
  const fetch = (): void =>
    act(async () => {
      stop.current = new AbortController();
      setDone(0);
      try {
        const archive = await download(model.api, session, checkpoint, stop.current.signal, setDone);
        keep(archive, `${checkpoint.name}.zip`);
        say(trans.__('The checkpoint %1 is downloaded.', checkpoint.name));
      } catch (error) {
        if (!stop.current.signal.aborted) {
          throw error;
        }
      } finally {
        setDone(null);
      }
    });
  const remove = (): void =>
    act(async () => {
      const title = trans.__('Delete the checkpoint %1?', checkpoint.name);
      if (await agreed(title, trans.__('Its files are deleted from this server.'), trans.__('Delete'), trans)) {
        await model.api.deleteCheckpoint(session, checkpoint.number);
        await model.readCheckpoints();
      }
    });
  const metrics = Object.entries(manifest?.metrics ?? {}).map(
    ([key, value]) => `${metric(key, trans)} ${short(value)}`
  );
  return (
    <li className="swarm-item">
      <span className="swarm-name">{checkpoint.name}</span>
      <span className="swarm-buttons">
        {done !== null ? (
          <Button text={trans.__('Stop')} pressed={() => stop.current?.abort()} />
        ) : manifest && size <= LARGEST ? (
          <Button
            text={trans.__('Download')}
            label={trans.__('Download the checkpoint %1', checkpoint.name)}
            title={trans.__('As a zip file: a folder that from_pretrained opens')}
            pressed={fetch}
          />
        ) : null}
        <Button
          text={trans.__('Delete …')}
          label={trans.__('Delete the checkpoint %1', checkpoint.name)}
          pressed={remove}
        />
      </span>
      <span className="swarm-why">
        {[trans.__('round %1', checkpoint.version), moment(checkpoint.created), bytes(size), ...metrics].join(' · ')}
      </span>
      {size > LARGEST ? (
        <span className="swarm-why">{trans.__('Too large for a browser: fetch it in a notebook.')}</span>
      ) : null}
      {checkpoint.problem ? <span className="swarm-why">{checkpoint.problem}</span> : null}
      {done === null ? null : (
        <progress className="swarm-progress" value={done} max={size} aria-label={trans.__('Download')} />
      )}
    </li>
  );
}

/** The checkpoint's folder as one archive. */
async function download(
  api: SwarmApi,
  session: string,
  checkpoint: ICheckpoint,
  signal: AbortSignal,
  progress: (bytes: number) => void
): Promise<Blob> {
  const text = await new Response(await api.blob(session, checkpoint.sha256, signal)).blob();
  const folder = plainName(checkpoint.name);
  const entries = checkpoint.manifest!.files.map(file => ({
    name: `${folder}/${file.name}`,
    bytes: file.bytes,
    open: () => api.blob(session, file.sha256, signal)
  }));
  const manifest = { name: `${folder}/${MANIFEST}`, bytes: text.size, open: () => Promise.resolve(text.stream()) };
  return zip([...entries, manifest], progress);
}

/** As a file may be called anywhere. */
function plainName(name: string): string {
  return name.replace(/[^\p{L}\p{N} ._-]/gu, '_').replace(/^\.+|\.+$/g, '_');
}

function keep(archive: Blob, name: string): void {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(archive);
  link.download = plainName(name);
  link.click();
  window.setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

export function canSave(chosen: IChosen): boolean {
  return !!chosen.status && chosen.status.state !== 'finished' && !chosen.gone;
}
