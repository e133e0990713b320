//! Pairs of documents with a key in common, found by a plan of DataFusion over Parquet files of signatures: in this process, or on a Ballista cluster
//!
//! The plan partitions the signatures by key, sorts each partition (spilling to disk where memory ends), and gives the first document of each key beside
//! every other. It holds no group in memory, however many documents have the same key. What comes back is the same as that of the sorted merge in
//! `data::join`, its plain twin, in another order.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use data::Error;
use data::join::pairs::{Pair, PairFinder};
use data::progress::Progress;
use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::datatypes::UInt64Type;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use futures_util::StreamExt;
use tokio::runtime::Runtime;

mod ballista;
mod local;
mod signatures;

pub use ballista::Scheduler;

/// Each key's first document with every other.
const PLAN: &str = "
    SELECT first, place FROM (
        SELECT place, first_value(place) OVER (
            PARTITION BY key_high, key_low ORDER BY place ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS first FROM signatures
    ) WHERE place > first";

/// How often a wait looks whether somebody asked to stop.
const LOOK: Duration = Duration::from_millis(100);

/// What runs the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Engine {
    /// This process.
    InProcess,
    /// The executors of a Ballista scheduler.
    Ballista(Scheduler),
}

impl Engine {
    /// Reads `in-process`, `HOST:PORT` or `df://HOST:PORT`.
    ///
    /// # Errors
    /// In words: what it is not.
    pub fn parse(name: &str) -> Result<Engine, String> {
        match name {
            "in-process" => Ok(Engine::InProcess),
            _ => Scheduler::parse(name).map(Engine::Ballista),
        }
    }
}

/// Finds pairs by a plan.
pub struct PlanFinder<'a> {
    engine: Engine,
    threads: usize,
    runtime: Runtime,
    progress: &'a Progress,
}

impl<'a> PlanFinder<'a> {
    /// Makes one with so many threads of its own. A scheduler is asked at once whether it is there, so that a wrong address is not found out hours later.
    ///
    /// # Errors
    /// Where the system refuses, or the scheduler is not there or of another version.
    pub fn new(engine: Engine, threads: usize, progress: &'a Progress) -> Result<PlanFinder<'a>, Error> {
        let threads = threads.max(1);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
        let runtime = runtime.map_err(Error::io("threads"))?;
        if let Engine::Ballista(scheduler) = &engine {
            runtime.block_on(scheduler.probe())?;
        }
        Ok(PlanFinder { engine, threads, runtime, progress })
    }

    async fn start(
        &self,
        context: &SessionContext,
        directory: &Path,
    ) -> Result<(Arc<dyn ExecutionPlan>, SendableRecordBatchStream), DataFusionError> {
        // A URL: in a path some characters would be taken for a pattern.
        let url = url::Url::from_directory_path(directory)
            .map_err(|()| DataFusionError::Configuration("not an absolute path".to_string()))?;
        let schema = signatures::schema();
        let options = ParquetReadOptions::default().schema(&schema);
        context.register_parquet("signatures", url.as_str(), options).await?;
        let plan = context.sql(PLAN).await?.create_physical_plan().await?;
        let stream = execute_stream(Arc::clone(&plan), context.task_ctx())?;
        Ok((plan, stream))
    }

    /// A failure of the plan in one line, with the next step.
    fn failure(&self, directory: &Path, error: &DataFusionError) -> Error {
        let said = one_line(&error.strip_backtrace());
        match (&self.engine, error.find_root()) {
            (Engine::InProcess, DataFusionError::ResourcesExhausted(_)) => {
                Error::file(directory, format!("{said}; --memory with more MiB gives more room"))
            }
            (Engine::InProcess, _) => Error::file(directory, format!("DataFusion could not find the pairs: {said}")),
            (Engine::Ballista(scheduler), _) => scheduler.failure(directory, &said),
        }
    }
}

impl PairFinder for PlanFinder<'_> {
    fn describe(&self) -> String {
        match &self.engine {
            Engine::InProcess => "by DataFusion".to_string(),
            Engine::Ballista(scheduler) => format!("by Ballista at {scheduler}"),
        }
    }

