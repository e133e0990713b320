//! Models by path or name: fetched first where they are not here, with bars.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;

use farthing::names::{self, Remote, Resolved, path_or_name, resolve};
use farthing::{Error, LoadOptions};
use hub::{Cache, Name, Progress, Settings};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::terminal::{self, bytes, several};

/// Say which model a name of the table of known ones stands for.
pub fn tell_known(text: &str, quiet: bool) {
    if let Some(known) = farthing::names::stands_for(text).filter(|_| !quiet) {
        terminal::note(&format!("{text} is {known}"));
    }
}

/// Files of MODEL, fetched first where they are not here.
pub fn find(text: &str, options: &LoadOptions, quiet: bool) -> Result<PathBuf, Error> {
    tell_known(text, quiet);
    match resolve(text)? {
        Resolved::Here(path) => Ok(path),
        Resolved::Hub(name) => fetch(&name, options, quiet, false).map_err(|e| path_or_name(text, e)),
    }
}

/// Files of MODEL, or of one at the hub only the headers, in a directory that goes with `Remote`: ctrl-c waits until it has gone.
pub fn find_headers(text: &str, quiet: bool) -> Result<(PathBuf, Option<Remote>), Error> {
    if matches!(resolve(text)?, Resolved::Hub(_)) {
        terminal::catch_interrupts();
    }
    names::find_headers(text, &Headers { quiet })
}

/// Fetch a model, after saying what it will take.
pub fn fetch(name: &Name, options: &LoadOptions, quiet: bool, anyway: bool) -> Result<PathBuf, Error> {
    terminal::catch_interrupts();
    let remote = Remote::look(name, &Headers { quiet })?;
    if !anyway {
        remote.admit(options)?;
    }
    let selection = &remote.selection;
    if !quiet {
        terminal::note(&format!(
            "downloading {name}: {} in {} to {}",
            bytes(selection.bytes),
            several(selection.files.len(), "file"),
            remote.cache().display()
        ));
    }
    let bars = Bars::new(selection.bytes, quiet);
    let outcome = remote.pull(&bars);
    bars.clear();
    outcome
}

/// Names of the models that are pulled.
pub fn pulled() -> Vec<String> {
    let cache = Settings::from_env().ok().map(|settings| Cache::new(settings.cache));
    let listed = cache.and_then(|cache| cache.list().ok()).unwrap_or_default();
    listed.iter().filter(|pulled| pulled.complete).map(|pulled| pulled.name.to_string()).collect()
}

/// Headers are being fetched: too small for bars.
struct Headers {
    /// Say nothing of retries.
    quiet: bool,
}

impl Progress for Headers {
    fn file(&self, _: &str, _: u64, _: u64) {}

    fn advance(&self, _: &str, _: u64) {}

    fn note(&self, text: &str) {
        if !self.quiet {
            terminal::note(&format!("({text})"));
        }
    }

    fn finished(&self, _: &str) {}

    fn cancelled(&self) -> bool {
        terminal::interrupt_pending()
    }
}

/// A bar for each file that is being fetched, and one for all.
struct Bars {
    all: MultiProgress,
    total: ProgressBar,
    files: Mutex<BTreeMap<String, ProgressBar>>,
    quiet: bool,
}

impl Bars {
    fn new(size: u64, quiet: bool) -> Bars {
        let target = if quiet || terminal::is_json_only() {
            indicatif::ProgressDrawTarget::hidden()
        } else {
            indicatif::ProgressDrawTarget::stderr()
        };
        let all = MultiProgress::with_draw_target(target);
        let style = "{bar:24} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}, {eta} left";
        let total = ProgressBar::new(size).with_style(ProgressStyle::with_template(style).expect("a sound template"));
        let total = all.add(total);
        Bars { all, total, files: Mutex::default(), quiet }
    }

    fn with(&self, path: &str, f: impl FnOnce(&ProgressBar)) {
        if let Some(bar) = self.files.lock().unwrap_or_else(|e| e.into_inner()).get(path) {
            f(bar);
        }
    }

    fn clear(&self) {
        self.total.finish_and_clear();
        let _ = self.all.clear();
    }
}

impl Progress for Bars {
    fn file(&self, path: &str, size: u64, there: u64) {
        let mut files = self.files.lock().unwrap_or_else(|e| e.into_inner());
        let bar = files.entry(path.to_string()).or_insert_with(|| {
            let style = ProgressStyle::with_template("{bar:24} {percent:>3} % {wide_msg}").expect("a sound template");
            self.all.insert_before(&self.total, ProgressBar::new(size).with_style(style).with_message(path.to_string()))
        });
        // A file that starts over takes back what it had brought.
        self.total.set_position((self.total.position() + there).saturating_sub(bar.position()));
        bar.set_position(there);
    }

    fn advance(&self, path: &str, bytes: u64) {
        self.with(path, |bar| bar.inc(bytes));
        self.total.inc(bytes);
    }

    fn note(&self, text: &str) {
        if !self.quiet {
            self.all.suspend(|| terminal::note(&format!("({text})")));
        }
    }

    fn finished(&self, path: &str) {
        self.with(path, ProgressBar::finish_and_clear);
    }

    fn cancelled(&self) -> bool {
        terminal::interrupt_pending()
    }
}
