// The server's metrics: its Prometheus text, and what changed between two readings of it.

export interface Sample {
  labels: Record<string, string>;
  value: number;
}

export type Metrics = Map<string, Sample[]>;

const unescaped = (text: string) => text.replace(/\\(.)/g, (_, c) => (c === 'n' ? '\n' : c));

export function parse(text: string): Metrics {
  const all: Metrics = new Map();
  for (const line of text.split('\n')) {
    const match = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (!match || line.startsWith('#')) continue;
    const labels: Record<string, string> = {};
    for (const [, name, value] of (match[2] ?? '').matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) labels[name] = unescaped(value);
    const samples = all.get(match[1]) ?? [];
    samples.push({ labels, value: Number(match[3]) });
    all.set(match[1], samples);
  }
  return all;
}

/** The sum of a metric's samples, over all models. */
export const sum = (metrics: Metrics, name: string) => (metrics.get(`farthing_${name}`) ?? []).reduce((total, sample) => total + sample.value, 0);

/** What the server does at one time. Rates are over the time since the reading before. */
export interface Reading {
  /** Seconds since 1970. */
  at: number;
  running: number;
  waiting: number;
  pages: number;
  pagesUsed: number;
  connections: number;
  refused: number;
  /** Tokens of a batch, mean; null while nothing is computed. */
  batch: number | null;
  /** Tokens computed a second. */
  speed: number;
  /** Share of prompt tokens that were found in the cache; null while none were asked for. */
  hits: number | null;
  forwards: number;
  rows: number;
  queried: number;
  hit: number;
}

export function read(metrics: Metrics, at: number, before?: Reading): Reading {
  const [forwards, rows] = [sum(metrics, 'forwards_total'), sum(metrics, 'forward_rows_total')];
  const [queried, hit] = [sum(metrics, 'prefix_cache_queried_tokens_total'), sum(metrics, 'prefix_cache_hit_tokens_total')];
  // A counter that is lower than before began anew: its model was loaded again.
  const more = (now: number, then = 0) => (now >= then ? now - then : now);
  const newRows = more(rows, before?.rows);
  const newForwards = more(forwards, before?.forwards);
  const newQueried = more(queried, before?.queried);
  const seconds = before ? Math.max(at - before.at, 1e-3) : Infinity;
  return {
    at,
    running: sum(metrics, 'requests_running'),
    waiting: sum(metrics, 'requests_waiting'),
    pages: sum(metrics, 'kv_cache_pages'),
    pagesUsed: sum(metrics, 'kv_cache_pages_used'),
    connections: sum(metrics, 'connections'),
    refused: sum(metrics, 'rejections_total'),
    batch: before && newForwards > 0 ? newRows / newForwards : null,
    speed: newRows / seconds,
    hits: before && newQueried > 0 ? more(hit, before.hit) / newQueried : null,
    forwards,
    rows,
    queried,
    hit,
  };
}

export interface Experts {
  model: string;
  /** Tokens for each expert of each layer that has some. */
  layers: { layer: number; experts: number[] }[];
}

export function experts(metrics: Metrics): Experts[] {
  const models = new Map<string, Map<number, number[]>>();
  for (const { labels, value } of metrics.get('farthing_expert_tokens_total') ?? []) {
    const layers = models.get(labels.model) ?? new Map<number, number[]>();
    const [layer, expert] = [Number(labels.layer), Number(labels.expert)];
    if (!(expert >= 0 && expert < 10_000)) continue;
    const counts = layers.get(layer) ?? [];
    counts[expert] = value;
    layers.set(layer, counts);
    models.set(labels.model, layers);
  }
  return [...models].map(([model, layers]) => ({
    model,
    layers: [...layers].sort(([a], [b]) => a - b).map(([layer, counts]) => ({ layer, experts: Array.from(counts, (count) => count ?? 0) })),
  }));
}

/** Counts since an earlier reading. */
export function since(now: Experts, then: Experts | undefined): Experts {
  const earlier = new Map(then?.layers.map((row) => [row.layer, row.experts]));
  const layers = now.layers.map(({ layer, experts }) => {
    const old = earlier.get(layer);
    const anew = !old || experts.some((count, i) => count < (old[i] ?? 0));
    return { layer, experts: anew ? experts : experts.map((count, i) => count - (old[i] ?? 0)) };
  });
  return { model: now.model, layers };
}

/** The layer whose busiest expert has most over an even share, and how many times that share. */
export function mostUneven({ layers }: Experts): { layer: number; times: number } | undefined {
  let found: { layer: number; times: number } | undefined;
  for (const { layer, experts } of layers) {
    const all = experts.reduce((a, b) => a + b, 0);
    const times = all > 0 ? (Math.max(...experts) * experts.length) / all : 0;
    if (times > (found?.times ?? 0)) found = { layer, times };
  }
  return found;
}
