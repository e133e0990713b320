//! Files of a source: globs below the folder of the recipe, in the order of their paths

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};
use walkdir::WalkDir;

use super::objects;
use crate::Error;
use crate::source::Source;
use crate::store::{Address, Location, Stores};

/// Files and folders that are looked at for one glob.
pub(super) const LOOKED_AT_MAX: usize = 4_000_000;

/// A file of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Its path as the glob gives it, relative to the recipe, or its URL: in ids, places and checksums.
    pub name: String,
    /// Where to open it.
    pub path: Location,
    /// Its size.
    pub bytes: u64,
}

/// A glob, divided where its first wildcard stands.
pub(super) struct Divided<'a> {
    /// Folder, or the whole path where there is no wildcard.
    pub(super) fixed: PathBuf,
    /// What stands below it.
    pub(super) wild: Option<&'a str>,
}

pub(super) fn divide(glob: &str) -> Divided<'_> {
    let Some(first) = glob.find(['*', '?', '[', '{']) else {
        return Divided { fixed: PathBuf::from(glob), wild: None };
    };
    let border = glob[..first].rfind('/').map_or(0, |slash| slash + 1);
    Divided { fixed: PathBuf::from(&glob[..border]), wild: Some(&glob[border..]) }
}

pub(super) fn matcher(wild: &str) -> Result<GlobMatcher, String> {
    let glob = GlobBuilder::new(wild).literal_separator(true).backslash_escape(false).build();
    glob.map(|glob| glob.compile_matcher()).map_err(|e| e.kind().to_string())
}

/// Checks a glob without looking at files.
///
/// # Errors
/// In words: what is wrong with it.
pub fn check_glob(glob: &str) -> Result<(), String> {
    if glob.is_empty() {
        return Err("files = [\"\"]: an empty glob".into());
    }
    let key_or_path = match Address::parse(glob).map_err(|problem| format!("files: {problem}"))? {
        Address::Path(path) => path,
        Address::Object { key: "", .. } => return Err(format!("files: {glob:?} names a bucket, and no object in it")),
        Address::Object { key, .. } => key,
    };
    let Some(wild) = divide(key_or_path).wild else { return Ok(()) };
    if Path::new(wild).components().any(|part| part == Component::ParentDir) {
        return Err(format!("files: {glob:?} has `..` after a wildcard; folders above may stand before it"));
    }
    matcher(wild).map(|_| ()).map_err(|problem| format!("files: {glob:?}: {problem}"))
}

/// The files that the globs match, each once, in the order of their paths' bytes.
///
/// # Errors
/// A glob that matches no file, links that run in a circle or leave the tree, too many files.
pub fn find(source: &Source, base: &Path, stores: Option<&dyn Stores>) -> Result<Vec<SourceFile>, Error> {
    let mut found = BTreeMap::new();
    for glob in &source.files {
        let before = found.len();
        let (path, matches) = match Address::parse(glob).map_err(|problem| Error::file(base, problem))? {
            Address::Path(path) => (base.join(path), matches(path, base)?),
            Address::Object { bucket, key } => (PathBuf::from(glob), objects::matches(bucket, key, stores)?),
        };
        if matches.is_empty() && path.is_dir() {
            let all = Path::new(glob).join("**").join("*");
            let problem =
                format!("a folder; source {} needs files, such as {:?}", source.name, all.display().to_string());
            return Err(Error::file(path, problem));
        }
        if matches.is_empty() {
            let get = source.get.as_deref().unwrap_or("check the path, or say in the recipe how to `get` it");
            return Err(Error::missing(path, &source.name, get));
        }
        found.extend(matches.into_iter().map(|file| (file.name.clone().into_bytes(), file)));
        debug_assert!(found.len() >= before);
    }
    Ok(found.into_values().collect())
}

