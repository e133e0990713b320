//! Which files of a repository make one model.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::HubError;
use crate::name::{Name, is_gguf};

/// Small files that go with safetensors.
const SIDE_FILES: [&str; 11] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "modules.json",
    "1_Pooling/config.json",
    "1_LogitScore/config.json",
    "config_sentence_transformers.json",
    INDEX,
];
/// Index of split safetensors.
pub(crate) const INDEX: &str = "model.safetensors.index.json";
/// Quantisation taken when none is named.
const PREFERRED: &str = "Q4_K_M";
/// Files an error lists at most.
const LISTED_MAX: usize = 40;

/// A file at the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// Path in the repository.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the bytes, for large files.
    pub sha256: Option<String>,
    /// SHA-1 of the git object: of the bytes for a small file, of the pointer for a large one.
    pub sha1: String,
}

impl RemoteFile {
    pub(crate) fn blob(&self) -> &str {
        self.sha256.as_deref().unwrap_or(&self.sha1)
    }
}

/// What a repository holds at one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Commit.
    pub commit: String,
    /// Files.
    pub files: Vec<RemoteFile>,
}

/// The files of one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Files to fetch.
    pub files: Vec<RemoteFile>,
    /// Path inside the snapshot that the loader is given: empty for the directory, else the first GGUF file.
    pub model: String,
    /// Bytes of all files.
    pub bytes: u64,
}

/// Pick the files of the model that `name` means.
pub fn choose(listing: &Listing, name: &Name) -> Result<Selection, HubError> {
    let mut by_path: BTreeMap<&str, &RemoteFile> = BTreeMap::new();
    for file in &listing.files {
        if let Err(why) = check_path(&file.path) {
            return Err(HubError::Listing { repository: name.repository.clone(), why });
        }
        by_path.insert(&file.path, file);
    }
    let refuse = |why: String| Err(HubError::Choice { repository: name.repository.clone(), why });
    let (paths, model) = match safetensors(&by_path) {
        Some(chosen) if name.file.is_none() => match chosen {
            Ok(paths) => (paths, String::new()),
            Err(why) => return refuse(why),
        },
        _ => match pick_gguf(by_path.keys().copied(), name.file.as_deref()) {
            Picked::One(parts) => match parts.iter().find(|part| !by_path.contains_key(part.as_str())) {
                Some(missing) => return refuse(format!("part {missing} is missing at the hub; take another file")),
                None => (parts.clone(), parts.into_iter().next().unwrap_or_default()),
            },
            Picked::Several(found) => {
                return refuse(format!(
                    "several GGUF files could be meant: {}; write one as {}:FILE",
                    sizes(&found, &by_path),
                    name.repository
                ));
            }
            Picked::None(found) => return refuse(nothing(name, &found, &by_path)),
        },
    };
    let files: Vec<RemoteFile> = paths.iter().filter_map(|p| by_path.get(p.as_str()).map(|f| (*f).clone())).collect();
    let bytes = files.iter().fold(0u64, |sum, file| sum.saturating_add(file.size));
    Ok(Selection { files, model, bytes })
}

/// Paths of the safetensors model, why there is none that the loader reads, or nothing where there are no safetensors.
fn safetensors(files: &BTreeMap<&str, &RemoteFile>) -> Option<Result<Vec<String>, String>> {
    let weights: Vec<&str> =
        files.keys().copied().filter(|p| p.ends_with(".safetensors") && !p.contains('/')).collect();
    if weights.is_empty() {
        return None;
    }
    let shards: Vec<&str> = weights.iter().copied().filter(|p| is_shard(p)).collect();
    let indexed = files.contains_key(INDEX) && !shards.is_empty();
    let taken = if indexed {
        shards
    } else if files.contains_key("model.safetensors") {
        // The loader reads this one alone, as the Python tools do. Variants beside it are not fetched.
        vec!["model.safetensors"]
    } else if files.keys().any(|p| is_gguf(p)) {
        return None;
    } else {
        let what = weights.iter().take(LISTED_MAX).copied().collect::<Vec<_>>().join(", ");
        return Some(Err(format!(
            "there is neither model.safetensors nor {INDEX} with its files, only {what}; take a repository of a whole model"
        )));
    };
    if !files.contains_key("config.json") {
        return Some(Err("config.json is missing at the hub; take a repository of a whole model".to_string()));
    }
    let side = SIDE_FILES.iter().copied().filter(|p| files.contains_key(p) && (indexed || *p != INDEX));
    Some(Ok(side.chain(taken).map(str::to_string).collect()))
}

