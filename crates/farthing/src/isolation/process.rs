//! Processes of our own with bounded memory and time, for work that cannot be trusted to end or to stay small.
//!
//! The program starts itself with a word that `isolate` knows and exchanges frames of JSON with it over pipes. A process that passes its bounds,
//! or whose client leaves, is ended; there is no other place where its work is done.

use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, setrlimit};
use serde_json::Value;
use thiserror::Error;

/// Address space of a process.
const MEMORY_BYTES_MAX: u64 = 1 << 30;
/// Longest message between the processes.
const FRAME_BYTES_MAX: usize = 256 << 20;
/// How often one who waits looks whether the client is still there.
const LOOK: Duration = Duration::from_millis(20);
/// Most of a process's stderr that is read.
const STDERR_BYTES_MAX: u64 = 4 << 10;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum Stopped {
    /// No process.
    #[error("its process cannot be started: {0}")]
    Start(io::Error),
    /// All processes were busy for too long.
    #[error("{0} others are worked on, none ended within {1} s; try again")]
    Busy(usize, u64),
    /// Out of time.
    #[error("it did not end within {0} s and was stopped")]
    Time(u64),
    /// Out of memory.
    #[error("it needs more than {} MiB of memory and was stopped", MEMORY_BYTES_MAX >> 20)]
    Memory,
    /// Nobody waits for the answer.
    #[error("its client left")]
    Left,
    /// The process ended for another reason.
    #[error("its process ended: {0}")]
    Ended(String),
}

impl Stopped {
    /// Whether this is the fault of what was asked, not of the machine.
    pub fn by_request(&self) -> bool {
        matches!(self, Stopped::Time(_) | Stopped::Memory)
    }
}

fn write_frame(to: &mut impl Write, value: &Value) -> io::Result<()> {
    let bytes = value.to_string().into_bytes();
    let length = u32::try_from(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(&bytes)?;
    to.flush()
}

fn read_frame(from: &mut impl Read) -> io::Result<Value> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = Vec::new();
    from.take(length as u64).read_to_end(&mut bytes)?;
    serde_json::from_slice(&bytes).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The process's side: bounds on itself, then the frames that come. It ends with its input, whatever it works on.
///
/// # Errors
/// Bounds that the system does not take.
pub fn enter() -> io::Result<Receiver<Value>> {
    let both = |bytes| Rlimit { current: Some(bytes), maximum: Some(bytes) };
    setrlimit(Resource::As, both(MEMORY_BYTES_MAX))?;
    setrlimit(Resource::Core, both(0))?;
    // Those who are served go first.
    let _ = rustix::process::nice(10);
    let (sender, frames) = channel();
    std::thread::spawn(move || {
        let mut input = io::stdin().lock();
        while let Ok(frame) = read_frame(&mut input) {
            if sender.send(frame).is_err() {
                break;
            }
        }
        std::process::exit(0);
    });
    Ok(frames)
}

/// Answer a frame.
///
/// # Errors
/// Nobody reads it.
pub fn answer(value: &Value) -> io::Result<()> {
    write_frame(&mut io::stdout().lock(), value)
}

/// A process; ended when it is dropped.
struct Process {
    child: Child,
    stderr: Option<ChildStderr>,
    frames: Sender<Value>,
    answers: Receiver<io::Result<Value>>,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// This program, even where its file was replaced meanwhile.
fn program() -> io::Result<PathBuf> {
    let running = PathBuf::from("/proc/self/exe");
    if running.exists() { Ok(running) } else { std::env::current_exe() }
}

impl Process {
    fn start(command: &str, first: Option<&Value>) -> io::Result<Process> {
        let mut program = Command::new(program()?);
        program.arg(command).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Ctrl-c in a terminal is for the conversation, not for this process.
        program.process_group(0);
        let mut child = program.spawn()?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(mut input), Some(mut output)) = (stdin, stdout) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let (frames, waiting) = channel::<Value>();
        std::thread::spawn(move || waiting.iter().all(|frame| write_frame(&mut input, &frame).is_ok()));
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            loop {
                let answer = read_frame(&mut output);
                let ended = answer.is_err();
                if sender.send(answer).is_err() || ended {
                    return;
                }
            }
        });
        if let Some(first) = first {
            let _ = frames.send(first.clone());
        }
        Ok(Process { child, stderr, frames, answers })
    }

    fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    fn ask(&mut self, request: Value, time: Duration, left: &dyn Fn() -> bool) -> Result<Value, Stopped> {
        let _ = self.frames.send(request);
        let started = Instant::now();
        loop {
            match self.answers.recv_timeout(LOOK) {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => return Err(self.cause()),
                Err(RecvTimeoutError::Timeout) if left() => return Err(Stopped::Left),
                Err(RecvTimeoutError::Timeout) if started.elapsed() > time => {
                    return Err(Stopped::Time(time.as_secs()));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Why it ended. It closed its output, so it has ended or is about to.
    fn cause(&mut self) -> Stopped {
        let started = Instant::now();
        while self.runs() && started.elapsed() < Duration::from_secs(1) {
            std::thread::sleep(LOOK);
        }
        let _ = self.child.kill();
        let Ok(status) = self.child.wait() else { return Stopped::Ended("for an unknown reason".to_string()) };
        let mut said = Vec::new();
        if let Some(stderr) = self.stderr.take() {
            let _ = stderr.take(STDERR_BYTES_MAX).read_to_end(&mut said);
        }
        why(status, &String::from_utf8_lossy(&said))
    }
}

/// The cause of an end, from the status and what was said last.
fn why(status: ExitStatus, said: &str) -> Stopped {
    // Rust's words, and those of a thread's stack or of a mapping.
    let memory = ["memory allocation of", "Cannot allocate memory", "failed to allocate"];
    if memory.iter().any(|words| said.contains(words)) {
        return Stopped::Memory;
    }
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let said =
        if last.is_empty() { String::new() } else { format!(" ({})", last.chars().take(200).collect::<String>()) };
    match (status.signal(), status.code()) {
        (Some(9), _) => Stopped::Ended(format!("killed (signal 9) by another, perhaps for want of memory{said}")),
        (Some(signal), _) => Stopped::Ended(format!("signal {signal}{said}")),
        (_, code) => Stopped::Ended(format!("exit status {}{said}", code.unwrap_or_default())),
    }
}

/// Processes for one kind of work: a few at once, one kept for the next time.
pub struct Pool {
    command: &'static str,
    first: Option<Value>,
    most: usize,
    time: Duration,
    state: Mutex<State>,
    free: Condvar,
}

#[derive(Default)]
struct State {
    busy: usize,
    idle: Vec<Process>,
}

/// A place for one process, given back when it is dropped.
struct Place<'a>(&'a Pool);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.lock().busy -= 1;
        self.0.free.notify_one();
    }
}

