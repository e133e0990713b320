//! The models of a server under one memory budget: loaded on demand, unloaded when others need the memory or they were idle.
//!
//! What a model is and how it is loaded comes from outside: descriptions and a loader. A model that is held (by a request that
//! runs) is never unloaded.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::words::bytes as in_words;

/// The files of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelFiles {
    /// Bytes of the weight files.
    pub bytes: u64,
    /// `gguf` or `safetensors`.
    pub format: &'static str,
    /// The architecture, as the files name it.
    pub family: String,
    /// Number of weights.
    pub parameters: u64,
    /// The format that most of the weights' bytes are in.
    pub weights: String,
}

/// What is known of a model before it is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelDescription {
    /// Its id in the API.
    pub name: String,
    /// Further ids of it.
    pub aliases: Vec<String>,
    /// Its files.
    pub files: ModelFiles,
    /// Bytes that it takes when it is loaded.
    pub bytes: u64,
    /// Tokens of its context.
    pub context: usize,
    /// What it is for: `completion`, `embedding` or `rerank`.
    pub capability: &'static str,
    /// Seconds since 1970, for `created` in lists.
    pub created: u64,
}

/// Whether a model is loaded, in the API in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LoadState {
    /// Not in memory.
    Absent,
    /// Being loaded.
    Loading,
    /// In memory.
    Ready,
}

/// Why a model is not available.
#[allow(missing_docs, reason = "the messages say what the fields are")]
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ModelUnavailable {
    /// No model has that name.
    #[error("model is {name:?}; this server has {known}")]
    Unknown { name: String, known: String },
    /// It takes longer than a request waits.
    #[error("the model is being loaded; try again")]
    Loading,
    /// It can never fit.
    #[error(
        "{name} takes {}, and all models together have {}; give the server more --memory or a smaller model",
        in_words(*bytes), in_words(*budget)
    )]
    TooLarge { name: String, bytes: u64, budget: u64 },
    /// It would fit, but models that answer requests are in its place.
    #[error(
        "{name} takes {}, and {} of {} are free while {busy} runs; try again",
        in_words(*bytes), in_words(*free), in_words(*budget)
    )]
    NoRoom { name: String, bytes: u64, budget: u64, free: u64, busy: String },
    /// It could not be loaded; the next request tries again. The cause names files of the server, and is for its log.
    #[error("{name} could not be loaded; the server's log says why")]
    Failed { name: String, cause: String },
    /// It answers requests, or is being loaded.
    #[error("{name} is in use; try again when its requests have ended")]
    InUse { name: String },
}

/// Loads the model of a description. It may take long; it runs on a thread that may wait.
pub type Loader<M> = Box<dyn Fn(&ModelDescription) -> Result<M, String> + Send + Sync>;

struct PooledModel<M> {
    description: ModelDescription,
    loading: bool,
    /// Deleted: nobody sees it, and its place stays.
    gone: bool,
    ready: Option<Arc<M>>,
    used: Instant,
}

impl<M> PooledModel<M> {
    /// Nobody but this holds it. Holders are made under the lock only, so it stays so while the lock is held.
    fn idle(&self) -> bool {
        self.ready.as_ref().is_some_and(|model| Arc::strong_count(model) == 1)
    }

    fn load_state(&self) -> LoadState {
        match (&self.ready, self.loading) {
            (Some(_), _) => LoadState::Ready,
            (None, true) => LoadState::Loading,
            (None, false) => LoadState::Absent,
        }
    }

    fn called(&self, name: &str) -> bool {
        !self.gone && (self.description.name == name || self.description.aliases.iter().any(|alias| alias == name))
    }

    fn bytes(&self) -> u64 {
        if self.ready.is_some() { self.description.bytes } else { 0 }
    }
}

/// All models of a server; the first one answers where a request names none.
pub struct ModelPool<M> {
    entries: Mutex<Vec<PooledModel<M>>>,
    /// Held while a model is loaded: one at a time.
    slot: tokio::sync::Mutex<()>,
    budget: Option<u64>,
    loader: Loader<M>,
    /// The only model answers whatever name a request gives.
    any_name: bool,
}