/// Whether the name is `model-*-of-*.safetensors`.
fn is_shard(path: &str) -> bool {
    let middle = path.strip_prefix("model-").and_then(|rest| rest.strip_suffix(".safetensors"));
    middle.is_some_and(|middle| middle.contains("-of-"))
}

/// Why nothing could be taken.
fn nothing(name: &Name, gguf: &[Vec<String>], files: &BTreeMap<&str, &RemoteFile>) -> String {
    if let (Some(file), false) = (&name.file, gguf.is_empty()) {
        return format!("there is no GGUF file {file}; there are {}", sizes(gguf, files));
    }
    let pickle = [".bin", ".pt", ".pth", ".ckpt"];
    if name.file.is_none() && files.keys().any(|p| pickle.iter().any(|end| p.ends_with(end))) {
        return "its weights are pickle files, which can run code; take a repository with safetensors or GGUF"
            .to_string();
    }
    match &name.file {
        Some(file) => format!("there is no GGUF file {file}, nor any other; leave out :{file}"),
        None => "it holds no weights; take a repository with safetensors or GGUF".to_string(),
    }
}

/// Files with their sizes, for an error.
fn sizes(groups: &[Vec<String>], files: &BTreeMap<&str, &RemoteFile>) -> String {
    let mut listed: Vec<String> = Vec::new();
    for parts in groups.iter().take(LISTED_MAX) {
        let size = |part: &String| files.get(part.as_str()).map_or(0, |f| f.size);
        let bytes = parts.iter().map(size).fold(0u64, u64::saturating_add);
        let first = parts.first().map_or("", String::as_str);
        listed.push(format!("{first} ({:.2} GB)", bytes as f64 / 1e9));
    }
    if groups.len() > LISTED_MAX {
        listed.push(format!("{} more", groups.len() - LISTED_MAX));
    }
    listed.join(", ")
}

/// What a look over GGUF files gave. Each is the list of its parts, first part first.
pub(crate) enum Picked {
    /// The one.
    One(Vec<String>),
    /// More than one fits.
    Several(Vec<Vec<String>>),
    /// None fits; these are there.
    None(Vec<Vec<String>>),
}

/// All GGUF models among `paths`, as lists of parts. Parts that should be there but are not are in the list too.
pub(crate) fn gguf_models<'a>(paths: impl Iterator<Item = &'a str>) -> Vec<Vec<String>> {
    let mut first: BTreeSet<String> = BTreeSet::new();
    for path in paths.filter(|p| is_gguf(p)) {
        let file = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
        // Vision projectors and importance matrices are GGUF files but no models.
        if !(file.starts_with("mmproj") || file.starts_with("imatrix")) {
            first.insert(parts(path).swap_remove(0));
        }
    }
    first.iter().map(|path| parts(path)).collect()
}

/// Pick the GGUF model that a file name or tag means, or the preferred one.
pub(crate) fn pick_gguf<'a>(paths: impl Iterator<Item = &'a str>, wanted: Option<&str>) -> Picked {
    let models = gguf_models(paths);
    let with_tag = |tag: &str| {
        let base = |parts: &[String]| parts[0].rsplit('/').next().unwrap_or_default().to_string();
        let mut found: Vec<Vec<String>> = models.iter().filter(|m| has_tag(&base(m), tag)).cloned().collect();
        if found.is_empty() {
            found = models.iter().filter(|m| has_tag(&m[0], tag)).cloned().collect();
        }
        found
    };
    let found = match wanted {
        Some(file) if is_gguf(file) => {
            let first = parts(file).swap_remove(0);
            models.iter().filter(|m| m[0] == first).cloned().collect()
        }
        Some(tag) => with_tag(tag),
        None => match with_tag(PREFERRED) {
            found if found.len() == 1 => found,
            _ => models.clone(),
        },
    };
    match <[Vec<String>; 1]>::try_from(found) {
        Ok([one]) => Picked::One(one),
        Err(none) if none.is_empty() => Picked::None(models),
        Err(several) => Picked::Several(several),
    }
}