impl Pool {
    /// At most `most` processes for this word, each told `first`, with this time for an answer.
    pub fn new(command: &'static str, first: Option<Value>, most: usize, time: Duration) -> Pool {
        Pool { command, first, most, time, state: Mutex::default(), free: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Start a process before it is needed.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn warm(&self) -> Result<(), Stopped> {
        let process = Process::start(self.command, self.first.as_ref()).map_err(Stopped::Start)?;
        self.lock().idle.push(process);
        Ok(())
    }

    fn place(&self, left: &dyn Fn() -> bool) -> Result<Place<'_>, Stopped> {
        let started = Instant::now();
        let mut state = self.lock();
        while state.busy >= self.most {
            if left() {
                return Err(Stopped::Left);
            }
            if started.elapsed() > 6 * self.time {
                return Err(Stopped::Busy(self.most, 6 * self.time.as_secs()));
            }
            state = self.free.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.busy += 1;
        Ok(Place(self))
    }

    /// Ask a process. It is ended where no answer comes in time, and once `left` returns true.
    ///
    /// # Errors
    /// No answer, and why.
    pub fn ask(&self, request: Value, left: &dyn Fn() -> bool) -> Result<Value, Stopped> {
        let _place = self.place(left)?;
        let kept = self.lock().idle.pop();
        // It may have been ended since it was last asked.
        let mut process = match kept.and_then(|mut kept| kept.runs().then_some(kept)) {
            Some(process) => process,
            None => Process::start(self.command, self.first.as_ref()).map_err(Stopped::Start)?,
        };
        let answer = process.ask(request, self.time, left)?;
        let mut state = self.lock();
        if state.idle.is_empty() {
            state.idle.push(process);
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_of_an_end_is_told_as_it_is() {
        let said = |raw, words: &str| why(ExitStatus::from_raw(raw), words).to_string();
        assert_eq!(
            said(6, "memory allocation of 17 bytes failed"),
            "it needs more than 1024 MiB of memory and was stopped"
        );
        assert!(said(9, "").starts_with("its process ended: killed (signal 9)"));
        assert_eq!(
            said(6, "\nthread 'main' has overflowed its stack\n"),
            "its process ended: signal 6 (thread 'main' has overflowed its stack)"
        );
        assert_eq!(said(1 << 8, "farthing: no\n"), "its process ended: exit status 1 (farthing: no)");
    }

    #[test]
    fn who_left_waits_for_no_place() {
        let pool = Pool::new("none", None, 0, Duration::from_secs(9));
        assert!(matches!(pool.ask(Value::Null, &|| true), Err(Stopped::Left)));
        let pool = Pool::new("none", None, 0, Duration::ZERO);
        assert!(matches!(pool.ask(Value::Null, &|| false), Err(Stopped::Busy(0, 0))));
    }
}
