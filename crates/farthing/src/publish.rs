//! A directory that is ready for a hub: safetensors, GGUF files, tokenizer, chat template, model card and checksums.

use std::io::Read;
use std::path::Path;

use convert::{Averaged, CardFiles, ConvertError, Mix, ModelCard, Progress, write_safetensors};
use kernels::{Format, Pool};
use model::Checkpoint;
use model::checkpoint::Purpose;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::error::Error;
use crate::inspect::layer_kinds;
use crate::quantize::{QuantizeOptions, quantize};
use crate::tokenizer::{BESIDE_BYTES_MAX, TokenizerParts, tokenizer};

/// What is published of a model.
#[derive(Clone, Debug)]
pub struct PublishOptions {
    /// What the card says.
    pub card: ModelCard,
    /// Format of the safetensors.
    pub weights: Format,
    /// GGUF files beside them.
    pub ggufs: Vec<Mix>,
}

/// Files of a model's directory that are published as they are, where they are there.
const COPIED: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "NOTICE",
];

/// The folder of templates beside the usual one, such as that for tools.
const TEMPLATES: &str = "additional_chat_templates";
const TEMPLATES_MAX: usize = 32;

/// Writes the directory `to`, which is there whole or not at all; the names of its files with their bytes.
///
/// # Errors
/// A place that is taken, a model that cannot be written so, a disk that is full, or a wish to stop.
pub fn publish(
    checkpoint: &Checkpoint,
    to: &Path,
    options: &PublishOptions,
    pool: &Pool,
    progress: &dyn Progress,
) -> Result<Vec<(String, u64)>, Error> {
    if checkpoint.purpose != Purpose::Generate {
        let what = "a model that embeds or scores texts, to be published: the parts that do that are not copied";
        return Err(model::CheckpointError::unsupported(&checkpoint.path, what).into());
    }
    let folder = folder_for(to)?;
    let name = to.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut files: Vec<(String, String)> = Vec::new();
    write_safetensors(checkpoint, &Averaged::default(), folder.path(), options.weights, pool, progress)?;
    files.push(("model.safetensors".to_string(), format!("weights, {}", options.weights.name())));
    copy_beside(checkpoint, folder.path(), to)?;
    for &mix in &options.ggufs {
        let file = format!("{name}-{}.gguf", mix.name);
        let called = options.card.name.trim();
        let called = if called.is_empty() { &name } else { called };
        let quantized = QuantizeOptions { mix, importance: Default::default(), name: Some(called.to_string()) };
        let written = quantize(checkpoint, &folder.path().join(&file), quantized, pool, progress)?;
        files.push((file, format!("GGUF, {:.2} bits a weight", written.bits_per_weight())));
    }
    let size = |file: &str| std::fs::metadata(folder.path().join(file)).map_or(0, |about| about.len());
    let structure = &checkpoint.structure;
    let mut about = vec![format!(
        "{} layers, hidden {}, vocabulary {}, context {}; {} parameters, {} used by a token",
        structure.layers.len(),
        structure.hidden,
        structure.vocab,
        structure.context,
        structure.parameters().total,
        structure.parameters().active
    )];
    about.extend(layer_kinds(&structure.layers));
    let rows = files.into_iter().map(|(file, what)| (file.clone(), size(&file), what)).collect();
    let card = options.card.render(&CardFiles { structure: about, files: rows });
    std::fs::write(folder.path().join("README.md"), card).map_err(unwritten(&to.join("README.md")))?;
    let published = checksums(folder.path(), to, progress)?;
    keep(folder, to)?;
    Ok(published)
}

/// An error of a file of a directory that is not there then.
pub(crate) fn unwritten(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let file = path.display().to_string();
    move |source| Error::File { file, source, step: "; nothing is left of the directory" }
}

