//! Prometheus metrics in the OpenMetrics text format.
//!
//! Names begin with `farthing_`; those that dashboards and routers made for vLLM look for are there under its names too. Labels
//! are bounded sets: routes as the router writes them, names of served models, reasons to end.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engine::Statistics;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

use crate::generation::usage::RequestStats;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    /// Of HTTP; 0 if the client disconnected first.
    status: u64,
    finish: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ModelLabel {
    model: String,
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

/// All metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// For those who run the server: which experts a prompt chooses can be found out by asking it, so exact counts would tell whether
    /// another account did.
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
    engines: Arc<Engines>,
    experts: Family<ExpertLabels, Counter>,
    imbalance: Family<LayerLabels, Gauge<f64, AtomicU64>>,
}

/// Bounds of histograms, in seconds.
const TOKEN_SECONDS: [f64; 14] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.07, 0.1, 0.2, 0.4, 0.7, 1.0, 2.0, 5.0];
const REQUEST_SECONDS: [f64; 16] =
    [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 300.0, 900.0];

/// Experts of a model, over all layers, that are counted one by one; of larger models only how even they are used.
const EXPERTS_MAX: usize = 4096;

/// The value of a metric, of what an engine does now or did since its model was loaded.
type Value = fn(&Statistics) -> Box<dyn EncodeMetric>;

fn gauge(n: u64) -> Box<dyn EncodeMetric> {
    Box::new(ConstGauge::new(i64::try_from(n).unwrap_or(i64::MAX)))
}

fn counter(n: u64) -> Box<dyn EncodeMetric> {
    Box::new(ConstCounter::new(n))
}

fn disk(s: &Statistics) -> engine::store::Statistics {
    s.disk.unwrap_or_default()
}

fn pages_used(s: &Statistics) -> u64 {
    s.pages.saturating_sub(s.pages_available) as u64
}

const ENGINE: [(&str, &str, Value); 22] = [
    ("requests_running", "Requests that are computed", |s| gauge(s.running as u64)),
    ("requests_waiting", "Requests in the queue", |s| gauge(s.waiting as u64)),
    ("kv_cache_pages", "Pages of the KV cache", |s| gauge(s.pages as u64)),
    ("kv_cache_pages_used", "Pages of the KV cache that requests use", |s| gauge(pages_used(s))),
    ("prefix_cache_blocks", "Blocks of 64 tokens in the prefix cache, in memory", |s| gauge(s.blocks as u64)),
    ("disk_cache_blocks", "Blocks of the prefix cache on disk", |s| gauge(disk(s).blocks)),
    ("disk_cache_bytes", "Bytes of the prefix cache on disk", |s| gauge(disk(s).bytes)),
    ("disk_cache_in_use", "1 once the model's files are hashed and its cache on disk is used", |s| {
        gauge(s.disk.is_some().into())
    }),
    ("forwards", "Forwards: batches that were computed", |s| counter(s.steps)),
    ("forward_rows", "Tokens of all forwards; over farthing_forwards it is the mean size of a batch", |s| {
        counter(s.rows)
    }),
    ("forward_seconds", "Time in forwards", |s| Box::new(ConstCounter::new(s.busy.as_secs_f64()))),
    ("preemptions", "Times that a request gave back its pages and waited again", |s| counter(s.preempted)),
    ("expirations", "Requests that waited longer than they wanted", |s| counter(s.expired)),
    ("prefix_cache_queried_tokens", "Prompt tokens that were looked for in the prefix cache", |s| counter(queried(s))),
    ("prefix_cache_hit_tokens", "Prompt tokens that were found there, in memory or on disk", |s| {
        counter(s.cached_tokens)
    }),
    ("prefix_cache_blocks_evicted", "Blocks evicted from memory", |s| counter(s.blocks_evicted)),
    ("disk_cache_hits", "Blocks read from disk", |s| counter(disk(s).hits)),
    ("disk_cache_misses", "Reads that ended early", |s| counter(disk(s).misses)),
    ("disk_cache_written", "Blocks written to disk", |s| counter(disk(s).written)),
    ("disk_cache_dropped", "Blocks not written: too many waited, or the disk failed", |s| counter(disk(s).dropped)),
    ("disk_cache_damaged", "Blocks on disk that were not what was stored", |s| counter(disk(s).damaged)),
    ("disk_cache_evicted", "Blocks evicted from disk", |s| counter(disk(s).evicted)),
];

