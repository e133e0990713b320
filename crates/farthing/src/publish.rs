//! A directory that is ready for a hub: safetensors, GGUF files, tokenizer, chat template, model card and checksums.

use std::io::Read;
use std::path::{Path, PathBuf};

use convert::{CardFiles, Mix, ModelCard, Progress, write_safetensors};
use kernels::{Format, Pool};
use model::Checkpoint;
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::inspect::layer_kinds;
use crate::quantize::{QuantizeOptions, quantize};
use crate::tokenizer::{TokenizerParts, tokenizer};

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
const COPIED: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "LICENSE",
];

/// Largest of these.
const COPIED_BYTES_MAX: u64 = 128 << 20;

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
    let failed = |path: &Path| {
        let file = path.display().to_string();
        move |source| Error::File { file, source, step: "; nothing is left of the directory" }
    };
    if to.exists() {
        return Err(Error::Argument(format!("--out {}: it is there already; give another place", to.display())));
    }
    let parent = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(failed(parent))?;
    let name = to.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let folder = tempfile::Builder::new().prefix(&format!(".{name}.")).suffix(".part").tempdir_in(parent);
    let folder = folder.map_err(failed(parent))?;
    let mut files: Vec<(String, String)> = Vec::new();
    write_safetensors(checkpoint, folder.path(), options.weights, pool, progress)?;
    files.push(("model.safetensors".to_string(), format!("weights, {}", options.weights.name())));
    for file in COPIED {
        let from = checkpoint.path.join(file);
        if from.is_file() {
            let bytes = model::tensors::read_bounded(&from, COPIED_BYTES_MAX)?;
            std::fs::write(folder.path().join(file), bytes).map_err(failed(&to.join(file)))?;
        }
    }
    // A template inside the tokenizer's configuration is a file of its own here.
    let template = folder.path().join("chat_template.jinja");
    let TokenizerParts { template: source, .. } = tokenizer(checkpoint)?;
    if let Some(source) = source.filter(|_| !template.exists()) {
        std::fs::write(&template, source).map_err(failed(&template))?;
    }
    for &mix in &options.ggufs {
        let file = format!("{name}-{}.gguf", mix.name);
        let quantized = QuantizeOptions { mix, importance: Default::default() };
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
    std::fs::write(folder.path().join("README.md"), card).map_err(failed(&to.join("README.md")))?;
    let published = checksums(folder.path())?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let permissions = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), permissions).map_err(failed(to))?;
    }
    std::fs::rename(folder.path(), to).map_err(failed(to))?;
    // The directory has another name now, and stays.
    let _ = folder.keep();
    Ok(published)
}

/// Writes SHA256SUMS of all files, in the form of `sha256sum`; their names and bytes.
fn checksums(folder: &Path) -> Result<Vec<(String, u64)>, Error> {
    let failed = |path: PathBuf| move |source| Error::File { file: path.display().to_string(), source, step: "" };
    let entries = std::fs::read_dir(folder).map_err(failed(folder.to_path_buf()))?;
    let mut names: Vec<String> = entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    let (mut lines, mut files) = (String::new(), Vec::new());
    for name in names {
        let path = folder.join(&name);
        let mut file = std::fs::File::open(&path).map_err(failed(path.clone()))?;
        let (mut hash, mut buffer, mut bytes) = (Sha256::new(), vec![0u8; 1 << 20], 0);
        loop {
            let read = file.read(&mut buffer).map_err(failed(path.clone()))?;
            if read == 0 {
                break;
            }
            hash.update(&buffer[..read]);
            bytes += read as u64;
        }
        file.sync_all().map_err(failed(path.clone()))?;
        let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        lines.push_str(&format!("{digest}  {name}\n"));
        files.push((name, bytes));
    }
    let path = folder.join("SHA256SUMS");
    std::fs::write(&path, &lines).map_err(failed(path.clone()))?;
    files.push(("SHA256SUMS".to_string(), lines.len() as u64));
    Ok(files)
}
