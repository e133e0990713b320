// What the server does now: figures, curves, and which experts are chosen.
import { useEffect, useRef, useState } from 'preact/hooks';
import { models as list, send } from '../api';
import { Chart, HeatMap } from '../chart';
import { operatorKey } from '../keys';
import { bytes, number, short } from '../money';
import { language, t } from '../texts';
import { type Experts, type Reading, experts, mostUneven, parse, read, since } from './metrics';
import { Problem, said } from './work';

const EVERY_MS = 2000;
const READINGS_MAX = 300;

interface Live {
  readings: Reading[];
  experts: Experts[];
  first: Experts[];
  uneven: { model: string; layer: number; value: number }[];
  memory: number;
}

/** Readings while the view is shown. */
function useLive(paused: boolean) {
  const [live, setLive] = useState<Live | undefined>(undefined);
  const [problem, setProblem] = useState('');
  const kept = useRef<Live | undefined>(undefined);
  useEffect(() => {
    if (paused) return;
    let [ended, timer] = [false, 0];
    const ask = async () => {
      try {
        const key = operatorKey.value;
        const [text, models] = await Promise.all([send('/metrics', { key, accept: 'text/plain' }).then((answer) => answer.text()), list(key)]);
        if (ended) return;
        const metrics = parse(text);
        const before = kept.current;
        const reading = read(metrics, Date.now() / 1000, before?.readings.at(-1));
        const found = experts(metrics);
        kept.current = {
          readings: [...(before?.readings ?? []), reading].slice(-READINGS_MAX),
          experts: found,
          first: before?.first ?? found,
          uneven: (metrics.get('farthing_expert_imbalance') ?? []).map(({ labels, value }) => ({ model: labels.model, layer: Number(labels.layer), value })),
          memory: models.filter((model) => model.state === 'ready').reduce((sum, model) => sum + model.bytes, 0),
        };
        setLive(kept.current);
        setProblem('');
      } catch (error) {
        if (!ended) setProblem(said(error));
      }
      if (!ended) timer = window.setTimeout(ask, EVERY_MS);
    };
    void ask();
    return () => {
      ended = true;
      clearTimeout(timer);
    };
  }, [paused]);
  return { live, problem };
}

const share = (value: number) => `${number(value * 100, 0)} %`;

function Tiles({ live }: { live: Live }) {
  const now = live.readings.at(-1)!;
  const recent = live.readings.slice(-15);
  const last = (pick: (reading: Reading) => number | null) => recent.map(pick).findLast((value) => value !== null);
  const batch = last((reading) => reading.batch);
  const tiles: [string, string, string?][] = [
    [t('running'), number(now.running)],
    [t('queued'), number(now.waiting)],
    [t('speedNow'), number(now.speed, now.speed < 10 ? 1 : 0)],
    [t('batch'), batch === undefined ? '–' : number(batch!, 1)],
    [t('hits'), now.queried > 0 ? share(now.hit / now.queried) : '–', t('since')],
    [t('cacheUsed'), now.pages > 0 ? share(now.pagesUsed / now.pages) : '–', `${number(now.pagesUsed)} / ${number(now.pages)}`],
    [t('memory'), bytes(live.memory)],
    [t('connections'), number(now.connections)],
    [t('refused'), number(now.refused), t('since')],
  ];
  return (
    <dl class="tiles">
      {tiles.map(([label, value, hint]) => (
        <div class="tile" key={label}>
          <dt>{label}</dt>
          <dd class="big">{value}</dd>
          {hint && <dd class="hint">{hint}</dd>}
        </div>
      ))}
    </dl>
  );
}

function Curves({ readings }: { readings: Reading[] }) {
  const locale = language.value === 'zh' ? 'zh-CN' : 'en';
  const time = readings.map((reading) => reading.at);
  const of = (pick: (reading: Reading) => number | null) => readings.map(pick);
  return (
    <div class="charts">
      <Chart
        label={t('requestsChart')}
        data={[time, of((r) => r.running), of((r) => r.waiting)]}
        series={[
          { label: t('running'), colour: 'series-1' },
          { label: t('queued'), colour: 'series-2' },
        ]}
        whole
        least={4}
        format={(value) => number(value)}
        locale={locale}
      />
      <Chart label={t('speedChart')} data={[time, of((r) => (Number.isFinite(r.speed) ? r.speed : 0))]} series={[{ label: t('speedNow'), colour: 'series-1' }]} whole least={4} format={short} locale={locale} />
      <Chart
        label={t('cacheChart')}
        data={[time, of((r) => r.hits), of((r) => (r.pages > 0 ? r.pagesUsed / r.pages : 0))]}
        series={[
          { label: t('hits'), colour: 'series-1' },
          { label: t('cacheUsed'), colour: 'series-2' },
        ]}
        max={1}
        format={share}
        locale={locale}
      />
    </div>
  );
}

function ExpertUse({ live }: { live: Live }) {
  const [recent, setRecent] = useState(false);
  if (live.experts.length === 0) {
    if (live.uneven.length === 0) return <p class="hint">{t('expertsNone')}</p>;
    return (
      <>
        <p class="hint">{t('expertsTooMany')}</p>
        {[...new Set(live.uneven.map((one) => one.model))].map((model) => {
          const rows = live.uneven.filter((one) => one.model === model).sort((a, b) => a.layer - b.layer);
          return <HeatMap key={model} label={`${t('experts')}: ${model}`} rows={[{ layer: 0, experts: rows.map((row) => row.value) }]} hint={(_, i, value) => `${rows[i].layer}: ${number(value, 2)}`} />;
        })}
      </>
    );
  }
  return (
    <>
      <div class="tabs" role="group" aria-label={t('experts')}>
        <button type="button" aria-pressed={!recent} onClick={() => setRecent(false)}>
          {t('expertsAll')}
        </button>
        <button type="button" aria-pressed={recent} onClick={() => setRecent(true)}>
          {t('expertsRecent')}
        </button>
      </div>
      {live.experts.map((all) => {
        const shown = recent ? since(all, live.first.find((one) => one.model === all.model)) : all;
        const most = Math.max(...shown.layers.map((row) => Math.max(...row.experts)));
        const uneven = mostUneven(shown);
        return (
          <div key={all.model}>
            <h3>{all.model}</h3>
            <p class="hint">
              {t('expertsHint', { most: number(most) })} {uneven && t('expertsUneven', { layer: uneven.layer, times: number(uneven.times, 2) })}
            </p>
            <HeatMap label={`${t('experts')}: ${all.model}`} rows={shown.layers} hint={(layer, expert, count) => t('expertsOf', { layer, expert, count: number(count) })} />
          </div>
        );
      })}
    </>
  );
}

export function Load() {
  const [paused, setPaused] = useState(false);
  const { live, problem } = useLive(paused);
  return (
    <section>
      <div class="section-head">
        <h2>{t('load')}</h2>
        <span class={paused ? 'state' : 'state valid'}>{t(paused ? 'paused' : 'live')}</span>
        <button type="button" class="small" onClick={() => setPaused(!paused)}>
          {t(paused ? 'resume' : 'pause')}
        </button>
      </div>
      <Problem text={problem} />
      {live ? (
        <>
          <Tiles live={live} />
          <Curves readings={live.readings} />
          <h2>{t('experts')}</h2>
          <ExpertUse live={live} />
        </>
      ) : (
        <p class="hint">{t('wait')}</p>
      )}
    </section>
  );
}