/// A directory beside `to`, which gets that name once it is whole.
pub(crate) fn folder_for(to: &Path) -> Result<TempDir, Error> {
    if to.exists() {
        return Err(Error::Argument(format!("--out {}: it is there already; give another place", to.display())));
    }
    let parent = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(unwritten(parent))?;
    let (prefix, mut builder) =
        (format!(".{}.", to.file_name().unwrap_or_default().to_string_lossy()), tempfile::Builder::new());
    builder.prefix(&prefix).suffix(".part");
    // Those of a directory that is made anew, not those of a secret.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
    builder.tempdir_in(parent).map_err(unwritten(parent))
}

/// Gives a directory that is whole its name.
pub(crate) fn keep(folder: TempDir, to: &Path) -> Result<(), Error> {
    std::fs::rename(folder.path(), to).map_err(unwritten(to))?;
    // The directory has another name now, and stays.
    let _ = folder.keep();
    Ok(())
}

/// Copies what is published as it is, and the chat template, which may be inside another file.
pub(crate) fn copy_beside(checkpoint: &Checkpoint, folder: &Path, to: &Path) -> Result<(), Error> {
    for file in COPIED.map(str::to_string).into_iter().chain(templates(&checkpoint.path)) {
        let from = checkpoint.path.join(&file);
        if from.is_file() {
            let bytes = model::tensors::read_bounded(&from, BESIDE_BYTES_MAX)?;
            let into = folder.join(&file);
            let made = into.parent().map_or(Ok(()), std::fs::create_dir_all);
            made.and_then(|()| std::fs::write(&into, bytes)).map_err(unwritten(&to.join(file)))?;
        }
    }
    // A template inside the tokenizer's configuration is a file of its own here.
    let template = folder.join("chat_template.jinja");
    let TokenizerParts { template: source, .. } = tokenizer(checkpoint)?;
    if let Some(source) = source.filter(|_| !template.exists()) {
        std::fs::write(&template, source).map_err(unwritten(&to.join("chat_template.jinja")))?;
    }
    Ok(())
}

/// Names of a directory's further chat templates.
fn templates(model: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(model.join(TEMPLATES)).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".jinja")).take(TEMPLATES_MAX).collect();
    names.sort();
    names.into_iter().map(|name| format!("{TEMPLATES}/{name}")).collect()
}

/// Writes SHA256SUMS of all files, in the form of `sha256sum`; their names and bytes.
fn checksums(folder: &Path, to: &Path, progress: &dyn Progress) -> Result<Vec<(String, u64)>, Error> {
    let (mut lines, mut files) = (String::new(), Vec::new());
    for name in names(folder, to)? {
        let path = to.join(&name);
        let mut file = std::fs::File::open(folder.join(&name)).map_err(unwritten(&path))?;
        let (mut hash, mut buffer, mut bytes) = (Sha256::new(), vec![0u8; 1 << 20], 0);
        loop {
            if !progress.goes_on() {
                return Err(ConvertError::Stopped { path: to.to_path_buf() }.into());
            }
            let read = file.read(&mut buffer).map_err(unwritten(&path))?;
            if read == 0 {
                break;
            }
            hash.update(&buffer[..read]);
            bytes += read as u64;
        }
        file.sync_all().map_err(unwritten(&path))?;
        let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        lines.push_str(&format!("{digest}  {name}\n"));
        files.push((name, bytes));
    }
    let failed = |source| Error::File { file: to.join("SHA256SUMS").display().to_string(), source, step: "" };
    std::fs::write(folder.join("SHA256SUMS"), &lines).map_err(failed)?;
    files.push(("SHA256SUMS".to_string(), lines.len() as u64));
    Ok(files)
}

/// Names of all files of a directory and of its folders, with slashes, in their order.
fn names(folder: &Path, to: &Path) -> Result<Vec<String>, Error> {
    let failed = |source| Error::File { file: to.display().to_string(), source, step: "" };
    let (mut names, mut open) = (Vec::new(), vec![String::new()]);
    while let Some(below) = open.pop() {
        for entry in std::fs::read_dir(folder.join(&below)).map_err(failed)?.flatten() {
            let name = format!("{below}{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                open.push(format!("{name}/"));
            } else {
                names.push(name);
            }
        }
    }
    names.sort();
    Ok(names)
}
