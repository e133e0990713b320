//! Objects of a source: globs over the keys of a bucket

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::files::{LOOKED_AT_MAX, SourceFile, divide, matcher};
use crate::Error;
use crate::source::Format;
use crate::store::{Location, Object, Store, Stores, WITHOUT, check_key, url};

/// Objects of one glob: each is held while a run is planned.
const FOUND_MAX: usize = LOOKED_AT_MAX;

/// The objects that a glob of keys matches, in any order.
///
/// # Errors
/// Nobody who opens buckets; what the store refuses; too many objects; a key that cannot be read.
pub fn matches(bucket: &str, glob: &str, stores: Option<&dyn Stores>) -> Result<Vec<SourceFile>, Error> {
    let address = url(bucket, glob);
    let stores = stores.ok_or_else(|| Error::file(&address, WITHOUT))?;
    let store = stores.open(bucket).map_err(Error::io(&address))?;
    let divided = divide(glob);
    let Some(wild) = divided.wild else {
        let object = store.look_up(glob).map_err(Error::io(&address))?;
        return Ok(object.map(|object| file(bucket, &store, object)).into_iter().collect());
    };
    let matcher = matcher(wild).map_err(|problem| Error::file(&address, problem))?;
    let folder = divided.fixed.to_str().expect("a part of the glob");
    let hidden = wild.starts_with('.') || wild.contains("/.");
    let (mut files, mut looked_at) = (Vec::new(), 0usize);
    let listed = store.list(folder, &mut |object| {
        looked_at += 1;
        if looked_at > FOUND_MAX {
            return Err(io::Error::other(format!(
                "the glob looks at more than {FOUND_MAX} objects; name a folder further down"
            )));
        }
        let Some(below) = object.key.strip_prefix(folder) else {
            return Err(io::Error::other(format!("the store lists {:?}, which is not below {folder:?}", object.key)));
        };
        // Stores with folders list each as an empty object.
        let is_folder = object.bytes == 0 && Format::of_ending(object.key.as_ref()).is_none();
        let shown = hidden || !below.split('/').any(|segment| segment.starts_with('.'));
        if shown && !is_folder && matcher.is_match(below) {
            check_key(&object.key).map_err(|problem| io::Error::other(format!("{:?}: {problem}", object.key)))?;
            files.push(file(bucket, &store, object));
        }
        Ok(())
    });
    listed.map_err(Error::io(&address))?;
    Ok(files)
}

fn file(bucket: &str, store: &Arc<dyn Store>, object: Object) -> SourceFile {
    let url: PathBuf = url(bucket, &object.key);
    let (name, bytes) = (url.to_string_lossy().into_owned(), object.bytes);
    SourceFile { name, path: Location::object(url, store.clone(), object), bytes }
}
