//! Numbers of the server for Prometheus, in the OpenMetrics text format.
//!
//! Names begin with `farthing_`; those that dashboards and routers made for vLLM look for are there under its names too. Labels
//! are bounded sets: routes as the router writes them, names of served models, reasons to end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::record::Filled;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    route: String,
    /// Of HTTP; 0 where the client left first.
    status: u64,
    finish: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Named {
    model: String,
}

/// vLLM's label.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ModelName {
    model_name: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Expert {
    model: String,
    layer: u64,
    expert: u64,
}

/// What a model's engine does now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Level {
    /// Requests that are computed.
    pub running: u64,
    /// Requests in the queue.
    pub waiting: u64,
    /// Tokens or sequences of the last forward.
    pub batch: u64,
    /// Pages of the cache in use.
    pub pages_used: u64,
    /// Pages of the cache.
    pub pages: u64,
}

/// What a model's caches did since it was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Caches {
    /// Prompt tokens that were looked for.
    pub queried_tokens: u64,
    /// Those that were there.
    pub hit_tokens: u64,
    /// Pages that were found in memory.
    pub page_hits: u64,
    /// Pages that were not.
    pub page_misses: u64,
    /// Units on disk now.
    pub disk_units: u64,
    /// Their bytes.
    pub disk_bytes: u64,
    /// Units that were found on disk.
    pub disk_hits: u64,
    /// Units that were not.
    pub disk_misses: u64,
    /// Units that were put away for room.
    pub disk_dropped: u64,
    /// Units that were not what was stored.
    pub disk_damaged: u64,
}

type Counters = Family<Named, Counter>;
type Gauges = Family<Named, Gauge>;

/// All numbers.
pub struct Metrics {
    registry: Registry,
    requests: Family<Outcome, Counter>,
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
    level: [Gauges; 5],
    caches: [Counters; 8],
    disk: [Gauges; 2],
    experts: Family<Expert, Counter>,
    aliases: Aliases,
}

/// Under vLLM's names.
#[derive(Default)]
struct Aliases {
    running: Family<ModelName, Gauge>,
    waiting: Family<ModelName, Gauge>,
    usage: Family<ModelName, Gauge<f64, AtomicU64>>,
    usage_old: Family<ModelName, Gauge<f64, AtomicU64>>,
    queries: Family<ModelName, Counter>,
    hits: Family<ModelName, Counter>,
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

const LEVEL: [(&str, &str); 5] = [
    ("requests_running", "Requests that are computed"),
    ("requests_waiting", "Requests in the queue"),
    ("batch_size", "Rows of the last forward"),
    ("cache_pages_used", "Pages of the cache in use"),
    ("cache_pages", "Pages of the cache"),
];
const CACHES: [(&str, &str); 8] = [
    ("prefix_cache_queried_tokens", "Prompt tokens that were looked for in the prefix cache"),
    ("prefix_cache_hit_tokens", "Prompt tokens that were found in the prefix cache"),
    ("cache_page_hits", "Pages that were found in memory"),
    ("cache_page_misses", "Pages that were not found in memory"),
    ("disk_cache_hits", "Units that were found on disk"),
    ("disk_cache_misses", "Units that were not found on disk"),
    ("disk_cache_dropped", "Units on disk that were put away for room"),
    ("disk_cache_damaged", "Units on disk that were not what was stored"),
];
const DISK: [(&str, &str); 2] =
    [("disk_cache_units", "Units of the cache on disk"), ("disk_cache_bytes", "Bytes of the cache on disk")];

impl Metrics {
    /// Nothing counted yet.
    pub fn new() -> Metrics {
        let histogram = |bounds: &[f64]| Histogram::new(bounds.iter().copied());
        let mut m = Metrics {
            registry: Registry::default(),
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
            level: std::array::from_fn(|_| Gauges::default()),
            caches: std::array::from_fn(|_| Counters::default()),
            disk: std::array::from_fn(|_| Gauges::default()),
            experts: Family::default(),
            aliases: Aliases::default(),
        };
        m.registry = m.registered();
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
        LEVEL.iter().zip(&self.level).for_each(|((name, help), gauge)| ours.register(*name, *help, gauge.clone()));
        CACHES.iter().zip(&self.caches).for_each(|((name, help), n)| ours.register(*name, *help, n.clone()));
        DISK.iter().zip(&self.disk).for_each(|((name, help), gauge)| ours.register(*name, *help, gauge.clone()));
        ours.register("expert_tokens", "Tokens that an expert was chosen for", self.experts.clone());
        let theirs = &self.aliases;
        all.register("vllm:num_requests_running", "As farthing_requests_running", theirs.running.clone());
        all.register("vllm:num_requests_waiting", "As farthing_requests_waiting", theirs.waiting.clone());
        all.register("vllm:kv_cache_usage_perc", "Share of pages in use, 0 to 1", theirs.usage.clone());
        all.register("vllm:gpu_cache_usage_perc", "As vllm:kv_cache_usage_perc", theirs.usage_old.clone());
        all.register("vllm:prefix_cache_queries", "As farthing_prefix_cache_queried_tokens", theirs.queries.clone());
        all.register("vllm:prefix_cache_hits", "As farthing_prefix_cache_hit_tokens", theirs.hits.clone());
        all
    }

