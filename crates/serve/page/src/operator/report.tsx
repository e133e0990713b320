// Usage and costs of all accounts.
import { useState } from 'preact/hooks';
import { send } from '../api';
import { Field } from '../dialog';
import { download } from '../download';
import { operatorKey } from '../keys';
import { t } from '../texts';
import { type Report, UsageCharts, UsageTable } from '../usage';
import { Input, Problem, said, useAnswer } from './work';

const dayOf = (ms: number) => new Date(ms).toISOString().slice(0, 10);

export function UsageReport() {
  const [from, setFrom] = useState(() => dayOf(Date.now() - 29 * 86_400_000));
  const [until, setUntil] = useState(() => dayOf(Date.now()));
  const [by, setBy] = useState<Report['by']>('day');
  const [wrong, setWrong] = useState('');
  const query = new URLSearchParams({ by, ...(from && { from }), ...(until && { until }) });
  const { answer, problem } = useAnswer<Report>(`/admin/usage?${query}`);
  const csv = async () => {
    try {
      const response = await send(`/admin/usage?${query}&format=csv`, { key: operatorKey.value, accept: 'text/csv' });
      download(`usage-${from}-${until}-${by}.csv`, await response.text(), 'text/csv');
      setWrong('');
    } catch (error) {
      setWrong(said(error));
    }
  };
  const names = { day: 'day', hour: 'hour', model: 'model', key: 'key', account: 'accountColumn' } as const;
  return (
    <section>
      <h2>{t('usage')}</h2>
      <div class="filters">
        <Input label={t('from')} type="date" value={from} onInput={setFrom} />
        <Input label={t('until')} type="date" value={until} onInput={setUntil} />
        <Field label={t('by')}>
          {(field) => (
            <select {...field} value={by} onChange={(event) => setBy(event.currentTarget.value as Report['by'])}>
              {(Object.keys(names) as Report['by'][]).map((name) => (
                <option key={name} value={name}>
                  {t(names[name])}
                </option>
              ))}
            </select>
          )}
        </Field>
        <button type="button" onClick={() => void csv()}>
          {t('csv')}
        </button>
      </div>
      <Problem text={problem || wrong} />
      {answer && answer.by === 'day' && answer.rows.length > 0 && <UsageCharts report={answer} />}
      {answer && <UsageTable report={answer} />}
    </section>
  );
}
