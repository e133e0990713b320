// Reports of usage: charts by day, and a table.
import { Chart } from './chart';
import { micros, number, short } from './money';
import { language, t } from './texts';

export interface Sums {
  requests: number;
  hit: number;
  miss: number;
  output: number;
  reasoning: number;
  /** Micro-units. */
  cost: number;
}

export interface Report {
  currency: string;
  by: 'day' | 'hour' | 'key' | 'account' | 'model';
  rows: (Sums & { day?: string; hour?: string; name?: string; model?: string })[];
  sum: Sums;
  from: string;
  until: string;
}

const locale = () => (language.value === 'zh' ? 'zh-CN' : 'en');

/** Each day from the first to the last, with those without usage. */
function days(report: Report): { at: number; sums?: Sums }[] {
  const DAY = 86_400_000;
  const all = [];
  const found = new Map(report.rows.map((row) => [row.day, row]));
  for (let at = Date.parse(report.from); at <= Date.parse(report.until) && all.length < 4000; at += DAY) {
    all.push({ at: at / 1000, sums: found.get(new Date(at).toISOString().slice(0, 10)) });
  }
  return all;
}

export function UsageCharts({ report }: { report: Report }) {
  const all = days(report);
  const time = all.map(({ at }) => at);
  const costs = all.map(({ sums }) => (sums?.cost ?? 0) / 1e6);
  const tokens = all.map(({ sums }) => (sums ? sums.hit + sums.miss + sums.output : 0));
  return (
    <div class="charts">
      {report.sum.cost > 0 && (
        <Chart label={t('costChart')} data={[time, costs]} series={[{ label: t('costColumn'), colour: 'series-1' }]} bars least={1e-5} format={(value) => micros(value * 1e6, report.currency)} locale={locale()} />
      )}
      <Chart label={t('tokensChart')} data={[time, tokens]} series={[{ label: t('tokensUsed'), colour: 'series-2' }]} bars whole least={4} format={short} locale={locale()} />
    </div>
  );
}

export function UsageTable({ report }: { report: Report }) {
  const heading = { day: 'day', hour: 'hour', key: 'key', account: 'accountColumn', model: 'model' } as const;
  const cells = (sums: Sums) => [sums.requests, sums.hit, sums.miss, sums.output].map((count, i) => <td key={i}>{number(count)}</td>);
  if (report.rows.length === 0) return <p class="hint">{t('usageEmpty')}</p>;
  return (
    <div class="wide" tabIndex={0} role="group" aria-label={t('usage')}>
      <table class="data">
        <thead>
          <tr>
            <th scope="col">{t(heading[report.by])}</th>
            {(['requests', 'promptHit', 'promptMiss', 'output', 'costColumn'] as const).map((name) => (
              <th key={name} scope="col" class="number">
                {t(name)}
              </th>
            ))}
          </tr>
        </thead>
        <tbody class="numbers">
          {report.rows.map((row, i) => (
            <tr key={i}>
              <th scope="row">{row.day ?? row.hour ?? row.name ?? row.model}</th>
              {cells(row)}
              <td>{micros(row.cost, report.currency)}</td>
            </tr>
          ))}
        </tbody>
        <tfoot class="numbers">
          <tr>
            <th scope="row">{t('sum')}</th>
            {cells(report.sum)}
            <td>{micros(report.sum.cost, report.currency)}</td>
          </tr>
        </tfoot>
      </table>
    </div>
  );
}