impl<M: Send + Sync + 'static> ModelPool<M> {
    /// Models under a budget of bytes (none: no bound), all absent yet. Names must differ, and there must be one.
    /// With `any_name` the model answers to every name, if it is the only one.
    pub fn new(
        descriptions: Vec<ModelDescription>,
        budget: Option<u64>,
        any_name: bool,
        loader: Loader<M>,
    ) -> Arc<ModelPool<M>> {
        assert!(!descriptions.is_empty(), "a server has at least one model");
        let used = Instant::now();
        let entry = |description| PooledModel { description, loading: false, gone: false, ready: None, used };
        let entries = Mutex::new(descriptions.into_iter().map(entry).collect());
        Arc::new(ModelPool { entries, slot: tokio::sync::Mutex::new(()), budget, loader, any_name })
    }

    /// Bytes that all models together may take.
    pub fn budget(&self) -> Option<u64> {
        self.budget
    }

    /// All of them, in their order.
    pub fn list(&self) -> Vec<(ModelDescription, LoadState)> {
        let entries = self.entries.lock();
        entries.iter().filter(|e| !e.gone).map(|e| (e.description.clone(), e.load_state())).collect()
    }

    /// Those in memory, without counting it as use. Let go of them soon: what is held is not unloaded.
    pub fn loaded(&self) -> Vec<(String, Arc<M>)> {
        let entries = self.entries.lock();
        entries.iter().filter_map(|e| Some((e.description.name.clone(), Arc::clone(e.ready.as_ref()?)))).collect()
    }

    /// Where the model of this name stands; the first without one.
    fn place(&self, name: Option<&str>) -> Result<usize, ModelUnavailable> {
        let entries = self.entries.lock();
        let first = entries.iter().position(|e| !e.gone);
        let found = name.map_or(first, |name| {
            // Ollama's clients add its default tag.
            let untagged = name.strip_suffix(":latest").unwrap_or(name);
            let only = first.filter(|_| self.any_name && entries.iter().filter(|e| !e.gone).count() == 1);
            entries.iter().position(|e| e.called(name) || e.called(untagged)).or(only)
        });
        found.ok_or_else(|| {
            let there = entries.iter().filter(|e| !e.gone).take(20);
            let known: Vec<String> = there.map(|e| format!("{:?}", e.description.name)).collect();
            let known = if known.is_empty() { "none".to_string() } else { known.join(", ") };
            ModelUnavailable::Unknown { name: name.unwrap_or_default().chars().take(200).collect(), known }
        })
    }

    /// The model of this name (the first without one), if there is such a name.
    ///
    /// # Errors
    /// No such name.
    pub fn describe(&self, name: Option<&str>) -> Result<(ModelDescription, LoadState), ModelUnavailable> {
        let place = self.place(name)?;
        let entry = &self.entries.lock()[place];
        Ok((entry.description.clone(), entry.load_state()))
    }

    /// The model that has this very name, whatever else answers to it.
    pub fn named(&self, name: &str) -> Option<ModelDescription> {
        self.entries.lock().iter().find(|e| e.called(name)).map(|e| e.description.clone())
    }

    /// Adds a model, absent yet. Where one has its name, that one stays.
    pub fn add(&self, description: ModelDescription) {
        let mut entries = self.entries.lock();
        if entries.iter().any(|e| e.called(&description.name)) {
            return;
        }
        let added = PooledModel { description, loading: false, gone: false, ready: None, used: Instant::now() };
        match entries.iter_mut().find(|e| e.gone && e.description.name == added.description.name) {
            Some(place) => *place = added,
            None => entries.push(added),
        }
    }

    /// Removes a model: no request finds it any more, and what holds it keeps it.
    pub fn remove(&self, name: &str) {
        if let Some(entry) = self.entries.lock().iter_mut().find(|e| e.called(name)) {
            entry.gone = true;
            entry.ready = None;
        }
    }

    fn take(&self, place: usize) -> Option<Arc<M>> {
        let entry = &mut self.entries.lock()[place];
        let model = entry.ready.clone()?;
        entry.used = Instant::now();
        Some(model)
    }

    /// The model of this name (the first without one), loaded first where it must be. Who asks for one that is being loaded waits
    /// with the others; who leaves meanwhile does not stop it.
    ///
    /// # Errors
    /// See [`ModelUnavailable`]; `Loading` does not come from here.
    pub async fn get(self: &Arc<Self>, name: Option<&str>) -> Result<Arc<M>, ModelUnavailable> {
        let place = self.place(name)?;
        if let Some(model) = self.take(place) {
            return Ok(model);
        }
        let all = Arc::clone(self);
        let task = tokio::spawn(async move { all.load(place).await });
        task.await.unwrap_or_else(|_| {
            let (name, cause) =
                (self.entries.lock()[place].description.name.clone(), "a fault while loading".to_string());
            Err(ModelUnavailable::Failed { name, cause })
        })
    }

    async fn load(self: Arc<Self>, place: usize) -> Result<Arc<M>, ModelUnavailable> {
        let _turn = self.slot.lock().await;
        if let Some(model) = self.take(place) {
            return Ok(model);
        }
        let gone = self.make_room(place)?;
        let description = {
            let entry = &mut self.entries.lock()[place];
            entry.loading = true;
            entry.description.clone()
        };
        let all = Arc::clone(&self);
        let loaded = tokio::task::spawn_blocking(move || {
            // Their memory is free once they are dropped.
            drop(gone);
            (all.loader)(&description)
        });
        let loaded = loaded.await.unwrap_or_else(|_| Err("a fault while loading".to_string()));
        let entry = &mut self.entries.lock()[place];
        entry.loading = false;
        entry.used = Instant::now();
        let model = loaded.map_err(|cause| ModelUnavailable::Failed { name: entry.description.name.clone(), cause })?;
        Ok(Arc::clone(entry.ready.insert(Arc::new(model))))
    }

    /// Takes out idle models, the least recently used first, until this one fits. Takes none where that does not help.
    fn make_room(&self, place: usize) -> Result<Vec<Arc<M>>, ModelUnavailable> {
        let Some(budget) = self.budget else { return Ok(Vec::new()) };
        let mut entries = self.entries.lock();
        let (name, bytes) = (entries[place].description.name.clone(), entries[place].description.bytes);
        if bytes > budget {
            return Err(ModelUnavailable::TooLarge { name, bytes, budget });
        }
        let used: u64 = entries.iter().map(PooledModel::bytes).sum();
        let busy: u64 = entries.iter().filter(|e| !e.idle()).map(PooledModel::bytes).sum();
        if busy.saturating_add(bytes) > budget {
            let names = entries.iter().filter(|e| e.ready.is_some() && !e.idle()).map(|e| e.description.name.as_str());
            let busy_names = names.collect::<Vec<_>>().join(", ");
            return Err(ModelUnavailable::NoRoom {
                name,
                bytes,
                budget,
                free: budget.saturating_sub(busy),
                busy: busy_names,
            });
        }
        let mut order: Vec<usize> = (0..entries.len()).filter(|&i| entries[i].idle()).collect();
        order.sort_by_key(|&i| entries[i].used);
        let (mut used, mut gone) = (used, Vec::new());
        for i in order {
            if used.saturating_add(bytes) <= budget {
                break;
            }
            used -= entries[i].bytes();
            gone.extend(entries[i].ready.take());
        }
        Ok(gone)
    }

    /// Takes out the model of this name; `None` where it was not in memory. Dropping it may take a while.
    ///
    /// # Errors
    /// No such name; a model that answers requests or is being loaded.
    pub fn unload(&self, name: &str) -> Result<Option<Arc<M>>, ModelUnavailable> {
        let place = self.place(Some(name))?;
        let entry = &mut self.entries.lock()[place];
        if entry.loading || (entry.ready.is_some() && !entry.idle()) {
            return Err(ModelUnavailable::InUse { name: entry.description.name.clone() });
        }
        Ok(entry.ready.take())
    }

    /// Takes out what nobody used for this long. Dropping what it gives may take a while.
    #[must_use = "dropping the models may take a while: do so where that is fine"]
    pub fn unload_idle(&self, idle: Duration) -> Vec<(String, Arc<M>)> {
        let now = Instant::now();
        let mut gone = Vec::new();
        for entry in self.entries.lock().iter_mut() {
            if !entry.idle() {
                // In use until now.
                entry.used = now;
            } else if now.duration_since(entry.used) >= idle {
                gone.extend(entry.ready.take().map(|model| (entry.description.name.clone(), model)));
            }
        }
        gone
    }
}

