//! From a name to files on this machine: paths, pulled models by name or short name, and what has to be fetched first.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hub::{Cache, Hub, HubError, Listing, Name, Progress, Selection, Settings};
use model::Checkpoint;
use model::checkpoint::TokenizerSource;

use crate::error::Error;
use crate::known::{alike, known_id};
use crate::loading::{LoadOptions, PlannedModel};
use crate::words::bytes;

/// What a person meant by MODEL.
pub enum Resolved {
    /// Files on this machine.
    Here(PathBuf),
    /// A name at the hub whose files are not all here.
    Hub(Name),
}

/// A name as people copy it from a browser or another program: the hub's address is left out, and a file's page is that file.
pub fn as_copied(text: &str) -> Option<String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
    let rest = ["huggingface.co/", "www.huggingface.co/", "hf.co/"].iter().find_map(|host| rest.strip_prefix(host))?;
    let rest = rest.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    let parts: Vec<&str> = rest.splitn(5, '/').collect();
    Some(match parts[..] {
        [org, name, "tree", revision] => format!("{org}/{name}@{revision}"),
        [org, name, "blob" | "resolve", revision, file] if file.ends_with(".gguf") => {
            let at = if revision == "main" { String::new() } else { format!("@{revision}") };
            format!("{org}/{name}{at}:{file}")
        }
        [org, name, "blob" | "resolve", "main", _] => format!("{org}/{name}"),
        [org, name, "blob" | "resolve", revision, _] => format!("{org}/{name}@{revision}"),
        _ => rest.to_string(),
    })
}

/// A name at the hub, as people copy it, or a short one. Paths are no names: who asks over a network learns nothing of the files here.
pub(crate) fn hub_name(cache: &Cache, text: &str) -> Result<Name, Error> {
    let text = text.strip_suffix(":latest").unwrap_or(text);
    let copied = as_copied(text);
    let text = copied.as_deref().unwrap_or(text);
    if !text.contains('/') {
        if let Some(pulled) = short_name(cache, text)? {
            return Ok(pulled);
        }
        if let Some(known) = known_id(text) {
            return Ok(Name::parse(&known)?);
        }
    }
    Ok(Name::parse(text)?)
}

/// The directory of a model whose weights or configuration were named.
fn directory_of(file: &Path) -> Option<PathBuf> {
    let name = file.file_name()?.to_str()?;
    let within = name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json") || name == "config.json";
    let directory = file.parent().map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p })?;
    (within && file.is_file() && directory.join("config.json").is_file()).then(|| directory.to_path_buf())
}

/// What MODEL means: a path, a pulled model by its name or the last part of it, else a name at the hub.
pub fn resolve(text: &str) -> Result<Resolved, Error> {
    if text.is_empty() {
        return Err(Error::Argument("MODEL is empty; give a file, a directory or a name such as org/name".to_string()));
    }
    let path = Path::new(text);
    if path.exists() {
        return Ok(Resolved::Here(directory_of(path).unwrap_or_else(|| path.to_path_buf())));
    }
    let copied = as_copied(text);
    let text = copied.as_deref().unwrap_or(text);
    let written_as_path = text.starts_with(['/', '.', '~']) || text.ends_with(".safetensors");
    if written_as_path || (text.ends_with(".gguf") && !text.contains(':')) {
        let source = std::fs::metadata(path).err().map_or_else(|| "no such file".to_string(), |e| e.to_string());
        return Err(Error::NoModel(format!(
            "{text}: {source}; MODEL is a file, a directory or a name such as org/name"
        )));
    }
    let cache = Cache::new(Settings::from_env()?.cache);
    if text.contains('/') {
        let name = Name::parse(text)?;
        return Ok(cache.find(&name)?.map_or(Resolved::Hub(name), Resolved::Here));
    }
    let known = || known_id(text).map(|known| Name::parse(&known)).transpose();
    let name = match short_name(&cache, text)? {
        Some(pulled) => pulled,
        None => known()?.ok_or_else(|| Error::NoModel(nothing_of_that_name(text)))?,
    };
    Ok(cache.find(&name)?.map_or(Resolved::Hub(name), Resolved::Here))
}

