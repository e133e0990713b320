//! The binary as a person or a script uses it, with the bundled model.

mod evaluating;
mod ledger;
mod mistakes;
mod price;
mod publish;
mod quantize;
mod running;
#[path = "../started/mod.rs"]
mod started;
mod stopping;
#[path = "../../../model/tests/twins/mod.rs"]
mod twins;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn bundled() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/seed-5.7m")
}

fn reference(name: &str) -> PathBuf {
    twins::reference(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/data"), name)
}

/// A directory of this test's own, removed with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("farthing-test-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    /// A copy of the bundled model that may be spoilt.
    fn model(&self) -> PathBuf {
        for entry in std::fs::read_dir(bundled()).unwrap() {
            let from = entry.unwrap().path();
            std::fs::copy(&from, self.0.join(from.file_name().unwrap())).unwrap();
        }
        self.0.clone()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn run_with(args: &[&str], stdin: impl AsRef<[u8]>) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_farthing"))
        .args(args)
        .env("XDG_CACHE_HOME", &*started::STATE)
        .env("XDG_STATE_HOME", &*started::STATE)
        .env_remove("FARTHING_ISA")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read its input may have gone already.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_ref());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn succeed(args: &[&str], stdin: &str) -> String {
    let output = run_with(args, stdin);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// The one line of a failure.
fn fail(args: &[&str]) -> String {
    fails_with(1, args)
}

/// The one line of a failure with an exit code.
fn fails_with(code: i32, args: &[&str]) -> String {
    let output = run_with(args, "");
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output.stderr));
    assert!(output.stdout.is_empty());
    let stderr = text(&output.stderr);
    let line = stderr.lines().last().unwrap().to_string();
    assert!(line.starts_with("farthing: ") || line.starts_with('{'), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    line
}