/// Metrics of engines under vLLM's names.
const VLLM: [(&str, &str, Value); 6] = [
    ("vllm:num_requests_running", "As farthing_requests_running", |s| gauge(s.running as u64)),
    ("vllm:num_requests_waiting", "As farthing_requests_waiting", |s| gauge(s.waiting as u64)),
    ("vllm:kv_cache_usage_perc", "Share of pages in use, 0 to 1", usage),
    ("vllm:gpu_cache_usage_perc", "As vllm:kv_cache_usage_perc", usage),
    ("vllm:prefix_cache_queries", "As farthing_prefix_cache_queried_tokens", |s| counter(queried(s))),
    ("vllm:prefix_cache_hits", "As farthing_prefix_cache_hit_tokens", |s| counter(s.cached_tokens)),
];

fn queried(s: &Statistics) -> u64 {
    s.prompt_tokens + s.cached_tokens
}

fn usage(s: &Statistics) -> Box<dyn EncodeMetric> {
    Box::new(ConstGauge::new(pages_used(s) as f64 / s.pages.max(1) as f64))
}

/// Names of the release before, with their present names: kept for one release.
const OLD_NAMES: [(&str, &str); 5] = [
    ("cache_pages", "kv_cache_pages"),
    ("cache_pages_used", "kv_cache_pages_used"),
    ("cache_units", "prefix_cache_blocks"),
    ("disk_cache_units", "disk_cache_blocks"),
    ("cache_units_evicted", "prefix_cache_blocks_evicted"),
];

/// The latest statistics of each model.
#[derive(Debug, Default)]
struct Engines(Mutex<BTreeMap<String, Statistics>>);

impl Collector for Engines {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let engines = self.0.lock();
        let mut series = |name: &str, help: &str, label: &str, value: Value| {
            let kind = value(&Statistics::default()).metric_type();
            let mut metric = encoder.encode_descriptor(name, &format!("{help}."), None, kind)?;
            engines.iter().try_for_each(|(model, s)| value(s).encode(metric.encode_family(&[(label, model.as_str())])?))
        };
        for (name, help, value) in ENGINE {
            series(&format!("farthing_{name}"), help, "model", value)?;
            for (old, _) in OLD_NAMES.iter().filter(|(_, new)| *new == name) {
                series(&format!("farthing_{old}"), &format!("Old name of farthing_{name}"), "model", value)?;
            }
        }
        VLLM.into_iter().try_for_each(|(name, help, value)| series(name, help, "model_name", value))
    }
}

fn new<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

fn histogram(registry: &mut Registry, name: &str, help: &str, bounds: &[f64]) -> Histogram {
    let metric = Histogram::new(bounds.iter().copied());
    registry.register(name, help, metric.clone());
    metric
}