fn matches(glob: &str, base: &Path) -> Result<Vec<SourceFile>, Error> {
    let divided = divide(glob);
    let root = base.join(&divided.fixed);
    let Some(wild) = divided.wild else {
        return Ok(match std::fs::metadata(&root) {
            Ok(data) if data.is_file() => vec![SourceFile { name: glob.into(), path: root.into(), bytes: data.len() }],
            _ => Vec::new(),
        });
    };
    let matcher = matcher(wild).map_err(|problem| Error::file(&root, format!("{glob:?}: {problem}")))?;
    let Ok(tree) = root.canonicalize() else { return Ok(Vec::new()) };
    let depth = if wild.contains("**") || wild.contains('{') { usize::MAX } else { wild.split('/').count() };
    // As in a shell, names that begin with a dot are not meant unless the glob has one.
    let hidden = wild.starts_with('.') || wild.contains("/.");
    let shown = |name: &std::ffi::OsStr| hidden || !name.as_encoded_bytes().starts_with(b".");
    let mut files = Vec::new();
    let entries = WalkDir::new(&root).follow_links(true).min_depth(1).max_depth(depth).into_iter();
    for (looked_at, entry) in entries.filter_entry(|entry| entry.depth() == 0 || shown(entry.file_name())).enumerate() {
        if looked_at >= LOOKED_AT_MAX {
            return Err(Error::file(
                &root,
                format!("{glob:?} looks at more than {LOOKED_AT_MAX} files; name a folder further down"),
            ));
        }
        let Some(entry) = there(entry, &root, &matcher)? else { continue };
        if entry.path_is_symlink() {
            stays_in(&tree, entry.path())?;
        }
        let below = entry.path().strip_prefix(&root).expect("walks below the root");
        if entry.file_type().is_file() && matcher.is_match(below) {
            let bytes = entry.metadata().map_err(|error| walking(&root, error))?.len();
            // Ids and checksums have it, and names that differ must not look the same.
            let name = divided.fixed.join(below).into_os_string().into_string();
            let name = name.map_err(|_| Error::file(entry.path(), "a name that is not UTF-8; rename the file"))?;
            files.push(SourceFile { name, path: entry.into_path().into(), bytes });
        }
    }
    Ok(files)
}

/// An entry that is still there. A link to nothing is passed over unless the glob means it.
fn there(
    entry: walkdir::Result<walkdir::DirEntry>,
    root: &Path,
    matcher: &GlobMatcher,
) -> Result<Option<walkdir::DirEntry>, Error> {
    let error = match entry {
        Ok(entry) => return Ok(Some(entry)),
        Err(error) => error,
    };
    let gone = error.io_error().is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound);
    let Some(path) = error.path().filter(|_| gone) else { return Err(walking(root, error)) };
    match std::fs::read_link(path) {
        Ok(target) if path.strip_prefix(root).is_ok_and(|below| matcher.is_match(below)) => {
            let problem = format!("a link to {}, which is not there; fetch that, or remove the link", target.display());
            Err(Error::file(path, problem))
        }
        _ => Ok(None),
    }
}

/// Refuses a link that leads out of the tree.
fn stays_in(tree: &Path, link: &Path) -> Result<(), Error> {
    let target = link.canonicalize().map_err(Error::io(link))?;
    if target.starts_with(tree) {
        return Ok(());
    }
    let problem = format!(
        "a link to {}, outside of {}; name a folder that holds both before the first wildcard",
        target.display(),
        tree.display()
    );
    Err(Error::file(link, problem))
}

