//! What all handlers share: the models, the metrics and the server's limits.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::generation::model_pool::{ModelDescription, ModelPool, ModelUnavailable};
use crate::generation::retry_after::RequestTimes;
use crate::generation::served_model::ServedModel;
use crate::http::body_budget::BodyBudget;
use crate::http::metrics::Metrics;
use crate::http::middleware::{Access, Admission};
use crate::http::work_slots::WorkSlots;

/// Bounds of the server.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// Open connections; more wait to be accepted.
    pub connections: usize,
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// Bytes of all bodies that are being read.
    pub bodies_bytes: usize,
    /// Time for the head of a request, for its body, and for a client to take what was written.
    pub patience: Duration,
    /// Longest wait of a request for its first step.
    pub wait: Duration,
    /// Longest time of a request in all, where there is one; what it has by then is its answer.
    pub time: Option<Duration>,
    /// Time that running requests have after the server was told to end.
    pub drain: Duration,
}

impl Default for ServerLimits {
    fn default() -> ServerLimits {
        ServerLimits {
            connections: 512,
            body_bytes: 4 << 20,
            bodies_bytes: 64 << 20,
            patience: Duration::from_secs(30),
            wait: Duration::from_secs(600),
            time: None,
            drain: Duration::from_secs(600),
        }
    }
}

/// What the routes share.
pub struct AppState {
    /// What is served.
    pub models: Arc<ModelPool<ServedModel>>,
    /// Numbers for Prometheus.
    pub metrics: Arc<Metrics>,
    pub(crate) admission: Admission,
    pub(crate) limits: ServerLimits,
    pub(crate) body_budget: Arc<BodyBudget>,
    /// Requests that are parsed and rendered at once: each may take many times its bytes.
    pub(crate) work_slots: Arc<WorkSlots>,
    pub(crate) request_times: Arc<RequestTimes>,
    /// The first model was loaded once.
    started: AtomicBool,
}

impl AppState {
    /// A server of these models, none of them loaded yet.
    pub fn new(limits: ServerLimits, access: Access, models: Arc<ModelPool<ServedModel>>) -> Arc<AppState> {
        Arc::new(AppState {
            models,
            metrics: Arc::default(),
            admission: Admission::new(access),
            limits,
            body_budget: BodyBudget::new(limits.bodies_bytes),
            work_slots: Arc::default(),
            request_times: Arc::default(),
            started: AtomicBool::new(false),
        })
    }

    /// Load the first model: the server is ready then, and stays so when the model is put away.
    ///
    /// # Errors
    /// The model cannot be loaded.
    pub async fn start(&self) -> Result<(), ModelUnavailable> {
        self.models.get(None).await?;
        self.started.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether requests are answered: the first model was loaded, its engine and the others' run, and the server is not ending.
    pub fn ready(&self) -> bool {
        self.started.load(Ordering::Acquire) && !self.admission.shutting_down() && self.fault().is_none()
    }

    /// A model whose engine has panicked, and what it said: the process has to be restarted.
    pub fn fault(&self) -> Option<(String, String)> {
        let stopped = |(name, model): (String, Arc<ServedModel>)| model.engine.fault().map(|said| (name, said));
        self.models.loaded().into_iter().find_map(stopped)
    }

    /// The model of this name, the first without one; loaded where it must be.
    ///
    /// # Errors
    /// There is none, or it takes longer than the server's patience.
    pub async fn model(&self, name: Option<&str>) -> Result<Arc<ServedModel>, ModelUnavailable> {
        match tokio::time::timeout(self.limits.patience, self.models.get(name)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ModelUnavailable::Loading),
        }
    }

    /// Put away models that nobody used for this long, until the server ends.
    pub async fn unload_idle(self: Arc<Self>, idle: Duration) {
        loop {
            tokio::time::sleep((idle / 4).clamp(Duration::from_millis(100), Duration::from_secs(10))).await;
            for (name, model) in self.models.unload_idle(idle) {
                tracing::info!(target: "farthing", model = name, "put away: nobody used it");
                // The engine's thread is waited for.
                let _ = tokio::task::spawn_blocking(move || drop(model)).await;
            }
        }
    }

    /// Bring the metrics of engines up to date. A model that is not loaded does nothing, and its counters begin anew.
    pub(crate) fn update_metrics(&self) {
        let loaded: HashMap<String, Arc<ServedModel>> = self.models.loaded().into_iter().collect();
        for (ModelDescription { name, .. }, _) in self.models.list() {
            let statistics = loaded.get(&name).map(|model| model.engine.statistics()).unwrap_or_default();
            self.metrics.engine(&name, &statistics);
        }
    }
}