/// All parts of the split that `path` belongs to (`NAME-00001-of-0000N.gguf`), or the path alone.
fn parts(path: &str) -> Vec<String> {
    let alone = || vec![path.to_string()];
    let digits = |t: &str| t.len() == 5 && t.bytes().all(|b| b.is_ascii_digit());
    let Some(stem) = path.strip_suffix(".gguf") else { return alone() };
    let fields: Vec<&str> = stem.rsplitn(4, '-').collect();
    let [total, "of", number, base] = fields[..] else { return alone() };
    if !digits(total) || !digits(number) {
        return alone();
    }
    let (Ok(count), Ok(number)) = (total.parse::<usize>(), number.parse::<usize>()) else { return alone() };
    // A larger split than the loader opens is no split.
    if number == 0 || number > count || count > 1000 {
        return alone();
    }
    (1..=count).map(|i| format!("{base}-{i:05}-of-{total}.gguf")).collect()
}

/// Whether `tag` stands in `path` as a word of its own: `Q4_K` is not in `x-Q4_K_M.gguf`.
fn has_tag(path: &str, tag: &str) -> bool {
    let (path, tag) = (path.to_ascii_lowercase(), tag.to_ascii_lowercase());
    let edge = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
    let starts = |c: Option<char>| edge(c) || c == Some('_');
    path.match_indices(&tag)
        .any(|(at, _)| starts(path[..at].chars().next_back()) && edge(path[at + tag.len()..].chars().next()))
}