    fn pairs<'a>(
        &'a self,
        runs: &'a [PathBuf],
        directory: &'a Path,
        memory_bytes: usize,
    ) -> Result<Box<dyn Iterator<Item = Result<Pair, Error>> + 'a>, Error> {
        let directory = std::path::absolute(directory).map_err(Error::io(directory))?;
        let files = directory.join("signatures");
        let rows = signatures::write(runs, &files, self.progress)?;
        if rows == 0 {
            return Ok(Box::new(std::iter::empty()));
        }
        let context = match &self.engine {
            Engine::InProcess => local::context(self.threads, memory_bytes, &directory.join("spilled"))
                .map_err(|error| self.failure(&directory, &error))?,
            Engine::Ballista(scheduler) => scheduler.context(rows).map_err(|error| self.failure(&files, &error))?,
        };
        let started = self.runtime.block_on(self.start(&context, &files));
        let (plan, stream) = started.map_err(|error| self.failure(&files, &error))?;
        Ok(Box::new(Pairs { finder: self, files, plan, stream, batch: None, row: 0, ended: false }))
    }
}

/// The pairs of a plan that runs. Dropped before its end, it cancels the job.
struct Pairs<'a> {
    finder: &'a PlanFinder<'a>,
    files: PathBuf,
    plan: Arc<dyn ExecutionPlan>,
    stream: SendableRecordBatchStream,
    batch: Option<RecordBatch>,
    row: usize,
    ended: bool,
}

impl Pairs<'_> {
    /// Waits for the next batch; there is none after the last.
    fn next_batch(&mut self) -> Result<(), Error> {
        let (finder, stream) = (self.finder, &mut self.stream);
        let next = finder.runtime.block_on(async {
            loop {
                finder.progress.check()?;
                if let Ok(next) = tokio::time::timeout(LOOK, stream.next()).await {
                    return Ok(next);
                }
            }
        })?;
        let batch = next.transpose().map_err(|error| finder.failure(&self.files, &error))?;
        (self.ended, self.batch, self.row) = (batch.is_none(), batch, 0);
        Ok(())
    }

    fn next_pair(&mut self) -> Result<Option<Pair>, Error> {
        while !self.ended {
            if let Some(batch) = self.batch.as_ref().filter(|batch| self.row < batch.num_rows()) {
                let place = |column: usize| {
                    let places = batch.columns().get(column)?.as_primitive_opt::<UInt64Type>()?;
                    places.is_valid(self.row).then(|| signatures::place(places.value(self.row)))
                };
                let (Some(first), Some(other)) = (place(0), place(1)) else {
                    let problem = format!("{} gave rows of {}, no pairs", self.finder.describe(), batch.schema());
                    return Err(Error::file(&self.files, one_line(&problem)));
                };
                self.row += 1;
                return Ok(Some(Pair { first, other }));
            }
            self.next_batch()?;
        }
        Ok(None)
    }
}

impl Iterator for Pairs<'_> {
    type Item = Result<Pair, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_pair().transpose()
    }
}

impl Drop for Pairs<'_> {
    fn drop(&mut self) {
        if let (Engine::Ballista(scheduler), false) = (&self.finder.engine, self.ended) {
            self.finder.runtime.block_on(scheduler.cancel(&self.plan));
        }
    }
}

/// The first words of a message from outside, without line ends and control characters.
fn one_line(message: &str) -> String {
    const CHARS_MAX: usize = 600;
    let words = message.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let line = words.collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_one_line_with_the_next_step() {
        let progress = Progress::default();
        let finder = PlanFinder::new(Engine::InProcess, 1, &progress).unwrap();
        let no_memory = DataFusionError::ResourcesExhausted("no room\nfor a\x1b[1m sort".to_string());
        let context = DataFusionError::Context("sorting".to_string(), Box::new(no_memory));
        let said = finder.failure(Path::new("work"), &context).to_string();
        assert!(said.starts_with("work: ") && said.contains("--memory") && !said.contains(char::is_control), "{said}");
        let long = DataFusionError::Execution("\u{e9}".repeat(10_000));
        assert!(finder.failure(Path::new("work"), &long).to_string().len() < 2000);
    }
}
