//! Processes of a cluster: a scheduler, and executors that wait where they are held

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ballista_core::JobId;
use ballista_core::config::TaskSchedulingPolicy;
use ballista_core::serde::protobuf::{RuntimeStatsReport, ShuffleWritePartition, TaskColumnStats, WindowStateReport};
use ballista_executor::execution_engine::{DefaultExecutionEngine, ExecutionEngine, QueryStageExecutor};
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::SchedulerConfig;
use ballista_scheduler::scheduler_process::{create_scheduler, start_grpc_service_with_listener};
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::prelude::SessionConfig;
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};

/// Where an executor waits before a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// In the stage that reads the files.
    FirstStage,
    /// In a later one.
    LastStage,
}

impl Hold {
    fn of_stage(stage: usize) -> Hold {
        if stage == 1 { Hold::FirstStage } else { Hold::LastStage }
    }
}

/// A file whose being there holds an executor.
pub struct Held(PathBuf);

impl Drop for Held {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).expect("it was made");
    }
}

/// Processes on loopback, killed when this is dropped.
pub struct Cluster {
    /// Of the scheduler.
    pub address: String,
    directory: tempfile::TempDir,
    scheduler: Child,
    executors: Mutex<Vec<(String, Child)>>,
}

impl Cluster {
    /// Starts a scheduler, and an executor of each name.
    pub fn start(names: &[&str]) -> Cluster {
        let directory = tempfile::tempdir().unwrap();
        let me = std::env::current_exe().unwrap();
        let mut command = Command::new(&me);
        let mut scheduler = command.arg("scheduler").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut address = String::new();
        BufReader::new(scheduler.stdout.take().unwrap()).read_line(&mut address).unwrap();
        let address = address.trim().to_string();
        let executor = |name: &&str| {
            let arguments = ["executor", name, &address, directory.path().to_str().unwrap()];
            (name.to_string(), Command::new(&me).args(arguments).stdin(Stdio::piped()).spawn().unwrap())
        };
        let executors = Mutex::new(names.iter().map(executor).collect());
        Cluster { address, directory, scheduler, executors }
    }

    /// Lets an executor wait until what comes back is dropped.
    pub fn hold(&self, name: &str, hold: Hold) -> Held {
        let path = self.directory.path().join(format!("{name}.hold.{hold:?}"));
        std::fs::write(&path, b"").unwrap();
        Held(path)
    }

    /// The stages of the tasks that an executor has begun.
    pub fn stages(&self, name: &str) -> Vec<usize> {
        self.files(&format!("{name}.begun."))
            .iter()
            .map(|name| name.split('.').nth(2).unwrap().parse().unwrap())
            .collect()
    }

    /// The jobs of the tasks of a stage that an executor has begun.
    pub fn jobs(&self, name: &str, stage: usize) -> Vec<String> {
        let names = self.files(&format!("{name}.begun.{stage}."));
        names.iter().map(|name| name.rsplit('.').next().unwrap().to_string()).collect()
    }

    fn files(&self, prefix: &str) -> Vec<String> {
        let names =
            std::fs::read_dir(self.directory.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(prefix)).collect()
    }

    /// Kills an executor with SIGKILL, and what is on its disk is gone with it.
    pub fn kill(&self, name: &str) {
        let mut executors = self.executors.lock().unwrap();
        let (_, child) = executors.iter_mut().find(|(of, _)| of == name).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        std::fs::remove_dir_all(self.directory.path().join(name)).unwrap();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A test that panicked may have poisoned it.
        let executors = self.executors.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        for child in executors.iter_mut().map(|(_, child)| child).chain([&mut self.scheduler]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Ends this process when the one that started it has gone, however that was.
fn end_with_parent() {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(1);
    });
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(future)
}

/// Runs a scheduler that gives up executors soon, and prints its address.
pub fn scheduler() {
    end_with_parent();
    block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = SchedulerConfig {
            external_host: address.ip().to_string(),
            bind_port: address.port(),
            scheduling_policy: TaskSchedulingPolicy::PullStaged,
            executor_timeout_seconds: 5,
            expire_dead_executor_interval_seconds: 1,
            no_executors_grace_period_seconds: 5,
            ..SchedulerConfig::default()
        };
        let cluster = BallistaCluster::new_from_config(&config).await.unwrap();
        let scheduler = create_scheduler::<LogicalPlanNode, PhysicalPlanNode>(cluster, Arc::new(config)).await.unwrap();
        println!("{address}");
        start_grpc_service_with_listener(listener, scheduler).await.unwrap();
    });
}

