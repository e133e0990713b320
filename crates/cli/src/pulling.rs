//! From a name to files on this machine: paths, pulled models by name or short name, and what has to be fetched first.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use hub::{Cache, Hub, HubError, Listing, Name, Progress, Selection, Settings};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use model::Checkpoint;

use crate::loading::{self, Load};
use crate::terminal::{self, bytes, several};
use crate::{Failure, Outcome};

/// What a person meant by MODEL.
pub enum Resolved {
    /// Files on this machine.
    Here(PathBuf),
    /// A name at the hub whose files are not all here.
    Hub(Name),
}

/// What MODEL means: a path, a pulled model by its name or the last part of it, else a name at the hub.
pub fn resolve(text: &str) -> Result<Resolved, Failure> {
    if text.is_empty() {
        return Err(Failure::usage("MODEL is empty; give a file, a directory or a name such as org/name"));
    }
    let path = Path::new(text);
    if path.exists() {
        return Ok(Resolved::Here(path.to_path_buf()));
    }
    let written_as_path = text.starts_with(['/', '.', '~']) || text.ends_with(".safetensors");
    if written_as_path || (text.ends_with(".gguf") && !text.contains(':')) {
        let source = std::fs::metadata(path).err().map_or_else(|| "no such file".to_string(), |e| e.to_string());
        return Err(Failure(format!("{text}: {source}; MODEL is a file, a directory or a name such as org/name")));
    }
    let cache = Cache::new(Settings::from_env()?.cache);
    if text.contains('/') {
        let name = Name::parse(text)?;
        return Ok(cache.find(&name)?.map_or(Resolved::Hub(name), Resolved::Here));
    }
    let name = short_name(&cache, text)?.ok_or_else(|| {
        Failure(format!(
            "{text}: no such file, and no pulled model of that name; `farthing list` shows what is there, `farthing pull org/name` fetches"
        ))
    })?;
    Ok(cache.find(&name)?.map_or(Resolved::Hub(name), Resolved::Here))
}

/// The pulled model whose name ends in `text` (with its revision or file), if there is one.
pub fn short_name(cache: &Cache, text: &str) -> Result<Option<Name>, Failure> {
    let (short, rest) = text.split_at(text.find(['@', ':']).unwrap_or(text.len()));
    match &cache.by_short_name(short)?[..] {
        [] => Ok(None),
        [one] => Ok(Some(Name::parse(&format!("{}{rest}", one.repository))?)),
        several => {
            let names: Vec<&str> = several.iter().map(|n| n.repository.as_str()).collect();
            Err(Failure(format!("{text} is the name of several pulled models: write one of {}", names.join(", "))))
        }
    }
}

/// Files of MODEL, fetched first where they are not here.
pub fn find(text: &str, load: &Load) -> Result<PathBuf, Failure> {
    match resolve(text)? {
        Resolved::Here(path) => Ok(path),
        Resolved::Hub(name) => fetch(&name, load, false).map_err(|e| neither(text, e)),
    }
}

/// A name that is not at the hub may have been meant as a path.
fn neither(text: &str, Failure(message): Failure) -> Failure {
    let plain = !text.contains([':', '@']) && !message.starts_with(terminal::STOPPED);
    Failure(if plain { format!("{text} is no file here; as a name at the hub: {message}") } else { message })
}

/// As `find`, but only the headers of what is not here. The directory holds them while it lives.
pub fn find_headers(text: &str) -> Result<(PathBuf, Option<Remote>), Failure> {
    match resolve(text)? {
        Resolved::Here(path) => Ok((path, None)),
        Resolved::Hub(name) => {
            let remote = Remote::look(&name).map_err(|e| neither(text, e))?;
            Ok((remote.path.clone(), Some(remote)))
        }
    }
}

