//! Chat templates: compiling one, and rendering it with little fuel. Rendering is done in a process of its own, as in the server: nested values can
//! exhaust that process's stack or memory, and nothing else there is well.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use text::chat::{Context, Message, Role, Template};

const FUEL: u64 = 20_000;
/// The argument of the process that renders.
pub const RENDER: &str = "--render";
/// What Rust says before it ends a process that has exhausted its stack or its memory.
const EXHAUSTED: [&str; 2] = ["has overflowed its stack", "memory allocation of"];

/// Runs the target on one input.
pub fn run(data: &[u8]) {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let Ok(template) = Template::with_fuel(source, FUEL) else { return };
    // libFuzzer's binary cannot start itself as anything else.
    if cfg!(feature = "libfuzzer") { render(&template) } else { render_apart(source) }
}

fn render(template: &Template) {
    let messages = [(Role::System, "Be brief."), (Role::User, "a \u{e9} b"), (Role::Assistant, "c")]
        .map(|(role, content)| Message::new(role, content).into_json(false));
    let context = Context {
        add_generation_prompt: true,
        bos_token: "<s>".to_string(),
        eos_token: "</s>".to_string(),
        tools: None,
        extra: serde_json::Map::new(),
    };
    let _ = template.render(&messages, &context);
}

/// Renders a template in another process, which stays for the next one.
fn render_apart(source: &str) {
    static RENDERER: Mutex<Option<Child>> = Mutex::new(None);
    let mut renderer = RENDERER.lock().unwrap_or_else(PoisonError::into_inner);
    let child = renderer.get_or_insert_with(|| {
        let mut program = Command::new(std::env::current_exe().expect("this binary"));
        program.arg(RENDER).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        program.spawn().expect("a process")
    });
    let (input, output) = (child.stdin.as_mut().expect("a pipe"), child.stdout.as_mut().expect("a pipe"));
    let request = [&(source.len() as u64).to_le_bytes(), source.as_bytes()].concat();
    if input.write_all(&request).and_then(|()| output.read_exact(&mut [0])).is_ok() {
        return;
    }
    let ended = renderer.take().expect("the process").wait_with_output().expect("its end");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(EXHAUSTED.iter().any(|words| said.contains(words)), "rendering ended with {}: {said}", ended.status);
}

/// The process's side: a byte for each template that was rendered, until the input ends.
#[allow(dead_code, reason = "libFuzzer's binary has no such process")]
pub fn serve() {
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let (mut input, mut length) = (std::io::stdin().lock(), [0; 8]);
    while input.read_exact(&mut length).is_ok() {
        let mut source = vec![0; u64::from_le_bytes(length) as usize];
        input.read_exact(&mut source).expect("a whole template");
        let source = String::from_utf8(source).expect("a text");
        render(&Template::with_fuel(&source, FUEL).expect("a template"));
        let mut output = std::io::stdout().lock();
        output.write_all(&[0]).and_then(|()| output.flush()).expect("one who waits");
    }
}
