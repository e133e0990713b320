// Charts over time, and the heat map of experts. Each has a text that says what it shows; the numbers are in tables beside them.
import { useEffect, useRef, useState } from 'preact/hooks';
import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';
import { onColours } from './theme';

export interface Series {
  label: string;
  /** The name of a colour of the style sheet. */
  colour: string;
}

function colour(name: string): string {
  const probe = document.createElement('span');
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

interface ChartProps {
  label: string;
  /** Seconds since 1970, then each series. */
  data: (number | null)[][];
  series: Series[];
  bars?: boolean;
  format: (value: number) => string;
  /** The largest value there can be, and the least that is the upper end. */
  max?: number;
  least?: number;
  /** The axis has whole numbers only. */
  whole?: boolean;
  locale: string;
}

/** Seconds that a chart of what is live shows at least. */
const MINUTE = 60;
const WHOLE = Array.from({ length: 12 }, (_, i) => [1, 2, 5].map((step) => step * 10 ** i)).flat();

function options({ series, bars, format, max, least, whole, locale }: ChartProps, width: number): uPlot.Options {
  const [line, grid] = [colour('muted'), colour('line')];
  const day = new Intl.DateTimeFormat(locale, { month: 'short', day: 'numeric', timeZone: 'UTC' });
  const time = new Intl.DateTimeFormat(locale, { hour: '2-digit', minute: '2-digit', second: '2-digit' });
  const axis = { stroke: line, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 }, font: '12px system-ui', labelFont: '12px system-ui' };
  return {
    width,
    height: 190,
    legend: { show: false },
    cursor: { drag: { x: false, y: false }, y: false },
    scales: { x: { time: true, ...(!bars && { range: (u) => [Math.min(u.data[0][0], u.data[0][u.data[0].length - 1] - MINUTE), u.data[0][u.data[0].length - 1]] }) }, y: { range: (_, __, most) => [0, max ?? Math.max(most * 1.1, least ?? 1)] } },
    axes: [
      { ...axis, values: (_, splits) => splits.map((at) => (bars ? day : time).format(at * 1000)), space: bars ? 60 : 90 },
      { ...axis, size: 64, ...(whole && { incrs: WHOLE }), values: (_, splits) => splits.map(format) },
    ],
    series: [
      {},
      ...series.map((one) => ({
        label: one.label,
        stroke: colour(one.colour),
        width: 2,
        points: { show: false },
        ...(bars && { fill: colour(one.colour), width: 0, paths: uPlot.paths.bars!({ size: [0.7, 40], radius: 0.15 }) }),
      })),
    ],
  };
}

export function Chart(props: ChartProps) {
  const { label, data, series, format, locale, bars } = props;
  const ref = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | undefined>(undefined);
  const [at, setAt] = useState<number | null>(null);
  const [colours, setColours] = useState(0);
  useEffect(() => onColours(() => setColours((n) => n + 1)), []);
  useEffect(() => {
    const area = ref.current!;
    const made = new uPlot({ ...options(props, area.clientWidth || 300), hooks: { setCursor: [(u) => setAt(u.cursor.idx ?? null)] } }, data as uPlot.AlignedData, area);
    plot.current = made;
    const watcher = new ResizeObserver(() => area.clientWidth > 0 && made.setSize({ width: area.clientWidth, height: 190 }));
    watcher.observe(area);
    return () => {
      watcher.disconnect();
      made.destroy();
    };
  }, [colours, locale, series.length, label]);
  useEffect(() => plot.current?.setData(data as uPlot.AlignedData), [data]);
  const last = data[0].length - 1;
  const shown = at ?? last;
  const values = series.map((one, i) => `${one.label} ${format(data[i + 1][shown] ?? 0)}`).join(', ');
  return (
    <figure class="chart">
      <figcaption>{label}</figcaption>
      <div ref={ref} role="img" aria-label={last >= 0 ? `${label}: ${values}` : label} />
      <div class="legend" aria-hidden="true">
        {last >= 0 && bars && at !== null && <span>{new Date((data[0][shown] ?? 0) * 1000).toISOString().slice(0, 10)}</span>}
        {series.map((one, i) => (
          <span key={one.label}>
            <i class={`swatch ${one.colour}`} /> {one.label} <b>{last >= 0 ? format(data[i + 1][shown] ?? 0) : ''}</b>
          </span>
        ))}
      </div>
    </figure>
  );
}

/** How often each expert (column) of each layer (row) was chosen. */
export function HeatMap({ label, rows, hint }: { label: string; rows: { layer: number; experts: number[] }[]; hint: (layer: number, expert: number, count: number) => string }) {
  const ref = useRef<HTMLCanvasElement>(null);
  const [colours, setColours] = useState(0);
  const [over, setOver] = useState('');
  useEffect(() => onColours(() => setColours((n) => n + 1)), []);
  const columns = Math.max(...rows.map((row) => row.experts.length), 1);
  const most = Math.max(...rows.map((row) => Math.max(...row.experts)), 1);
  // Whole pixels for each cell, at the screen's resolution.
  const cell = Math.max(2, Math.min(22, Math.floor(900 / columns)));
  useEffect(() => {
    const canvas = ref.current!;
    const context = canvas.getContext('2d')!;
    const [empty, full] = [colour('heat-0'), colour('heat-1')];
    context.clearRect(0, 0, canvas.width, canvas.height);
    const gap = cell > 5 ? 1 : 0;
    rows.forEach((row, y) =>
      row.experts.forEach((count, x) => {
        context.globalAlpha = 1;
        context.fillStyle = empty;
        context.fillRect(x * cell, y * cell, cell - gap, cell - gap);
        context.globalAlpha = Math.sqrt(count / most);
        context.fillStyle = full;
        context.fillRect(x * cell, y * cell, cell - gap, cell - gap);
      }),
    );
  }, [rows, colours]);
  return (
    <figure class="heat">
      <div class="wide" tabIndex={0} role="group" aria-label={label}>
        <canvas
          ref={ref}
          role="img"
          aria-label={label}
          width={columns * cell}
          height={rows.length * cell}
          onPointerMove={(event) => {
            const scale = ref.current!.width / ref.current!.clientWidth;
            const [x, y] = [Math.floor((event.offsetX * scale) / cell), Math.floor((event.offsetY * scale) / cell)];
            const row = rows[y];
            setOver(row && x < row.experts.length ? hint(row.layer, x, row.experts[x]) : '');
          }}
          onPointerLeave={() => setOver('')}
        />
      </div>
      <figcaption class="hint">{over || '\u00a0'}</figcaption>
    </figure>
  );
}