/// The name at the hub that MODEL stands for, where it is a name of the table of known models, and neither a path nor a pulled model.
pub fn stands_for(text: &str) -> Option<String> {
    let known = known_id(text).filter(|_| !Path::new(text).exists())?;
    let cache = Cache::new(Settings::from_env().ok()?.cache);
    short_name(&cache, text).ok()?.is_none().then_some(known)
}

/// Why a word is no model, and what to type.
fn nothing_of_that_name(text: &str) -> String {
    let alike = alike(text);
    let meant = if alike.is_empty() { String::new() } else { format!("did you mean {}? ", alike.join(", ")) };
    format!(
        "{text}: no such file, and no pulled model of that name; {meant}`farthing models` lists names to type; others at the hub have two parts, such as Qwen/Qwen2.5-0.5B-Instruct"
    )
}

/// The pulled model whose name ends in `text` (with its revision or file), if there is one.
pub fn short_name(cache: &Cache, text: &str) -> Result<Option<Name>, Error> {
    let (short, rest) = text.split_at(text.find(['@', ':']).unwrap_or(text.len()));
    match &cache.by_short_name(short)?[..] {
        [] => Ok(None),
        [one] => Ok(Some(Name::parse(&format!("{}{rest}", one.repository))?)),
        several => {
            let names: Vec<&str> = several.iter().map(|n| n.repository.as_str()).collect();
            Err(Error::NoModel(format!(
                "{text} is the name of several pulled models: write one of {}",
                names.join(", ")
            )))
        }
    }
}

/// A MODEL that was written as a name, but may have been meant as a path: the error says both.
pub fn path_or_name(text: &str, error: Error) -> Error {
    match error {
        Error::Stopped { .. } | Error::Argument(_) => error,
        _ if text.contains([':', '@']) => error,
        _ => Error::NoModel(format!("{text} is no file here; as a name at the hub: {error}")),
    }
}

/// The files of MODEL, fetched in silence where they are not here.
///
/// # Errors
/// A name that nothing has, a model that would not run here, the network.
pub fn find(text: &str, options: &LoadOptions) -> Result<PathBuf, Error> {
    match resolve(text)? {
        Resolved::Here(path) => Ok(path),
        Resolved::Hub(name) => {
            let remote = Remote::look(&name, &Silent).map_err(|e| path_or_name(text, e))?;
            remote.admit(options)?;
            remote.pull(&Silent)
        }
    }
}

/// Nobody is told, and nobody stops it.
pub struct Silent;

impl Progress for Silent {
    fn file(&self, _: &str, _: u64, _: u64) {}
    fn advance(&self, _: &str, _: u64) {}
    fn note(&self, _: &str) {}
    fn finished(&self, _: &str) {}
    fn cancelled(&self) -> bool {
        false
    }
}

