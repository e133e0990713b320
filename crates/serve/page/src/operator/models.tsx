// Models: loaded, unloaded.
import { useEffect, useState } from 'preact/hooks';
import { type Model, models as list } from '../api';
import { ask } from '../dialog';
import { operatorKey } from '../keys';
import { bytes, number } from '../money';
import { refreshModels } from '../session';
import { t } from '../texts';
import { Problem, Table, asOperator, said } from './work';

export function Models() {
  const [models, setModels] = useState<Model[] | undefined>(undefined);
  const [problem, setProblem] = useState('');
  const [busy, setBusy] = useState('');
  const again = () =>
    list(operatorKey.value).then(
      (found) => setModels(found),
      (error) => setProblem(said(error)),
    );
  useEffect(() => {
    void again();
    const every = setInterval(again, 3000);
    return () => clearInterval(every);
  }, []);
  const change = async (model: Model, what: 'load' | 'unload') => {
    if (what === 'unload' && !(await ask(t('unloadSure', { model: model.id }), t('unloadModel')))) return;
    setBusy(model.id);
    try {
      await asOperator(`/models/${what}`, { body: { model: model.id } });
      setProblem('');
    } catch (error) {
      setProblem(said(error));
    }
    setBusy('');
    await again();
    void refreshModels();
  };
  const states = { ready: 'modelReady', loading: 'modelLoading', absent: 'unloaded' } as const;
  return (
    <section>
      <h2>{t('models')}</h2>
      <Problem text={problem} />
      {models && (
        <Table label={t('models')} empty={models.length === 0} head={[t('model'), t('state'), { number: t('size') }, { number: t('context') }, t('actions')]}>
          {models.map((model) => (
            <tr key={model.id}>
              <th scope="row">{model.id}</th>
              <td>
                <span class={`state ${model.state}`}>{busy === model.id ? t('wait') : t(states[model.state])}</span>
              </td>
              <td class="number">{bytes(model.bytes)}</td>
              <td class="number">{number(model.context)}</td>
              <td class="row-actions">
                {model.state === 'absent' && (
                  <button type="button" class="small" aria-label={`${t('loadModel')}: ${model.id}`} disabled={busy !== ''} onClick={() => void change(model, 'load')}>
                    {t('loadModel')}
                  </button>
                )}
                {model.state === 'ready' && (
                  <button type="button" class="small" aria-label={`${t('unloadModel')}: ${model.id}`} disabled={busy !== ''} onClick={() => void change(model, 'unload')}>
                    {t('unloadModel')}
                  </button>
                )}
              </td>
            </tr>
          ))}
        </Table>
      )}
    </section>
  );
}
