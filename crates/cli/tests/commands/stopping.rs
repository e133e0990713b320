//! Commands that are stopped, and those that nobody listens to.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use super::*;

/// A program with a pipe to and from it, and nothing written to it yet.
fn spawn(command: &mut Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// A text that does not end before the context is full: at this temperature hardly any token is the end.
fn long_text() -> Vec<String> {
    let model = bundled().display().to_string();
    ["generate", &model, "-p", "Once", "--temperature", "5", "--top-p", "1", "--seed", "4", "--max-tokens", "2000"]
        .map(str::to_string)
        .to_vec()
}

/// Signals that end a command. Where SIGHUP is ignored (tests under nohup), it is so for commands too.
fn ending() -> Vec<&'static str> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap_or("0");
    let is_ignored = u64::from_str_radix(ignored.trim(), 16).unwrap() & 1 == 1;
    ["-INT", "-TERM", "-HUP"].into_iter().filter(|&signal| signal != "-HUP" || !is_ignored).collect()
}

fn send(signal: &str, child: &Child) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

/// Waits until a text has begun.
fn first_bytes(child: &mut Child) {
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 4]).unwrap();
}

#[test]
fn a_text_that_was_stopped_is_not_done() {
    for signal in ending() {
        let mut child = spawn(Command::new(env!("CARGO_BIN_EXE_farthing")).args(long_text()));
        first_bytes(&mut child);
        send(signal, &child);
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{signal}: {said}");
        assert!(said.contains("ended by cancelled\nfarthing: stopped after "), "{signal}: {said}");
    }
    // Where SIGHUP was ignored at the start (nohup) the text goes on.
    let script = "trap '' HUP; exec \"$0\" \"$@\"";
    let mut child = spawn(Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_farthing")]).args(long_text()));
    first_bytes(&mut child);
    send("-HUP", &child);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("2000 tokens in "), "{said}");
}

/// How a conversation ends that waits at a pipe for its next message and gets a signal.
fn waiting_ends_by(signal: &str) -> ExitStatus {
    let mut child = spawn(Command::new(env!("CARGO_BIN_EXE_farthing")).arg("chat").arg(bundled()));
    // Held open to the end: the end of its input would end it too.
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "Hello").unwrap();
    // After the line's end it waits for the next message.
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    send(signal, &child);
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() && started.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap()
}

#[test]
fn a_conversation_that_waits_ends_by_sigterm() {
    assert_eq!(waiting_ends_by("-TERM").signal(), Some(15));
}

/// Between answers there is nothing to finish: one ctrl-c is enough.
#[test]
fn a_conversation_that_waits_at_a_pipe_ends_by_ctrl_c() {
    assert_eq!(waiting_ends_by("-INT").code(), Some(130));
}

/// Through a pipe nobody is there to go on.
#[test]
fn a_conversation_through_a_pipe_ends_with_its_answer() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_farthing"));
    let mut child =
        spawn(command.arg("chat").arg(bundled()).args(["--temperature", "5", "--top-p", "1", "--seed", "4"]));
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "Hello\nHello again").unwrap();
    first_bytes(&mut child);
    send("-INT", &child);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.ends_with("(stopped)\nfarthing: stopped in an answer\n"), "{said}");
}

/// What was begun of a file goes when the command is stopped.
#[test]
fn a_stopped_trace_leaves_no_part_of_its_file() {
    let directory = std::env::temp_dir().join(format!("farthing-stopped-trace-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let (output, part) = (directory.join("t.safetensors"), directory.join("t.safetensors.part"));
    let ids = vec!["5"; 2000].join(",");
    for signal in ending() {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farthing"));
        let mut child =
            spawn(command.arg("trace").arg(bundled()).args(["--threads", "1", "--tokens", &ids, "-o"]).arg(&output));
        while !part.exists() {
            assert!(child.try_wait().unwrap().is_none(), "{signal}: over before it was stopped");
            std::thread::sleep(Duration::from_millis(1));
        }
        // Its file is there a moment before signals are caught.
        std::thread::sleep(Duration::from_millis(50));
        send(signal, &child);
        let status = child.wait().unwrap();
        assert!(status.signal().is_some(), "{signal}: {status}");
        assert!(!part.exists() && !output.exists(), "{signal}");
    }
    std::fs::remove_dir_all(&directory).unwrap();
}

/// Nobody can be told there; that is no reason not to work.
#[cfg(target_os = "linux")]
#[test]
fn a_full_stderr_changes_nothing() {
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let model = bundled().display().to_string();
    let run = |args: &[&str]| Command::new(env!("CARGO_BIN_EXE_farthing")).args(args).stderr(full()).output().unwrap();
    let output = run(&["generate", &model, "-p", "Once", "--max-tokens", "3"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(!output.stdout.is_empty());
    assert_eq!(run(&["show", "/nowhere"]).status.code(), Some(1));
    // A server tells its plan and bounds before it takes its address, which somebody has here.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = run(&["serve", &model, "--port", &port, "--disk-cache", "off"]);
    assert_eq!(output.status.code(), Some(1));
}