/// The model that a request's body names, read before the rest of it. None where it names none, or is no JSON that could: whoever
/// reads the body as a whole says what is wrong with it.
pub fn requested_model(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Requested {
        model: Option<String>,
    }
    serde_json::from_slice::<Requested>(body).ok()?.model
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    /// A model that tells when it is dropped.
    struct Fake(String, Arc<Mutex<Vec<String>>>);

    impl Drop for Fake {
        fn drop(&mut self) {
            self.1.lock().push(format!("-{}", self.0));
        }
    }

    struct Bench {
        models: Arc<ModelPool<Fake>>,
        events: Arc<Mutex<Vec<String>>>,
        at_once: Arc<AtomicUsize>,
    }

    /// Models a (40), b (40), c (40), all (100), huge (101) and bad in 100 bytes.
    fn bench() -> Bench {
        let sizes = [("a", 40), ("b", 40), ("c", 40), ("all", 100), ("huge", 101), ("bad", 1), ("panics", 1)];
        let described = |&(name, bytes): &(&str, u64)| ModelDescription {
            name: name.to_string(),
            aliases: vec![format!("{name}-alias")],
            files: ModelFiles::default(),
            bytes,
            context: 8,
            capability: "completion",
            created: 0,
        };
        let (events, at_once) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let (theirs, count) = (Arc::clone(&events), Arc::clone(&at_once));
        let loader = move |d: &ModelDescription| {
            assert_eq!(count.fetch_add(1, SeqCst), 0, "one load at a time");
            std::thread::sleep(Duration::from_millis(20));
            count.fetch_sub(1, SeqCst);
            theirs.lock().push(format!("+{}", d.name));
            assert!(d.name != "panics", "as it should");
            if d.name == "bad" {
                Err("no such file".to_string())
            } else {
                Ok(Fake(d.name.clone(), Arc::clone(&theirs)))
            }
        };
        let models = ModelPool::new(sizes.iter().map(described).collect(), Some(100), false, Box::new(loader));
        Bench { models, events, at_once }
    }

    impl Bench {
        fn events(&self) -> String {
            self.events.lock().drain(..).collect::<Vec<_>>().join(" ")
        }

        async fn refused(&self, name: &str) -> String {
            self.models.get(Some(name)).await.err().expect("refused").to_string()
        }
    }

    #[tokio::test]
    async fn many_who_ask_load_once_and_the_first_is_the_default() {
        let b = bench();
        let all: Vec<_> = (0..20)
            .map(|i| {
                let models = Arc::clone(&b.models);
                tokio::spawn(async move { models.get((i % 2 == 0).then_some("a")).await.unwrap().0.clone() })
            })
            .collect();
        for one in all {
            assert_eq!(one.await.unwrap(), "a");
        }
        assert_eq!(b.events(), "+a");
        assert_eq!(b.at_once.load(SeqCst), 0);
    }

    #[tokio::test]
    async fn the_least_recently_used_goes_and_what_is_held_stays() {
        let b = bench();
        for name in ["a", "b", "a"] {
            b.models.get(Some(name)).await.unwrap();
        }
        drop(b.models.get(Some("c")).await.unwrap());
        assert_eq!(b.events(), "+a +b -b +c", "b was used before a");
        let held = b.models.get(Some("a")).await.unwrap();
        drop(b.models.get(Some("b")).await.unwrap());
        assert_eq!(b.events(), "-c +b", "a is newer than c, and held");
        let said = b.refused("all").await;
        assert_eq!(said, "all takes 100 B, and 60 B of 100 B are free while a runs; try again");
        assert_eq!(b.events(), "", "nothing goes where it does not help");
        drop(b.models.get(Some("c")).await.unwrap());
        assert_eq!(b.events(), "-b +c", "a is older, but held");
        drop(held);
        b.models.get(Some("all")).await.unwrap();
        assert_eq!(b.events(), "-a -c +all");
        let phases: Vec<LoadState> = b.models.list().into_iter().map(|(_, phase)| phase).collect();
        assert_eq!(phases[..4], [LoadState::Absent, LoadState::Absent, LoadState::Absent, LoadState::Ready]);
    }

    #[tokio::test]
    async fn what_cannot_be_says_why_and_is_tried_again() {
        let b = bench();
        assert!(b.refused("huge").await.starts_with("huge takes 101 B, and all models together have 100 B;"));
        assert!(b.refused("none").await.starts_with("model is \"none\"; this server has \"a\", \"b\""));
        assert_eq!(b.events(), "");
        for _ in 0..2 {
            assert_eq!(b.refused("bad").await, "bad could not be loaded; the server's log says why");
            assert_eq!(b.events(), "+bad");
        }
        assert!(
            matches!(b.models.get(Some("bad")).await, Err(ModelUnavailable::Failed { cause, .. }) if cause == "no such file")
        );
        assert_eq!(b.events(), "+bad");
        assert!(
            matches!(b.models.get(Some("panics")).await, Err(ModelUnavailable::Failed { cause, .. }) if cause == "a fault while loading")
        );
        assert!(b.models.list().iter().all(|(_, phase)| *phase == LoadState::Absent));
        b.models.get(None).await.unwrap();
    }

    #[tokio::test]
    async fn who_leaves_does_not_stop_a_load() {
        let b = bench();
        let asks = b.models.get(Some("a"));
        assert!(tokio::time::timeout(Duration::from_millis(5), asks).await.is_err());
        assert_eq!(b.models.describe(Some("a")).unwrap().1, LoadState::Loading);
        b.models.get(Some("a")).await.unwrap();
        assert_eq!(b.events(), "+a");
    }

    #[tokio::test]
    async fn what_nobody_uses_is_put_away() {
        let b = bench();
        let held = b.models.get(Some("a")).await.unwrap();
        b.models.get(Some("b")).await.unwrap();
        assert!(b.models.unload_idle(Duration::from_secs(60)).is_empty());
        let gone: Vec<String> = b.models.unload_idle(Duration::ZERO).into_iter().map(|(name, _)| name).collect();
        assert_eq!((gone, b.events()), (vec!["b".to_string()], "+a +b -b".to_string()));
        drop(held);
        // It was in use until just now.
        assert!(b.models.unload_idle(Duration::from_secs(60)).is_empty());
        assert_eq!(b.models.unload_idle(Duration::ZERO).len(), 1);
    }

    #[tokio::test]
    async fn a_model_is_unloaded_when_somebody_asks_for_it_and_nobody_uses_it() {
        let b = bench();
        assert!(b.models.unload("a").unwrap().is_none());
        let held = b.models.get(Some("a-alias")).await.unwrap();
        let said = b.models.unload("a").err().unwrap().to_string();
        assert_eq!(said, "a is in use; try again when its requests have ended");
        drop(held);
        assert!(b.models.unload("a-alias").unwrap().is_some());
        assert_eq!(b.events(), "+a -a");
        assert!(b.models.unload("none").is_err());
    }

    #[tokio::test]
    async fn models_come_and_go_while_others_run() {
        let b = bench();
        let held = b.models.get(Some("a")).await.unwrap();
        b.models.remove("a");
        assert!(b.refused("a-alias").await.starts_with("model is \"a-alias\"; this server has \"b\", \"c\""));
        assert_eq!(b.models.describe(None).unwrap().0.name, "b", "the next one is the first now");
        assert_eq!(b.events(), "+a", "who holds it keeps it");
        drop(held);
        assert_eq!(b.events(), "-a");
        let d = |name: &str, bytes| ModelDescription {
            name: name.to_string(),
            aliases: Vec::new(),
            files: ModelFiles::default(),
            bytes,
            context: 8,
            capability: "completion",
            created: 0,
        };
        assert!(b.models.named("a").is_none() && b.models.named("b-alias").is_some());
        b.models.add(d("a", 41));
        b.models.add(d("d", 2));
        b.models.add(d("d", 3));
        let all: Vec<(String, u64)> = b.models.list().into_iter().map(|(model, _)| (model.name, model.bytes)).collect();
        assert_eq!((all.len(), &all[0], all.last().unwrap()), (8, &("a".to_string(), 41), &("d".to_string(), 2)));
        b.models.get(Some("d")).await.unwrap();
        assert_eq!(b.events(), "+d");
        all.iter().for_each(|(name, _)| b.models.remove(name));
        assert_eq!(b.refused("a").await, "model is \"a\"; this server has none");
        assert!(b.models.get(None).await.is_err() && b.models.list().is_empty());
    }

    #[test]
    fn the_only_model_answers_to_any_name_where_that_is_wished() {
        let only = |any: bool, names: &[&str]| {
            let described = |name: &&str| ModelDescription {
                name: name.to_string(),
                aliases: vec!["alias".to_string()],
                files: ModelFiles::default(),
                bytes: 1,
                context: 8,
                capability: "completion",
                created: 0,
            };
            let loader: Loader<()> = Box::new(|_| Ok(()));
            ModelPool::new(names.iter().map(described).collect(), None, any, loader)
        };
        assert!(only(true, &["a"]).describe(Some("gpt-4o")).is_ok());
        assert!(only(false, &["a"]).describe(Some("alias")).is_ok());
        assert!(only(false, &["a"]).describe(Some("gpt-4o")).is_err());
        assert!(only(true, &["a", "b"]).describe(Some("gpt-4o")).is_err());
    }

    #[test]
    fn the_model_of_a_body_is_read_without_the_rest() {
        let named = |body: &str| requested_model(body.as_bytes());
        assert_eq!(named(r#"{"prompt": [1, {"model": "x"}], "model": "a/b"}"#).as_deref(), Some("a/b"));
        for body in ["{}", "[]", "", "{", r#"{"model": null}"#, r#"{"model": 5}"#, r#"{"model": "a"} x"#] {
            assert_eq!(named(body), None, "{body}");
        }
        assert_eq!(named(&"[".repeat(100_000)), None);
    }
}
