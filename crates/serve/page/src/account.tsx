// What the owner of a key sees: balance, what is left of limits and budgets, usage.
import { useEffect, useState } from 'preact/hooks';
import { ApiError, json } from './api';
import { running } from './chats';
import { setUserKey, userKey } from './keys';
import { micros, number } from './money';
import { connect, session } from './session';
import { t } from './texts';
import { type Report, UsageCharts, UsageTable } from './usage';

interface Own {
  currency: string;
  key: any;
  account: any;
  left: any;
}

/** What an own key may still use, a row for each limit it has. */
function Limits({ own }: { own: Own }) {
  const { limits } = own.key;
  const money = (value: number) => micros(value, own.currency);
  const of = (left: number, limit: number, format: (value: number) => string) => t('leftOf', { left: format(left), limit: format(limit) });
  const plain = (value: number) => number(value);
  const rows: [string, string][] = [];
  for (const name of ['requests_per_minute', 'tokens_per_minute'] as const) {
    const rate = own.left?.[name];
    const label = name === 'requests_per_minute' ? 'requestsPerMinute' : 'tokensPerMinute';
    if (rate) rows.push([t(label), of(rate.remaining, rate.limit, plain)]);
  }
  if (limits.concurrency) rows.push([t('concurrency'), of(own.left.concurrency ?? 0, limits.concurrency, plain)]);
  const spans = { day: 'leftDay', month: 'leftMonth', total: 'leftTotal' } as const;
  for (const [budget, label, format] of [['tokens', 'tokenBudget', plain], ['money', 'moneyBudget', money]] as const) {
    for (const [span, word] of Object.entries(spans) as [keyof typeof spans, (typeof spans)[keyof typeof spans]][]) {
      const limit = limits[budget]?.[span];
      if (typeof limit === 'number') rows.push([`${t(label)}, ${t(word)}`, of(own.left?.[budget]?.[span] ?? 0, limit, format)]);
    }
  }
  if (rows.length === 0) return null;
  return (
    <table class="data left">
      <caption>{t('leftNow')}</caption>
      <tbody>
        {rows.map(([what, left]) => (
          <tr key={what}>
            <th scope="row">{what}</th>
            <td>{left}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

export function Account() {
  const { ledger } = session.use();
  const busy = running.use().size;
  const [own, setOwn] = useState<Own | undefined>(undefined);
  const [report, setReport] = useState<Report | undefined>(undefined);
  const [problem, setProblem] = useState('');
  useEffect(() => {
    if (!ledger) return;
    const ask = async () => {
      const key = userKey.value;
      const [mine, used] = await Promise.all([json('/user/key', { key }), json('/user/usage?by=day&of=account', { key })]);
      setOwn(mine);
      setReport(used);
      setProblem('');
    };
    ask().catch((error) => setProblem(error instanceof ApiError && error.status === 0 ? t('errorNetwork') : t('errorSaid', { message: error.message })));
  }, [ledger, busy]);
  const forget = () => {
    setUserKey('', false);
    void connect();
  };
  return (
    <div class="page">
      <h2>{t('account')}</h2>
      {!ledger && <p>{t('noAccount')}</p>}
      {problem && (
        <p class="banner" role="alert">
          {problem}
        </p>
      )}
      {own && (
        <>
          <div class="tiles">
            <div class="tile">
              <h3>{t('balance')}</h3>
              <p class="big">{own.account.prepaid ? micros(own.account.balance, own.currency) : t('balanceOpen')}</p>
              <p class="hint">
                {t('toppedUp')} {micros(own.account.topped_up, own.currency)}, {t('granted')} {micros(own.account.granted, own.currency)}
              </p>
            </div>
            <div class="tile">
              <h3>{t('spent')}</h3>
              <p class="big">{micros(own.key.total_cost, own.currency)}</p>
              <p class="hint">{t('tokens', { count: number(own.key.total_tokens) })}</p>
            </div>
          </div>
          <p>
            {t('accountOf', { name: own.account.name })} · {t('yourKey', { name: own.key.name, hint: own.key.hint })}
          </p>
          <Limits own={own} />
        </>
      )}
      {report && (
        <section>
          <h3>{t('usage')}</h3>
          <p class="hint">
            {report.from} – {report.until}, {t('days')}
          </p>
          {report.rows.length > 0 && <UsageCharts report={report} />}
          <UsageTable report={{ ...report, rows: report.rows.toReversed() }} />
        </section>
      )}
      {userKey.value !== '' && (
        <div class="buttons start">
          <button type="button" onClick={forget}>
            {t('signOut')}
          </button>
        </div>
      )}
    </div>
  );
}
