//! DataFusion in this process, within a bound of memory

use std::path::Path;
use std::sync::Arc;

use datafusion::error::DataFusionError;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};

/// What each sort keeps back for merging what it spilled, by DataFusion's default.
const MERGE_BYTES_MAX: usize = 10 << 20;

/// What a thread needs at least, for batches on their way and for merging: with less, plans were seen to fail.
const THREAD_BYTES_MIN: usize = 16 << 20;

/// A context that holds so many bytes of sorting, but at least 16 MiB a thread, and puts the rest into `spilled`.
pub fn context(threads: usize, memory_bytes: usize, spilled: &Path) -> Result<SessionContext, DataFusionError> {
    let memory_bytes = memory_bytes.max(threads * THREAD_BYTES_MIN);
    let disk = DiskManagerBuilder::default()
        .with_mode(DiskManagerMode::Directories(vec![spilled.to_path_buf()]))
        // The disk is the limit.
        .with_max_temp_directory_size(u64::MAX);
    std::fs::create_dir_all(spilled)?;
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(memory_bytes)))
        .with_disk_manager_builder(disk)
        .build_arc()?;
    let config = SessionConfig::new()
        .with_target_partitions(threads)
        .with_sort_spill_reservation_bytes(MERGE_BYTES_MAX.min(memory_bytes / threads / 4));
    Ok(SessionContext::new_with_config_rt(config, runtime))
}