/// A model at the hub, with its headers here.
pub struct Remote {
    /// Its name.
    pub name: Name,
    /// What it would take to fetch.
    pub selection: Selection,
    listing: Listing,
    hub: Hub,
    /// A stand-in that the loader opens: headers only.
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Remote {
    /// Ask the hub, and fetch configuration and headers.
    pub fn look(name: &Name) -> Result<Remote, Failure> {
        let hub = Hub::new(Settings::from_env()?)?;
        let listing = hub.listing(name)?;
        let selection = hub::choose(&listing, name)?;
        let directory = tempfile::Builder::new().prefix("farthing-headers-").tempdir()?;
        let path = hub.preview(name, &listing, &selection, directory.path())?;
        Ok(Remote { name: name.clone(), selection, listing, hub, path, _directory: directory })
    }

    /// The largest other model of this repository whose files are at most `most` bytes, for advice.
    fn smaller(&self, most: u64) -> Option<(String, u64)> {
        let mut sums: BTreeMap<String, u64> = BTreeMap::new();
        for file in self.listing.files.iter().filter(|f| f.path.ends_with(".gguf")) {
            // Parts of a split count together, under the name of the first.
            let whole = file
                .path
                .rsplit_once("-of-")
                .and_then(|(front, back)| Some(format!("{}-00001-of-{back}", front.rsplit_once('-')?.0)));
            *sums.entry(whole.unwrap_or_else(|| file.path.clone())).or_default() += file.size;
        }
        sums.into_iter().filter(|(_, size)| *size <= most).max_by_key(|(_, size)| *size)
    }

    /// Refuse a model that would not load, or not run here, with what would.
    fn admit(&self, load: &Load) -> Outcome {
        let checkpoint = Checkpoint::open(&self.path)?;
        checkpoint.complete().map_err(|e| {
            Failure(format!(
                "{}: not fetched, it would not load: {e}; `farthing pull --anyway` fetches it all the same",
                self.name
            ))
        })?;
        let quiet = Load { quiet: true, ..load.clone() };
        let Err(Failure(why)) = loading::plan(&checkpoint, &quiet) else { return Ok(()) };
        let (plan, _) = loading::planned(&checkpoint, &quiet)?;
        // Where only the context is too long, `why` says which one fits.
        let room = plan.largest_weights().filter(|_| plan.longest_context == 0);
        let why = match room.map(|room| (room, self.smaller(room))) {
            None => why,
            Some((_, Some((file, size)))) => {
                format!("{why}; {}:{file} ({}) would fit", self.name.repository, bytes(size))
            }
            Some((room, None)) => {
                format!("{why}; of this repository nothing fits: look for GGUF files of at most {}", bytes(room))
            }
        };
        Err(Failure(format!(
            "{}: not fetched, it would not run here: {why}; `farthing pull --anyway` fetches it all the same",
            self.name
        )))
    }
}

/// Fetch a model, after saying what it will take.
pub fn fetch(name: &Name, load: &Load, anyway: bool) -> Result<PathBuf, Failure> {
    terminal::catch_interrupts();
    let remote = Remote::look(name)?;
    if !anyway {
        remote.admit(load)?;
    }
    let selection = &remote.selection;
    if !load.quiet {
        let cache = remote.hub.settings().cache.display();
        let files = selection.files.len();
        crate::terminal::note(&format!(
            "fetching {name}: {} in {} to {cache}",
            bytes(selection.bytes),
            several(files, "file")
        ));
    }
    let bars = Bars::new(selection.bytes, load.quiet);
    let outcome = remote.hub.pull(name, &remote.listing, selection, &bars);
    bars.clear();
    match outcome {
        Ok(path) => Ok(path),
        Err(HubError::Cancelled) => {
            let text = format!("{name}: stopped; `farthing pull {name}` goes on from here");
            Err(Failure(terminal::STOPPED.to_string() + &text))
        }
        Err(e) => Err(e.into()),
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
        let target = if quiet || crate::terminal::is_json_only() {
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
            self.all.suspend(|| crate::terminal::note(&format!("({text})")));
        }
    }

    fn finished(&self, path: &str) {
        self.with(path, ProgressBar::finish_and_clear);
    }

    fn cancelled(&self) -> bool {
        terminal::interrupt_pending()
    }
}