/// As `find`, but only the headers of what is not here. The directory holds them while it lives.
pub fn find_headers(text: &str, progress: &dyn Progress) -> Result<(PathBuf, Option<Remote>), Error> {
    match resolve(text)? {
        Resolved::Here(path) => Ok((path, None)),
        Resolved::Hub(name) => {
            let remote = Remote::look(&name, progress).map_err(|e| path_or_name(text, e))?;
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
    directory: tempfile::TempDir,
}

impl Remote {
    /// Ask the hub, and fetch configuration and headers.
    pub fn look(name: &Name, progress: &dyn Progress) -> Result<Remote, Error> {
        let hub = Hub::new(Settings::from_env()?)?;
        let listing = hub.listing(name, progress).map_err(|e| stopped(name, e))?;
        let selection = hub::choose(&listing, name)?;
        let directory = tempfile::Builder::new().prefix("farthing-headers-").tempdir()?;
        let path = hub.preview(name, &listing, &selection, directory.path(), progress);
        let path = path.map_err(|e| stopped(name, e))?;
        Ok(Remote { name: name.clone(), selection, listing, hub, path, directory })
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

    /// An error about the stand-in, told of the model at the hub.
    pub fn named(&self, error: Error) -> Error {
        let said = error.to_string();
        let directory = self.directory.path().display().to_string();
        if said.contains(&directory) { Error::NoModel(said.replace(&directory, &self.name.repository)) } else { error }
    }

    /// Refuses a model that would not load, or not run here, with what would.
    ///
    /// # Errors
    /// `NotFetched`.
    pub fn admit(&self, options: &LoadOptions) -> Result<(), Error> {
        let refused = |what, why| Error::NotFetched { name: self.name.to_string(), what, why };
        let checkpoint = Checkpoint::open(&self.path).map_err(|e| self.named(e.into()))?;
        checkpoint.complete().map_err(|e| refused("load", self.named(e.into()).to_string()))?;
        let planned = PlannedModel::new(checkpoint, options)?;
        // Some commands need none.
        if !matches!(planned.checkpoint.tokenizer, TokenizerSource::None) {
            planned.texts().map_err(|e| refused("load", self.named(e).to_string()))?;
        }
        // Where only the context is too long, the error says which one fits.
        let room = planned.plan.largest_weights().filter(|_| planned.plan.longest_context == 0);
        let Err(why) = planned.fitting() else { return Ok(()) };
        let why = match room.map(|room| (room, self.smaller(room))) {
            None => why.to_string(),
            Some((_, Some((file, size)))) => {
                format!("{why}; {}:{file} ({}) would fit", self.name.repository, bytes(size))
            }
            Some((room, None)) => {
                format!("{why}; of this repository nothing fits: look for GGUF files of at most {}", bytes(room))
            }
        };
        Err(refused("run here", why))
    }

    /// The cache directory that `pull` fetches to.
    pub fn cache(&self) -> &Path {
        &self.hub.settings().cache
    }

    /// Fetches the model.
    ///
    /// # Errors
    /// The network, the disk, or `progress` that says stop.
    pub fn pull(&self, progress: &dyn Progress) -> Result<PathBuf, Error> {
        let pulled = self.hub.pull(&self.name, &self.listing, &self.selection, progress);
        pulled.map_err(|e| stopped(&self.name, e))
    }
}

fn stopped(name: &Name, error: HubError) -> Error {
    match error {
        HubError::Cancelled => Error::Stopped { name: name.to_string() },
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_as_people_copy_them() {
        for (copied, name) in [
            ("https://huggingface.co/org/name", "org/name"),
            ("http://www.huggingface.co/org/name/", "org/name"),
            ("hf.co/org/name:Q4_K_M", "org/name:Q4_K_M"),
            ("huggingface.co/org/name?library=transformers#files", "org/name"),
            ("https://huggingface.co/org/name/tree/v1.0", "org/name@v1.0"),
            ("https://huggingface.co/org/name/blob/main/sub/a.Q4_0.gguf", "org/name:sub/a.Q4_0.gguf"),
            ("https://huggingface.co/org/name/resolve/abc/a.gguf?download=true", "org/name@abc:a.gguf"),
            ("https://huggingface.co/org/name/blob/main/config.json", "org/name"),
        ] {
            let name_of = as_copied(copied);
            assert_eq!(name_of.as_deref(), Some(name), "{copied}");
            assert!(Name::parse(name).is_ok(), "{name}");
        }
        assert_eq!(as_copied("org/name"), None);
        assert_eq!(as_copied("https://example.org/org/name"), None);
    }

    #[test]
    fn a_file_of_a_model_means_its_directory() {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/seed-5.7m");
        assert_eq!(directory_of(&model.join("model.safetensors")), Some(model.clone()));
        assert_eq!(directory_of(&model.join("config.json")), Some(model.clone()));
        assert_eq!(directory_of(&model.join("README.md")), None);
        assert_eq!(directory_of(&model), None);
    }
}