/// Whether a path of a listing stays inside the snapshot.
pub(crate) fn check_path(path: &str) -> Result<(), String> {
    let wrong = if path.len() > 1024 {
        "too long"
    } else if path.chars().any(|c| c.is_control()) {
        "control characters"
    } else if path.contains('\\') {
        "a backslash"
    } else if path.starts_with('/') {
        "absolute"
    } else if path.split('/').any(|part| part.is_empty()) {
        "an empty part"
    } else if path.split('/').any(|part| part == "." || part == "..") {
        "a part that leads elsewhere"
    } else if path.split('/').any(|part| part.len() > 255) {
        "a part too long"
    } else {
        return Ok(());
    };
    let shown: String = path.chars().take(100).collect();
    Err(format!("the path {shown:?} is not allowed ({wrong})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(paths: &[&str]) -> Listing {
        let file = |path: &&str| RemoteFile { path: path.to_string(), size: 1000, sha256: None, sha1: "0".repeat(40) };
        Listing { commit: "1".repeat(40), files: paths.iter().map(file).collect() }
    }

    fn chosen(paths: &[&str], name: &str) -> Result<(Vec<String>, String), String> {
        choose(&listing(paths), &Name::parse(name).unwrap())
            .map(|s| (s.files.into_iter().map(|f| f.path).collect(), s.model))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn safetensors_come_with_what_the_loader_reads() {
        let (files, model) = chosen(
            &[
                "README.md",
                "config.json",
                "tokenizer.json",
                "model.safetensors",
                "model.fp16.safetensors",
                "pytorch_model.bin",
                "onnx/model.safetensors",
                "x.gguf",
            ],
            "a/b",
        )
        .unwrap();
        assert_eq!(files, ["config.json", "tokenizer.json", "model.safetensors"]);
        assert_eq!(model, "");
        let (files, _) = chosen(
            &[
                INDEX,
                "config.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors",
                "consolidated.safetensors",
            ],
            "a/b",
        )
        .unwrap();
        assert_eq!(
            files,
            ["config.json", INDEX, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        );
        let embeds = ["modules.json", "1_Pooling/config.json", "config_sentence_transformers.json"];
        let others = ["config.json", "model.safetensors", "2_Dense/config.json", "2_Dense/model.safetensors"];
        let (files, _) = chosen(&[&embeds[..], &others].concat(), "a/b").unwrap();
        assert_eq!(files, ["config.json", embeds[0], embeds[1], embeds[2], "model.safetensors"]);
        assert!(chosen(&["config.json", "adapter_model.safetensors"], "a/b").unwrap_err().contains("adapter_model"));
        assert!(chosen(&["model.safetensors"], "a/b").unwrap_err().contains("config.json"));
        assert!(chosen(&["config.json", "pytorch_model.bin"], "a/b").unwrap_err().contains("pickle"));
        assert!(chosen(&["README.md"], "a/b").unwrap_err().contains("no weights"));
    }

    #[test]
    fn gguf_by_file_tag_and_preference() {
        let files = ["m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "m-Q8_0.gguf", "mmproj-f16.gguf", "m.IQ4_XS.gguf"];
        assert_eq!(chosen(&files, "a/b").unwrap().1, "m-Q4_K_M.gguf");
        assert_eq!(chosen(&files, "a/b:q8_0").unwrap().1, "m-Q8_0.gguf");
        assert_eq!(chosen(&files, "a/b:iq4_xs").unwrap().1, "m.IQ4_XS.gguf");
        assert_eq!(chosen(&files, "a/b:m-Q4_K_S.gguf").unwrap().1, "m-Q4_K_S.gguf");
        assert_eq!(chosen(&["only.gguf"], "a/b").unwrap().1, "only.gguf");
        for wanted in ["a/b:Q4_K", "a/b:4_K_M", "a/b:none.gguf", "a/b:f16"] {
            let error = chosen(&files, wanted).unwrap_err();
            assert!(error.contains("m-Q8_0.gguf"), "{wanted}: {error}");
        }
        let error = chosen(&["m-Q5_0.gguf", "m-Q8_0.gguf"], "a/b").unwrap_err();
        assert!(error.contains("m-Q5_0.gguf (0.00 GB)") && error.contains("a/b:FILE"), "{error}");
        assert!(chosen(&["config.json", "model.safetensors"], "a/b:Q4_K_M").is_err());
    }

    #[test]
    fn a_split_is_taken_whole_or_not_at_all() {
        let one = "Q4_K_M/m-Q4_K_M-00001-of-00002.gguf";
        let two = "Q4_K_M/m-Q4_K_M-00002-of-00002.gguf";
        for name in ["a/b", "a/b:Q4_K_M", &format!("a/b:{one}"), &format!("a/b:{two}")] {
            assert_eq!(
                chosen(&[two, "m-Q8_0.gguf", one], name).unwrap(),
                (vec![one.to_string(), two.to_string()], one.to_string())
            );
        }
        assert!(chosen(&[two], "a/b").unwrap_err().contains(one));
        assert!(chosen(&["m-00001-of-99999.gguf"], "a/b").is_ok(), "no split: a name");
        assert_eq!(
            chosen(&["BF16/m-00001-of-00001.gguf", "Q2_K/m-00001-of-00001.gguf"], "a/b:bf16").unwrap().1,
            "BF16/m-00001-of-00001.gguf"
        );
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        let long = "a".repeat(256);
        for path in ["", "/x", "../x", "a/../b", "a//b", "a/", "./a", "a\\b", "a\0b", "a\nb", &long] {
            assert!(check_path(path).is_err(), "{path}");
            assert!(choose(&listing(&["x.gguf", path]), &Name::parse("a/b").unwrap()).is_err());
        }
        for path in ["a", "a/b.json", "..a", "a b", "é.txt"] {
            assert!(check_path(path).is_ok(), "{path}");
        }
    }
}
