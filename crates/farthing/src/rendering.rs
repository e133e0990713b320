//! Chat templates of models that nobody vouches for, rendered in a process of their own.
//!
//! A template is a program that came with a model. It cannot reach anything but its inputs, but it can compute without end and
//! build lists without bound. In its own process it has a bounded memory and a bounded time; when it passes them it is ended, and
//! the caller gets an error.

use std::io::{self, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use serve::Render;
use text::TextError;
use text::chat::{Context, Template};

use crate::Outcome;

/// Name of the hidden subcommand that the process runs.
pub const COMMAND: &str = "render-template";
/// Memory of the process.
const MEMORY_BYTES_MAX: u64 = 1 << 30;
/// Time for one render.
const TIME_MAX: Duration = Duration::from_secs(10);
/// Longest message between the processes.
const FRAME_BYTES_MAX: usize = 256 << 20;

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

/// The process's side: a template, then requests until its input ends.
pub fn run() -> Outcome {
    let limit = rustix::process::Rlimit { current: Some(MEMORY_BYTES_MAX), maximum: Some(MEMORY_BYTES_MAX) };
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(rustix::process::Resource::As, limit);
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let Ok(source) = read_frame(&mut input) else { return Ok(()) };
    let template = Template::new(source.as_str().unwrap_or_default());
    while let Ok(mut request) = read_frame(&mut input) {
        let rendered = template.as_ref().map_err(ToString::to_string).and_then(|template| {
            let messages = request["messages"].take();
            let context: Context = serde_json::from_value(request["context"].take()).map_err(|e| e.to_string())?;
            let messages = messages.as_array().map(Vec::as_slice).unwrap_or_default();
            template.render(messages, &context).map_err(|e| e.to_string())
        });
        let answer = match rendered {
            Ok(text) => json!({ "text": text }),
            Err(message) => json!({ "error": message }),
        };
        if write_frame(&mut output, &answer).is_err() {
            break;
        }
    }
    Ok(())
}

struct Worker {
    child: Child,
    input: ChildStdin,
    answers: Receiver<io::Result<Value>>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A template in a process of its own, which is started when it is needed and again when it was ended.
pub struct Apart {
    source: String,
    worker: Mutex<Option<Worker>>,
}

impl Apart {
    /// A template; refused at once when it is none.
    ///
    /// # Errors
    /// A template that does not compile.
    pub fn new(source: &str) -> Result<Apart, TextError> {
        Template::new(source)?;
        Ok(Apart { source: source.to_string(), worker: Mutex::new(None) })
    }

    fn start(&self) -> io::Result<Worker> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(COMMAND).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        // Ctrl-c in a terminal is for the conversation, not for this process.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn()?;
        let (Some(mut input), Some(mut output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
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
        write_frame(&mut input, &Value::from(self.source.as_str()))?;
        Ok(Worker { child, input, answers })
    }
}

impl Render for Apart {
    fn source(&self) -> &str {
        &self.source
    }

    fn render(&self, messages: &[Value], context: &Context) -> Result<String, TextError> {
        let mut slot = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have been ended since it was last asked (by the system, say): one more try with a fresh one.
        for _ in 0..2 {
            let mut worker = match slot.take().map_or_else(|| self.start(), Ok) {
                Ok(worker) => worker,
                // Where no process can be started the template runs here, bounded by its count of steps.
                Err(_) => return Template::new(&self.source)?.render(messages, context),
            };
            let request = json!({"messages": messages, "context": context});
            if write_frame(&mut worker.input, &request).is_err() {
                continue;
            }
            let answer = match worker.answers.recv_timeout(TIME_MAX) {
                Ok(Ok(answer)) => answer,
                Err(RecvTimeoutError::Timeout) => {
                    let seconds = TIME_MAX.as_secs();
                    return Err(TextError::Template(format!("it did not end within {seconds} s and was stopped")));
                }
                Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => {
                    let most = MEMORY_BYTES_MAX >> 20;
                    return Err(TextError::Template(format!("it took more than {most} MiB of memory and was stopped")));
                }
            };
            *slot = Some(worker);
            return match (answer["text"].as_str(), answer["error"].as_str()) {
                (Some(text), _) => Ok(text.to_string()),
                (_, error) => {
                    let error = error.unwrap_or_default();
                    Err(TextError::Template(error.strip_prefix("chat template: ").unwrap_or(error).to_string()))
                }
            };
        }
        Err(TextError::Template("its process ends as soon as it is started".to_string()))
    }
}