fn walking(root: &Path, error: walkdir::Error) -> Error {
    let path = error.path().unwrap_or(root).to_path_buf();
    if let Some(above) = error.loop_ancestor() {
        return Error::file(&path, format!("a link to {}, which it is in: a circle; remove it", above.display()));
    }
    let text = error.to_string();
    Error::io(&path)(error.into_io_error().unwrap_or_else(|| std::io::Error::other(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, file).unwrap();
        }
        folder
    }

    fn names(globs: &[&str], base: &Path) -> Result<Vec<String>, String> {
        let mut source: Source =
            toml::from_str("name = \"books\"\nget = \"fetch it from example.org\"").expect("a source");
        source.files = globs.iter().map(|glob| glob.to_string()).collect();
        let found = find(&source, base, None).map_err(|e| e.to_string())?;
        Ok(found.into_iter().map(|file| file.name).collect())
    }

    #[test]
    fn globs_match_in_the_order_of_bytes_and_each_file_once() {
        let folder = tree(&[
            "b/x.txt",
            "a/2.txt",
            "a/10.txt",
            "a/deep/er/3.txt",
            "a/.hidden.txt",
            "a/no.md",
            ".git/y.txt",
            "Z.txt",
        ]);
        let names = |globs: &[&str]| names(globs, folder.path()).unwrap();
        assert_eq!(names(&["a/*.txt"]), ["a/10.txt", "a/2.txt"]);
        assert_eq!(names(&["**/*.txt"]), ["Z.txt", "a/10.txt", "a/2.txt", "a/deep/er/3.txt", "b/x.txt"]);
        assert_eq!(names(&["b/x.txt", "*/x.txt", "a/no.md"]), ["a/no.md", "b/x.txt"]);
        assert_eq!(names(&["a/{2,10}.txt"]), ["a/10.txt", "a/2.txt"]);
        assert_eq!(names(&["a/**/3.txt"]), ["a/deep/er/3.txt"]);
        assert_eq!(names(&["a/.*.txt"]), ["a/.hidden.txt"]);
        let above = tree(&["one/recipe.toml", "two/x.txt"]);
        assert_eq!(super::tests::names(&["../two/*.txt"], &above.path().join("one")).unwrap(), ["../two/x.txt"]);
    }

    #[test]
    fn a_glob_without_a_file_says_how_to_get_one() {
        let folder = tree(&["a/1.txt"]);
        for glob in ["a/*.md", "nowhere/*.txt", "a/2.txt"] {
            let error = names(&[glob, "a/1.txt"], folder.path()).unwrap_err();
            assert!(
                error.contains(glob) && error.contains("books") && error.ends_with("fetch it from example.org"),
                "{error}"
            );
        }
    }

    #[test]
    fn links_stay_in_the_tree_and_do_not_run_in_circles() {
        let folder = tree(&["data/a/1.txt", "out/2.txt"]);
        let link = |to: &Path, from: &str| std::os::unix::fs::symlink(to, folder.path().join(from)).unwrap();
        link(&folder.path().join("data/a/1.txt"), "data/inside.txt");
        assert_eq!(names(&["data/**/*.txt"], folder.path()).unwrap(), ["data/a/1.txt", "data/inside.txt"]);
        link(&folder.path().join("out"), "data/outside");
        let error = names(&["data/**/*.txt"], folder.path()).unwrap_err();
        assert!(error.contains("data/outside: a link to") && error.contains("holds both"), "{error}");
        // From a folder that holds both it is no way out.
        assert_eq!(names(&["*/*/2.txt"], folder.path()).unwrap(), ["data/outside/2.txt"]);
        std::fs::remove_file(folder.path().join("data/outside")).unwrap();
        link(&folder.path().join("data"), "data/a/circle");
        let error = names(&["data/**/*.txt"], folder.path()).unwrap_err();
        assert!(error.contains("a circle"), "{error}");
    }

    #[test]
    fn links_to_nothing_matter_where_the_glob_means_them() {
        let folder = tree(&["data/1.txt"]);
        std::os::unix::fs::symlink("gone", folder.path().join("data/2.md")).unwrap();
        assert_eq!(names(&["data/*.txt"], folder.path()).unwrap(), ["data/1.txt"]);
        let error = names(&["data/*"], folder.path()).unwrap_err();
        assert!(error.contains("data/2.md: a link to gone, which is not there"), "{error}");
    }

    #[test]
    fn a_name_that_is_not_unicode_is_refused() {
        use std::os::unix::ffi::OsStrExt;
        let folder = tree(&["data/1.txt"]);
        let name = std::ffi::OsStr::from_bytes(b"data/\xff.txt");
        std::fs::write(folder.path().join(name), "text").unwrap();
        let error = names(&["data/*.txt"], folder.path()).unwrap_err();
        assert!(error.contains("not UTF-8; rename the file"), "{error}");
    }

    #[test]
    fn globs_are_checked_before_files_are_looked_for() {
        assert!(check_glob("../books/**/*.txt").is_ok());
        for wrong in ["", "a/*/../b.txt", "a/[x", "a/{b"] {
            assert!(check_glob(wrong).is_err(), "{wrong}");
        }
    }
}