/// Runs an executor with one task at a time, which notes in `directory` what it does and waits where it is held.
pub fn executor(name: &str, scheduler: &str, directory: &Path) {
    end_with_parent();
    let free = || TcpListener::bind("127.0.0.1:0").unwrap();
    let ports = [free(), free()].map(|listener| listener.local_addr().unwrap().port());
    let (host, port) = scheduler.rsplit_once(':').unwrap();
    let work_dir = directory.join(name);
    std::fs::create_dir(&work_dir).unwrap();
    let notes = Notes { name: name.to_string(), directory: directory.to_path_buf() };
    let config = ExecutorProcessConfig {
        port: ports[0],
        grpc_port: ports[1],
        scheduler_host: host.to_string(),
        scheduler_port: port.parse().unwrap(),
        vcores: 1,
        // Ballista 55's other policy loses the core of a task that it cancels because another executor was lost: the job never ends.
        task_scheduling_policy: TaskSchedulingPolicy::PullStaged,
        work_dir: Some(work_dir.to_str().unwrap().to_string()),
        executor_heartbeat_interval_seconds: 1,
        memory_pool_size: Some(64 << 20),
        override_execution_engine: Some(Arc::new(HeldEngine { notes, engine: DefaultExecutionEngine::new() })),
        ..ExecutorProcessConfig::default()
    };
    block_on(start_executor_process(Arc::new(config))).unwrap();
}

/// Files of what an executor does.
#[derive(Clone, Debug)]
struct Notes {
    name: String,
    directory: PathBuf,
}

impl Notes {
    fn begun(&self, stage: usize, task: usize, job: &str) {
        // Tasks of a stage that is done again have the same numbers.
        let file = |time: usize| self.directory.join(format!("{}.begun.{stage}.{task}.{time}.{job}", self.name));
        let file = (0..).map(file).find(|file| !file.exists()).unwrap();
        std::fs::write(file, b"").unwrap();
    }

    fn is_held(&self, stage: usize) -> bool {
        self.directory.join(format!("{}.hold.{:?}", self.name, Hold::of_stage(stage))).exists()
    }
}

/// Ballista's engine, whose tasks wait.
struct HeldEngine {
    notes: Notes,
    engine: DefaultExecutionEngine,
}

impl ExecutionEngine for HeldEngine {
    fn create_query_stage_exec(
        &self,
        job_id: JobId,
        stage_id: usize,
        task_id: usize,
        global_output_partition_ids: Vec<usize>,
        plan: Arc<dyn ExecutionPlan>,
        work_dir: &str,
        config: &SessionConfig,
    ) -> Result<Arc<dyn QueryStageExecutor>> {
        let job = job_id.to_string();
        let made = self.engine.create_query_stage_exec(
            job_id,
            stage_id,
            task_id,
            global_output_partition_ids,
            plan,
            work_dir,
            config,
        );
        Ok(Arc::new(HeldStage { notes: self.notes.clone(), job, stage: stage_id, made: made? }))
    }
}

#[derive(Debug)]
struct HeldStage {
    notes: Notes,
    job: String,
    stage: usize,
    made: Arc<dyn QueryStageExecutor>,
}

impl fmt::Display for HeldStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.made.fmt(f)
    }
}

#[async_trait::async_trait]
impl QueryStageExecutor for HeldStage {
    async fn execute_query_stage(
        &self,
        task_id: usize,
        context: Arc<TaskContext>,
    ) -> Result<Vec<ShuffleWritePartition>> {
        self.notes.begun(self.stage, task_id, &self.job);
        while self.notes.is_held(self.stage) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.made.execute_query_stage(task_id, context).await
    }

    fn collect_plan_metrics(&self) -> Vec<MetricsSet> {
        self.made.collect_plan_metrics()
    }

    fn collect_runtime_stats_reports(&self) -> Vec<RuntimeStatsReport> {
        self.made.collect_runtime_stats_reports()
    }

    fn collect_window_state_reports(&self) -> Result<Vec<WindowStateReport>> {
        self.made.collect_window_state_reports()
    }

    fn collect_column_stats(&self) -> Vec<TaskColumnStats> {
        self.made.collect_column_stats()
    }
}
