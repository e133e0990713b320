// The price sheet in force.
import { Prose } from '../dialog';
import { micros, number } from '../money';
import { t } from '../texts';
import { Problem, Table, useAnswer } from './work';

interface Sheet {
  currency: string;
  models: { name: string; hit: number; miss: number; output: number }[];
  hours: { days: string[]; from: string; to: string; factor: number }[];
  batch: number;
  factor: number;
}

export function Prices() {
  const { answer: sheet, problem } = useAnswer<Sheet>('/admin/prices');
  return (
    <section>
      <h2>{t('prices')}</h2>
      <Problem text={problem} />
      {sheet && sheet.models.length === 0 && <p><Prose text={t('pricesNone')} /></p>}
      {sheet && sheet.models.length > 0 && (
        <>
          <p class="hint">{t('pricesHint', { currency: sheet.currency })}</p>
          <Table label={t('prices')} empty={false} head={[t('model'), { number: t('priceHit') }, { number: t('priceMiss') }, { number: t('priceOutput') }]}>
            {sheet.models.map((model) => (
              <tr key={model.name}>
                <th scope="row">{model.name}</th>
                {[model.hit, model.miss, model.output].map((price, i) => (
                  <td key={i} class="number">
                    {micros(price, sheet.currency)}
                  </td>
                ))}
              </tr>
            ))}
          </Table>
          {sheet.factor !== 1 && <p>{t('priceNow', { factor: number(sheet.factor, 3) })}</p>}
          {sheet.batch !== 1 && <p>{t('priceBatch', { factor: number(sheet.batch, 3) })}</p>}
          {sheet.hours.length > 0 && (
            <>
              <h3>{t('priceHours')}</h3>
              <Table label={t('priceHours')} empty={false} head={[t('weekdays'), t('hours'), { number: t('factor') }]}>
                {sheet.hours.map((hours, i) => (
                  <tr key={i}>
                    <td>{hours.days.join(', ')}</td>
                    <td>
                      {hours.from} – {hours.to}
                    </td>
                    <td class="number">{number(hours.factor, 3)}</td>
                  </tr>
                ))}
              </Table>
            </>
          )}
        </>
      )}
    </section>
  );
}
