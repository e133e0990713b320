//! Prometheus metrics in the OpenMetrics text format.
//!
//! Names begin with `farthing_`; those that dashboards and routers made for vLLM look for are there under its names too. Labels
//! are bounded sets: routes as the router writes them, names of served models, reasons to end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engine::Statistics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::generation::usage::RequestStats;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    /// Of HTTP; 0 where the client left first.
    status: u64,
    finish: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ModelLabel {
    model: String,
}

/// Label of the metrics under vLLM's names.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct VllmModelLabel {
    model_name: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ExpertLabels {
    model: String,
    layer: u64,
    expert: u64,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LayerLabels {
    model: String,
    layer: u64,
}

type Counters = Family<ModelLabel, Counter>;
type Gauges = Family<ModelLabel, Gauge>;

/// All metrics.
pub struct Metrics {
    registry: Registry,
    /// What could tell one account what another asked: for those who run the server.
    private: Registry,
    requests: Family<RequestLabels, Counter>,
    end_to_end: Histogram,
    first_token: Histogram,
    token: Histogram,
    queue: Histogram,
    prefill: Histogram,
    prompt_tokens: Counters,
    generation_tokens: Counters,
    cached_tokens: Counters,
    refused: Counter,
    cancelled: Counter,
    connections: Gauge,
    shed: Counter,
    now: [Gauges; NOW.len()],
    totals: [Counters; TOTALS.len()],
    busy: Family<ModelLabel, Counter<f64, AtomicU64>>,
    experts: Family<ExpertLabels, Counter>,
    imbalance: Family<LayerLabels, Gauge<f64, AtomicU64>>,
    aliases: Aliases,
}

/// Under vLLM's names.
#[derive(Default)]
struct Aliases {
    running: Family<VllmModelLabel, Gauge>,
    waiting: Family<VllmModelLabel, Gauge>,
    usage: Family<VllmModelLabel, Gauge<f64, AtomicU64>>,
    usage_old: Family<VllmModelLabel, Gauge<f64, AtomicU64>>,
    queries: Family<VllmModelLabel, Counter>,
    hits: Family<VllmModelLabel, Counter>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

/// Bounds of histograms, in seconds.
const TOKEN_SECONDS: [f64; 14] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.07, 0.1, 0.2, 0.4, 0.7, 1.0, 2.0, 5.0];
const REQUEST_SECONDS: [f64; 16] =
    [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 300.0, 900.0];

/// Experts of a model, over all layers, that are counted one by one; of larger models only how even they are used.
const EXPERTS_MAX: usize = 4096;

const NOW: [(&str, &str); 8] = [
    ("requests_running", "Requests that are computed"),
    ("requests_waiting", "Requests in the queue"),
    ("cache_pages", "Pages of the cache"),
    ("cache_pages_used", "Pages of the cache that requests use"),
    ("cache_blocks", "Blocks of the prefix cache that can be found in memory"),
    ("disk_cache_blocks", "Blocks of the cache on disk"),
    ("disk_cache_bytes", "Bytes of the cache on disk"),
    ("disk_cache_in_use", "1 once the model's files are hashed and its cache on disk is used"),
];

fn now(s: &Statistics) -> [u64; NOW.len()] {
    let in_use = u64::from(s.disk.is_some());
    let disk = s.disk.unwrap_or_default();
    let pages = [s.pages, s.pages.saturating_sub(s.pages_available), s.blocks].map(|n| n as u64);
    [s.running as u64, s.waiting as u64, pages[0], pages[1], pages[2], disk.blocks, disk.bytes, in_use]
}

const TOTALS: [(&str, &str); 13] = [
    ("forwards", "Forwards: batches that were computed"),
    ("forward_rows", "Tokens of all forwards; over farthing_forwards it is the mean size of a batch"),
    ("preemptions", "Times that a request gave back its pages and waited again"),
    ("expirations", "Requests that waited longer than they wanted"),
    ("prefix_cache_queried_tokens", "Prompt tokens that were looked for in the prefix cache"),
    ("prefix_cache_hit_tokens", "Prompt tokens that were found there, in memory or on disk"),
    ("cache_blocks_evicted", "Blocks evicted from memory"),
    ("disk_cache_hits", "Blocks read from disk"),
    ("disk_cache_misses", "Fetches that ended early"),
    ("disk_cache_written", "Blocks written to disk"),
    ("disk_cache_dropped", "Blocks not written, because too many waited or the disk refused"),
    ("disk_cache_damaged", "Blocks on disk that were not what was stored"),
    ("disk_cache_evicted", "Blocks evicted from disk"),
];

fn totals(s: &Statistics) -> [u64; TOTALS.len()] {
    let disk = s.disk.unwrap_or_default();
    [
        s.steps,
        s.rows,
        s.preempted,
        s.expired,
        s.prompt_tokens + s.cached_tokens,
        s.cached_tokens,
        s.blocks_evicted,
        disk.hits,
        disk.misses,
        disk.written,
        disk.dropped,
        disk.damaged,
        disk.evicted,
    ]
}

impl Metrics {
    /// Nothing counted yet.
    pub fn new() -> Metrics {
        let histogram = |bounds: &[f64]| Histogram::new(bounds.iter().copied());
        let mut m = Metrics {
            registry: Registry::default(),
            private: Registry::default(),
            requests: Family::default(),
            end_to_end: histogram(&REQUEST_SECONDS),
            first_token: histogram(&REQUEST_SECONDS),
            token: histogram(&TOKEN_SECONDS),
            queue: histogram(&REQUEST_SECONDS),
            prefill: histogram(&REQUEST_SECONDS),
            prompt_tokens: Counters::default(),
            generation_tokens: Counters::default(),
            cached_tokens: Counters::default(),
            refused: Counter::default(),
            cancelled: Counter::default(),
            connections: Gauge::default(),
            shed: Counter::default(),
            now: std::array::from_fn(|_| Gauges::default()),
            totals: std::array::from_fn(|_| Counters::default()),
            busy: Family::default(),
            experts: Family::default(),
            imbalance: Family::default(),
            aliases: Aliases::default(),
        };
        m.registry = m.registered();
        m.private = m.registered_private();
        m
    }

    fn registered(&self) -> Registry {
        let mut all = Registry::default();
        let ours = all.sub_registry_with_prefix("farthing");
        ours.register("build", "This program", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        ours.register("requests", "Requests by route, status (0: the client left) and end", self.requests.clone());
        ours.register("request_seconds", "From a request's head to the end of its response", self.end_to_end.clone());
        ours.register(
            "time_to_first_token_seconds",
            "From a request's head to its first token",
            self.first_token.clone(),
        );
        ours.register("time_per_output_token_seconds", "Mean of a request, after its first token", self.token.clone());
        ours.register("queue_seconds", "Time in the queue", self.queue.clone());
        ours.register("prefill_seconds", "Time for a prompt", self.prefill.clone());
        ours.register("prompt_tokens", "Tokens of prompts, cached ones included", self.prompt_tokens.clone());
        ours.register("generation_tokens", "Tokens generated", self.generation_tokens.clone());
        ours.register("cached_tokens", "Tokens of prompts that were not computed again", self.cached_tokens.clone());
        ours.register("rejections", "Requests that got 429", self.refused.clone());
        ours.register("cancellations", "Requests whose client left", self.cancelled.clone());
        ours.register("connections", "Open connections", self.connections.clone());
        NOW.iter().zip(&self.now).for_each(|((name, help), gauge)| ours.register(*name, *help, gauge.clone()));
        TOTALS.iter().zip(&self.totals).for_each(|((name, help), n)| ours.register(*name, *help, n.clone()));
        // Old names, for one release.
        for (old, now) in [("cache_units", 4), ("disk_cache_units", 5)] {
            ours.register(old, format!("As farthing_{}, until the next release", NOW[now].0), self.now[now].clone());
        }
        let help = "As farthing_cache_blocks_evicted, until the next release";
        ours.register("cache_units_evicted", help, self.totals[6].clone());
        ours.register("forward_seconds", "Time in forwards", self.busy.clone());
        ours.register("connections_shed", "Connections closed for others: too many were open", self.shed.clone());
        let theirs = &self.aliases;
        all.register("vllm:num_requests_running", "As farthing_requests_running", theirs.running.clone());
        all.register("vllm:num_requests_waiting", "As farthing_requests_waiting", theirs.waiting.clone());
        all.register("vllm:kv_cache_usage_perc", "Share of pages in use, 0 to 1", theirs.usage.clone());
        all.register("vllm:gpu_cache_usage_perc", "As vllm:kv_cache_usage_perc", theirs.usage_old.clone());
        all.register("vllm:prefix_cache_queries", "As farthing_prefix_cache_queried_tokens", theirs.queries.clone());
        all.register("vllm:prefix_cache_hits", "As farthing_prefix_cache_hit_tokens", theirs.hits.clone());
        all
    }

    /// Which experts a prompt chooses can be found out by asking it: exact counts would tell whether another account did.
    fn registered_private(&self) -> Registry {
        let mut all = Registry::default();
        let ours = all.sub_registry_with_prefix("farthing");
        ours.register("expert_tokens", "Tokens that an expert was chosen for", self.experts.clone());
        let even = "The busiest expert's share of a layer's tokens over an even share: 1 is even";
        ours.register("expert_imbalance", even, self.imbalance.clone());
        all
    }

    /// A request is done; `status` is none where its client left.
    pub fn request(&self, route: Option<&str>, status: Option<u16>, told: &RequestStats, total: Duration) {
        let route = route.unwrap_or("other").to_string();
        let finish = told.finish.or(told.error).unwrap_or_default().to_string();
        self.requests.get_or_create(&RequestLabels { route, status: u64::from(status.unwrap_or(0)), finish }).inc();
        if status.is_none() {
            self.cancelled.inc();
        }
        if status == Some(429) {
            self.refused.inc();
        }
        let Some(model) = &told.model else { return };
        let model = ModelLabel { model: model.clone() };
        let add = |counters: &Counters, n: Option<usize>| {
            counters.get_or_create(&model).inc_by(n.unwrap_or(0) as u64);
        };
        add(&self.prompt_tokens, told.prompt_tokens);
        add(&self.generation_tokens, told.completion_tokens);
        add(&self.cached_tokens, told.cached_tokens);
        self.end_to_end.observe(total.as_secs_f64());
        let observe = |histogram: &Histogram, time: Option<Duration>| {
            if let Some(time) = time {
                histogram.observe(time.as_secs_f64());
            }
        };
        observe(&self.first_token, told.first_token);
        observe(&self.queue, told.queued);
        observe(&self.prefill, told.prefill);
        let later = told.completion_tokens.and_then(|n| u32::try_from(n).ok()).filter(|&n| n > 1);
        observe(&self.token, told.decode.zip(later).map(|(time, n)| time / n));
    }

    /// Connections: one more, or one fewer.
    pub fn connection(&self, opened: bool) {
        if opened {
            self.connections.inc()
        } else {
            self.connections.dec()
        };
    }

    /// A connection was closed for another.
    pub fn shed(&self) {
        self.shed.inc();
    }

    /// What a model's engine does now and did since it was loaded.
    pub fn engine(&self, model: &str, s: &Statistics) {
        let label = ModelLabel { model: model.to_string() };
        for (gauges, value) in self.now.iter().zip(now(s)) {
            gauges.get_or_create(&label).set(signed(value));
        }
        for (counters, total) in self.totals.iter().zip(totals(s)) {
            counters.get_or_create(&label).inner().store(total, Ordering::Relaxed);
        }
        self.busy.get_or_create(&label).inner().store(s.busy.as_secs_f64().to_bits(), Ordering::Relaxed);
        let name = VllmModelLabel { model_name: model.to_string() };
        let theirs = &self.aliases;
        theirs.running.get_or_create(&name).set(signed(s.running as u64));
        theirs.waiting.get_or_create(&name).set(signed(s.waiting as u64));
        let used = s.pages.saturating_sub(s.pages_available) as f64 / s.pages.max(1) as f64;
        theirs.usage.get_or_create(&name).set(used);
        theirs.usage_old.get_or_create(&name).set(used);
        let queries = s.prompt_tokens + s.cached_tokens;
        theirs.queries.get_or_create(&name).inner().store(queries, Ordering::Relaxed);
        theirs.hits.get_or_create(&name).inner().store(s.cached_tokens, Ordering::Relaxed);
        self.experts(model, &s.experts);
    }

    fn experts(&self, model: &str, layers: &[Vec<u64>]) {
        let few = layers.iter().map(Vec::len).sum::<usize>() <= EXPERTS_MAX;
        for (layer, chosen) in layers.iter().enumerate().filter(|(_, chosen)| !chosen.is_empty()) {
            let (model, layer) = (model.to_string(), layer as u64);
            let (most, all) = (chosen.iter().max().copied().unwrap_or(0), chosen.iter().sum::<u64>());
            let imbalance = most as f64 * chosen.len() as f64 / all.max(1) as f64;
            self.imbalance.get_or_create(&LayerLabels { model: model.clone(), layer }).set(imbalance);
            for (expert, &total) in chosen.iter().enumerate().filter(|_| few) {
                let label = ExpertLabels { model: model.clone(), layer, expert: expert as u64 };
                self.experts.get_or_create(&label).inner().store(total, Ordering::Relaxed);
            }
        }
    }

    /// The numbers, as Prometheus reads them; all of them for those who run the server.
    pub fn text(&self, all: bool) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode_registry(&mut text, &self.registry);
        if all {
            let _ = encode_registry(&mut text, &self.private);
        }
        let _ = encode_eof(&mut text);
        text
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use prometheus_parse::{Scrape, Value};

    use super::*;

    fn scraped(metrics: &Metrics) -> Scrape {
        // This parser knows no colons in names; that of the clients' test does.
        let lines = metrics.text(true).replace("vllm:", "vllm_");
        assert!(lines.ends_with("# EOF\n"), "{lines}");
        Scrape::parse(lines.lines().map(|l| Ok(l.to_string()))).unwrap()
    }

    /// The value of a sample with these labels.
    fn of(scrape: &Scrape, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits =
            |s: &&prometheus_parse::Sample| s.metric == name && labels.iter().all(|(k, v)| s.labels.get(k) == Some(v));
        let mut found = scrape.samples.iter().filter(fits);
        match (&found.next().unwrap_or_else(|| panic!("no {name}")).value, found.next()) {
            (Value::Counter(x) | Value::Gauge(x) | Value::Untyped(x), None) => *x,
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn a_request_is_counted_and_its_times_are_in_their_buckets() {
        let m = Metrics::new();
        let told = RequestStats {
            model: Some("m\"x\\".to_string()),
            prompt_tokens: Some(100),
            completion_tokens: Some(11),
            cached_tokens: Some(64),
            queued: Some(Duration::from_millis(3)),
            decode: Some(Duration::from_millis(110)),
            first_token: Some(Duration::from_millis(300)),
            finish: Some("stop"),
            ..RequestStats::default()
        };
        m.request(Some("/v1/completions"), Some(200), &told, Duration::from_secs(2));
        m.request(Some("/v1/completions"), None, &RequestStats::default(), Duration::from_secs(2));
        m.request(
            None,
            Some(429),
            &RequestStats { error: Some("queue_full"), ..RequestStats::default() },
            Duration::ZERO,
        );
        let s = scraped(&m);
        let ok = [("route", "/v1/completions"), ("status", "200"), ("finish", "stop")];
        assert_eq!(of(&s, "farthing_requests_total", &ok), 1.0);
        assert_eq!(of(&s, "farthing_requests_total", &[("status", "0")]), 1.0);
        assert_eq!(of(&s, "farthing_requests_total", &[("route", "other"), ("finish", "queue_full")]), 1.0);
        assert_eq!(of(&s, "farthing_rejections_total", &[]), 1.0);
        assert_eq!(of(&s, "farthing_cancellations_total", &[]), 1.0);
        assert_eq!(of(&s, "farthing_prompt_tokens_total", &[]), 100.0);
        assert_eq!(of(&s, "farthing_generation_tokens_total", &[]), 11.0);
        assert_eq!(of(&s, "farthing_cached_tokens_total", &[]), 64.0);
        let text = m.text(true);
        assert!(text.contains("farthing_time_to_first_token_seconds_bucket{le=\"0.2\"} 0\n"), "{text}");
        assert!(text.contains("farthing_time_to_first_token_seconds_bucket{le=\"0.5\"} 1\n"));
        assert!(text.contains("farthing_time_per_output_token_seconds_bucket{le=\"0.005\"} 0\n"));
        assert!(text.contains("farthing_time_per_output_token_seconds_bucket{le=\"0.01\"} 1\n"));
        assert!(text.contains("farthing_prefill_seconds_count 0\n"), "no prompt was computed");
        assert!(text.contains(concat!("farthing_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1\n")));
    }

    #[test]
    fn what_engines_do_is_there_under_both_names() {
        let m = Metrics::new();
        let disk = engine::store::Statistics { blocks: 7, bytes: 5, damaged: 6, ..Default::default() };
        let done = Statistics {
            running: 3,
            waiting: 2,
            pages: 64,
            pages_available: 48,
            blocks: 9,
            blocks_evicted: 8,
            steps: 10,
            rows: 25,
            busy: Duration::from_millis(1500),
            prompt_tokens: 6,
            cached_tokens: 4,
            experts: vec![vec![], vec![], vec![7, 1]],
            disk: Some(disk),
            ..Statistics::default()
        };
        m.engine("m", &done);
        m.connection(true);
        let s = scraped(&m);
        let (ours, theirs) = ([("model", "m")], [("model_name", "m")]);
        assert_eq!(of(&s, "farthing_requests_running", &ours), 3.0);
        assert!(m.text(true).contains("vllm:num_requests_running{model_name=\"m\"} 3\n"));
        assert_eq!(of(&s, "farthing_cache_pages_used", &ours), 16.0);
        for (now, old, value) in [
            ("farthing_cache_blocks", "farthing_cache_units", 9.0),
            ("farthing_cache_blocks_evicted_total", "farthing_cache_units_evicted_total", 8.0),
            ("farthing_disk_cache_blocks", "farthing_disk_cache_units", 7.0),
        ] {
            assert_eq!([of(&s, now, &ours), of(&s, old, &ours)], [value; 2]);
        }
        assert_eq!(of(&s, "farthing_forward_rows_total", &ours), 25.0);
        assert_eq!(of(&s, "farthing_forward_seconds_total", &ours), 1.5);
        assert_eq!(of(&s, "vllm_num_requests_running", &theirs), 3.0);
        assert_eq!(of(&s, "vllm_num_requests_waiting", &theirs), 2.0);
        assert_eq!(of(&s, "vllm_kv_cache_usage_perc", &theirs), 0.25);
        assert_eq!(of(&s, "vllm_gpu_cache_usage_perc", &theirs), 0.25);
        assert_eq!(of(&s, "vllm_prefix_cache_queries_total", &theirs), 10.0);
        assert_eq!(of(&s, "vllm_prefix_cache_hits_total", &theirs), 4.0);
        assert_eq!(of(&s, "farthing_disk_cache_bytes", &ours), 5.0);
        assert_eq!(of(&s, "farthing_disk_cache_damaged_total", &ours), 6.0);
        assert_eq!(of(&s, "farthing_expert_tokens_total", &[("layer", "2"), ("expert", "0")]), 7.0);
        assert_eq!(of(&s, "farthing_expert_imbalance", &[("layer", "2")]), 1.75);
        assert_eq!(of(&s, "farthing_connections", &[]), 1.0);
        m.engine("m", &Statistics::default());
        assert_eq!(of(&scraped(&m), "farthing_cache_pages", &ours), 0.0);
    }

    #[test]
    fn a_model_of_very_many_experts_has_few_series() {
        let m = Metrics::new();
        m.engine("m", &Statistics { experts: vec![vec![2; 256]; 58], ..Statistics::default() });
        let s = scraped(&m);
        assert!(s.samples.iter().all(|s| s.metric != "farthing_expert_tokens_total"));
        assert_eq!(of(&s, "farthing_expert_imbalance", &[("layer", "57")]), 1.0);
    }
}