impl Metrics {
    /// Nothing counted yet.
    pub fn new() -> Metrics {
        let engines = Arc::<Engines>::default();
        let (mut registry, mut private) = (Registry::default(), Registry::default());
        registry.register_collector(Box::new(Arc::clone(&engines)));
        let ours = registry.sub_registry_with_prefix("farthing");
        let hidden = private.sub_registry_with_prefix("farthing");
        ours.register("build", "This program", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        let time = |registry: &mut Registry, name: &str, help: &str| histogram(registry, name, help, &REQUEST_SECONDS);
        let mean = "Mean of a request, after its first token";
        let even = "The busiest expert's share of a layer's tokens over an even share: 1 is even";
        Metrics {
            requests: new(ours, "requests", "Requests by route, status (0: the client disconnected) and finish reason"),
            end_to_end: time(ours, "request_seconds", "From a request's head to the end of its response"),
            first_token: time(ours, "time_to_first_token_seconds", "From a request's head to its first token"),
            token: histogram(ours, "time_per_output_token_seconds", mean, &TOKEN_SECONDS),
            queue: time(ours, "queue_seconds", "Time in the queue"),
            prefill: time(ours, "prefill_seconds", "Time for a prompt"),
            prompt_tokens: new(ours, "prompt_tokens", "Tokens of prompts, cached ones included"),
            generation_tokens: new(ours, "generation_tokens", "Tokens generated"),
            cached_tokens: new(ours, "cached_tokens", "Tokens of prompts that were not computed again"),
            refused: new(ours, "rejections", "Requests that got 429"),
            cancelled: new(ours, "cancellations", "Requests whose client disconnected"),
            connections: new(ours, "connections", "Open connections"),
            shed: new(ours, "connections_shed", "Connections closed for others: too many were open"),
            experts: new(hidden, "expert_tokens", "Tokens that an expert was chosen for"),
            imbalance: new(hidden, "expert_imbalance", even),
            engines,
            registry,
            private,
        }
    }

    /// Counts a finished request; `status` is none if its client disconnected.
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
        if told.background {
            return;
        }
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
        self.engines.0.lock().insert(model.to_string(), s.clone());
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

/// OpenMetrics text in Prometheus's older format (0.0.4): counters are declared by the names of their samples, there is no kind `info` and no
/// mark of the end.
pub fn plain_metrics(open: &str) -> String {
    let mut plain = String::with_capacity(open.len());
    let mut help: Option<(&str, &str)> = None;
    for line in open.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            // The kind, which decides on the name, comes after the description.
            (Some("#"), Some("HELP"), Some(name), Some(text)) => help = Some((name, text)),
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let suffix = match kind {
                    "counter" => "_total",
                    "info" => "_info",
                    _ => "",
                };
                let kind = if kind == "info" { "gauge" } else { kind };
                if let Some((_, text)) = help.take().filter(|(known, _)| *known == name) {
                    plain.push_str(&format!("# HELP {name}{suffix} {text}\n"));
                }
                plain.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
            }
            (Some("#"), ..) => {}
            _ => {
                plain.push_str(line);
                plain.push('\n');
            }
        }
    }
    plain
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

#[cfg(test)]
mod tests {
    use prometheus_parse::{Scrape, Value};

    use super::*;

    #[test]
    fn the_older_format_declares_what_it_holds() {
        let open = "# HELP a_requests Requests.\n# TYPE a_requests counter\n# UNIT a_requests x\na_requests_total{r=\"b c\"} 2\n\
                    # HELP a_build Build.\n# TYPE a_build info\na_build_info{v=\"1\"} 1\n# HELP g G g.\n# TYPE g gauge\ng 0.5\n# EOF\n";
        assert_eq!(
            plain_metrics(open),
            "# HELP a_requests_total Requests.\n# TYPE a_requests_total counter\na_requests_total{r=\"b c\"} 2\n\
             # HELP a_build_info Build.\n# TYPE a_build_info gauge\na_build_info{v=\"1\"} 1\n# HELP g G g.\n# TYPE g gauge\ng 0.5\n"
        );
        let real = plain_metrics(&Metrics::new().text(true));
        assert!(!real.contains("# EOF") && !real.contains(" info\n") && real.contains("_total"), "{real}");
    }

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
        assert_eq!(of(&s, "farthing_kv_cache_pages_used", &ours), 16.0);
        for (old, new) in OLD_NAMES {
            let value = |name: &str| {
                of(&s, &format!("farthing_{name}{}", if new.ends_with("evicted") { "_total" } else { "" }), &ours)
            };
            assert_eq!(value(old), value(new), "{old}");
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
        assert_eq!(of(&scraped(&m), "farthing_kv_cache_pages", &ours), 0.0);
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