    /// A request is done; `status` is none where its client left.
    pub fn request(&self, route: Option<&str>, status: Option<u16>, told: &Filled, total: Duration) {
        let route = route.unwrap_or("other").to_string();
        let finish = told.finish.or(told.error).unwrap_or_default().to_string();
        self.requests.get_or_create(&Outcome { route, status: u64::from(status.unwrap_or(0)), finish }).inc();
        if status.is_none() {
            self.cancelled.inc();
        }
        if status == Some(429) {
            self.refused.inc();
        }
        let Some(model) = &told.model else { return };
        let model = Named { model: model.clone() };
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

    /// What a model's engine does now.
    pub fn level(&self, model: &str, level: &Level) {
        let values = [level.running, level.waiting, level.batch, level.pages_used, level.pages];
        for (gauges, value) in self.level.iter().zip(values) {
            set(gauges, model, value);
        }
        let name = ModelName { model_name: model.to_string() };
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.aliases.running.get_or_create(&name).set(signed(level.running));
        self.aliases.waiting.get_or_create(&name).set(signed(level.waiting));
        let share = if level.pages == 0 { 0.0 } else { level.pages_used as f64 / level.pages as f64 };
        self.aliases.usage.get_or_create(&name).set(share);
        self.aliases.usage_old.get_or_create(&name).set(share);
    }

    /// What a model's caches did since it was loaded: totals, not differences.
    pub fn caches(&self, model: &str, c: &Caches) {
        let totals = [
            c.queried_tokens,
            c.hit_tokens,
            c.page_hits,
            c.page_misses,
            c.disk_hits,
            c.disk_misses,
            c.disk_dropped,
            c.disk_damaged,
        ];
        let label = Named { model: model.to_string() };
        for (counters, total) in self.caches.iter().zip(totals) {
            counters.get_or_create(&label).inner().store(total, Ordering::Relaxed);
        }
        for (gauges, value) in self.disk.iter().zip([c.disk_units, c.disk_bytes]) {
            set(gauges, model, value);
        }
        let name = ModelName { model_name: model.to_string() };
        self.aliases.queries.get_or_create(&name).inner().store(c.queried_tokens, Ordering::Relaxed);
        self.aliases.hits.get_or_create(&name).inner().store(c.hit_tokens, Ordering::Relaxed);
    }

    /// How often each expert of a layer was chosen since the model was loaded.
    pub fn experts(&self, model: &str, layer: usize, chosen: &[u64]) {
        for (expert, &total) in chosen.iter().enumerate() {
            let label = Expert { model: model.to_string(), layer: layer as u64, expert: expert as u64 };
            self.experts.get_or_create(&label).inner().store(total, Ordering::Relaxed);
        }
    }

    /// A model was put away: it has no level any more.
    pub fn forget(&self, model: &str) {
        self.level(model, &Level::default());
    }

    /// All of it, as Prometheus reads it.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            text.push_str("# EOF\n");
        }
        text
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

fn set(gauges: &Gauges, model: &str, value: u64) {
    gauges.get_or_create(&Named { model: model.to_string() }).set(i64::try_from(value).unwrap_or(i64::MAX));
}

#[cfg(test)]
mod tests {
    use prometheus_parse::{Scrape, Value};

