//! Ballista: a plan goes to a scheduler, which gives its stages to executors; these read the files themselves, and the pairs come from them

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ballista_core::BALLISTA_VERSION;
use ballista_core::execution_plans::DistributedQueryExec;
use ballista_core::extension::{SessionConfigExt, SessionStateExt};
use ballista_core::serde::protobuf::scheduler_grpc_client::SchedulerGrpcClient;
use ballista_core::serde::protobuf::{CancelJobParams, GetJobStatusParams};
use ballista_core::version::check_compatibility;
use data::Error;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionStateBuilder;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_proto::protobuf::LogicalPlanNode;
use tokio::time::timeout;

/// How long the scheduler may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Rows of a partition, about 100 MB: so many more executors help.
const PARTITION_ROWS: u64 = 1 << 22;
/// Partitions, at least as many as Ballista's default, and no more than a shuffle should have files.
const PARTITIONS: (u64, u64) = (16, 2048);

/// The address of a scheduler, as HOST:PORT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheduler(String);

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Scheduler {
    /// Reads `HOST:PORT` or `df://HOST:PORT`.
    ///
    /// # Errors
    /// In words: what it is not.
    pub fn parse(name: &str) -> Result<Scheduler, String> {
        let address = name.strip_prefix("df://").unwrap_or(name);
        let wrong = || format!("{name:?} is no address of a scheduler; HOST:PORT is, such as localhost:50050");
        let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
        let of_host = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
        if host.is_empty() || !host.chars().all(of_host) || port.parse::<u16>().is_err() {
            return Err(wrong());
        }
        Ok(Scheduler(address.to_string()))
    }

    fn url(&self) -> String {
        format!("http://{}", self.0)
    }

    fn error(&self, problem: impl fmt::Display) -> Error {
        Error::file(&self.0, problem.to_string())
    }

    /// Asks the scheduler for its version.
    pub async fn probe(&self) -> Result<(), Error> {
        let start = "is a scheduler running there? cargo install ballista-scheduler --version 55.0.0 has it";
        let connected = timeout(ANSWER, SchedulerGrpcClient::connect(self.url())).await;
        let mut client = match connected {
            Err(_) => return Err(self.error(format!("no answer in {} s; {start}", ANSWER.as_secs()))),
            Ok(Err(error)) => return Err(self.error(format!("no connection ({}); {start}", causes(&error)))),
            Ok(Ok(client)) => client,
        };
        // Any call has the version in the answer's headers; a job of this name is not there.
        let call = client.get_job_status(GetJobStatusParams { job_id: "none".to_string() });
        let headers = match timeout(ANSWER, call).await {
            Err(_) => return Err(self.error(format!("no answer in {} s; {start}", ANSWER.as_secs()))),
            Ok(Err(status)) => status.metadata().clone(),
            Ok(Ok(answer)) => answer.metadata().clone(),
        };
        let server = headers.get("server").and_then(|value| value.to_str().ok());
        let Some(version) = server.and_then(|server| server.strip_prefix("ballista/")) else {
            return Err(self.error(format!("this is no scheduler of Ballista {BALLISTA_VERSION}; {start}")));
        };
        check_compatibility(Some(BALLISTA_VERSION), Some(version)).map_err(|problem| {
            self.error(format!("{}; cargo install ballista-scheduler --version 55.0.0", super::one_line(&problem)))
        })
    }

    /// A context whose plans go to the scheduler.
    pub fn context(&self, rows: u64) -> Result<SessionContext, DataFusionError> {
        let partitions = (rows / PARTITION_ROWS).clamp(PARTITIONS.0, PARTITIONS.1) as usize;
        let config = SessionConfig::new_with_ballista()
            .with_target_partitions(partitions)
            // There is no join to be chosen, and Ballista 55's adaptive planner adds stages without end where an input turns out empty.
            .with_ballista_adaptive_query_planner(false)
            .with_ballista_job_name("farthing data: pairs");
        let state = SessionStateBuilder::new().with_config(config).with_default_features().build();
        Ok(SessionContext::new_with_state(state.upgrade_for_ballista(self.url())?))
    }

    /// A job that failed.
    pub fn failure(&self, directory: &Path, said: &str) -> Error {
        self.error(format!(
            "the job failed: {said}; scheduler and executors have to see {} under the same path, and their logs say more. The same command starts the \
             job again",
            directory.display()
        ))
    }

    /// Cancels the job of a plan, if there is one. What cannot be told any more ends by itself.
    pub async fn cancel(&self, plan: &Arc<dyn ExecutionPlan>) {
        let job = plan.downcast_ref::<DistributedQueryExec<LogicalPlanNode>>().and_then(DistributedQueryExec::job_id);
        let Some(job) = job else { return };
        let cancel = async {
            let mut client = SchedulerGrpcClient::connect(self.url()).await.ok()?;
            client.cancel_job(CancelJobParams { job_id: job.into() }).await.ok()
        };
        let _ = timeout(ANSWER, cancel).await;
    }
}

/// An error with what caused it, which transports keep apart.
fn causes(error: &dyn std::error::Error) -> String {
    let each = std::iter::successors(Some(error), |error| error.source());
    each.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for name in ["localhost:50050", "df://10.0.0.1:1", "[::1]:50050", "node-1.example.org:65535"] {
            assert_eq!(Scheduler::parse(name).unwrap().to_string(), name.trim_start_matches("df://"));
        }
        for name in [
            "",
            "localhost",
            "localhost:",
            ":50050",
            "localhost:70000",
            "http://localhost:50050",
            "user@host:1",
            "a b:1",
        ] {
            assert!(Scheduler::parse(name).unwrap_err().contains("HOST:PORT"), "{name}");
        }
    }
}
