//! Ranks that MPI's launcher has started: one communicator of all, by the safe interface of rsmpi.

use mpi::Threading;
use mpi::collective::SystemOperation;
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator as _, CommunicatorCollectives, Root};

use crate::error::Error;
use crate::ranks::Communicator;

/// All ranks of this run of MPI. Its end is that of MPI in this process.
pub struct Mpi {
    world: SimpleCommunicator,
    local_size: usize,
    _universe: Universe,
}

impl Mpi {
    /// Once in a process, in the thread that trains. A program that no launcher has started is the only rank.
    ///
    /// # Errors
    /// A library that allows no other threads in the process.
    pub fn start() -> Result<Mpi, Error> {
        let started = mpi::initialize_with_threading(Threading::Funneled);
        let Some((universe, Threading::Funneled | Threading::Serialized | Threading::Multiple)) = started else {
            let library = mpi::environment::library_version().unwrap_or_default();
            return Err(Error::Mpi { library });
        };
        let world = universe.world();
        let local_size = world.split_shared(world.rank()).size() as usize;
        Ok(Mpi { world, local_size, _universe: universe })
    }
}

impl Drop for Mpi {
    /// The others would wait for this rank without end.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.world.abort(1);
        }
    }
}

impl Communicator for Mpi {
    fn rank(&self) -> usize {
        self.world.rank() as usize
    }

    fn size(&self) -> usize {
        self.world.size() as usize
    }

    fn local_size(&self) -> usize {
        self.local_size
    }

    fn sum_f32(&self, numbers: &mut [f32]) {
        let own = numbers.to_vec();
        self.world.all_reduce_into(&own[..], numbers, SystemOperation::sum());
    }

    fn sum_f64(&self, numbers: &mut [f64]) {
        let own = numbers.to_vec();
        self.world.all_reduce_into(&own[..], numbers, SystemOperation::sum());
    }

    fn broadcast(&self, root: usize, bytes: &mut [u8]) {
        self.world.process_at_rank(root as i32).broadcast_into(bytes);
    }
}