    use super::*;

    fn scraped(metrics: &Metrics) -> Scrape {
        // This parser knows no colons in names; that of the clients' test does.
        let lines = metrics.text().replace("vllm:", "vllm_");
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
        let told = Filled {
            model: Some("m\"x\\".to_string()),
            prompt_tokens: Some(100),
            completion_tokens: Some(11),
            cached_tokens: Some(64),
            queued: Some(Duration::from_millis(3)),
            decode: Some(Duration::from_millis(110)),
            first_token: Some(Duration::from_millis(300)),
            finish: Some("stop"),
            ..Filled::default()
        };
        m.request(Some("/v1/completions"), Some(200), &told, Duration::from_secs(2));
        m.request(Some("/v1/completions"), None, &Filled::default(), Duration::from_secs(2));
        m.request(None, Some(429), &Filled { error: Some("queue_full"), ..Filled::default() }, Duration::ZERO);
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
        let text = m.text();
        assert!(text.contains("farthing_time_to_first_token_seconds_bucket{le=\"0.2\"} 0\n"), "{text}");
        assert!(text.contains("farthing_time_to_first_token_seconds_bucket{le=\"0.5\"} 1\n"));
        assert!(text.contains("farthing_time_per_output_token_seconds_bucket{le=\"0.005\"} 0\n"));
        assert!(text.contains("farthing_time_per_output_token_seconds_bucket{le=\"0.01\"} 1\n"));
        assert!(text.contains("farthing_prefill_seconds_count 0\n"), "no prompt was computed");
        assert!(text.contains(concat!("farthing_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1\n")));
    }

    #[test]
    fn levels_are_there_under_both_names_and_go_with_their_model() {
        let m = Metrics::new();
        m.level("m", &Level { running: 3, waiting: 2, batch: 3, pages_used: 16, pages: 64 });
        m.caches(
            "m",
            &Caches { queried_tokens: 10, hit_tokens: 4, disk_bytes: 5, disk_damaged: 6, ..Caches::default() },
        );
        m.experts("m", 2, &[7, 8]);
        m.connection(true);
        let s = scraped(&m);
        let (ours, theirs) = ([("model", "m")], [("model_name", "m")]);
        assert_eq!(of(&s, "farthing_requests_running", &ours), 3.0);
        assert!(m.text().contains("vllm:num_requests_running{model_name=\"m\"} 3\n"));
        assert_eq!(of(&s, "farthing_cache_pages_used", &ours), 16.0);
        assert_eq!(of(&s, "vllm_num_requests_running", &theirs), 3.0);
        assert_eq!(of(&s, "vllm_num_requests_waiting", &theirs), 2.0);
        assert_eq!(of(&s, "vllm_kv_cache_usage_perc", &theirs), 0.25);
        assert_eq!(of(&s, "vllm_gpu_cache_usage_perc", &theirs), 0.25);
        assert_eq!(of(&s, "vllm_prefix_cache_queries_total", &theirs), 10.0);
        assert_eq!(of(&s, "vllm_prefix_cache_hits_total", &theirs), 4.0);
        assert_eq!(of(&s, "farthing_disk_cache_bytes", &ours), 5.0);
        assert_eq!(of(&s, "farthing_disk_cache_damaged_total", &ours), 6.0);
        assert_eq!(of(&s, "farthing_expert_tokens_total", &[("layer", "2"), ("expert", "1")]), 8.0);
        assert_eq!(of(&s, "farthing_connections", &[]), 1.0);
        m.forget("m");
        assert_eq!(of(&scraped(&m), "farthing_cache_pages", &ours), 0.0);
    }
}
