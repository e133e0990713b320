//! Parquet files: rows or damage, in bounded memory.
use std::cell::RefCell;

use data::readers::{self, Item};
use data::source::Source;
use serde_json::json;

use super::readers::Scratch;

thread_local! {
    static SCRATCH: RefCell<Option<Scratch>> = const { RefCell::new(None) };
}

/// Runs the target on one input.
pub fn run(data: &[u8]) {
    SCRATCH.with_borrow_mut(|scratch| {
        let part = scratch.get_or_insert_with(|| Scratch::new("f.parquet")).part(data);
        let _ = readers::row_groups(&part.file).expect("a file that can be read");
        for settings in [json!({"keep": ["n", "score", "day", "meta"]}), json!({"messages": "messages"})] {
            let mut all = json!({"name": "s", "files": ["f.parquet"]});
            all.as_object_mut().expect("an object").extend(settings.as_object().expect("an object").clone());
            let source: Source = serde_json::from_value(all).expect("settings of a source");
            let mut bytes = 0;
            // A file without the columns is an error, and all else is not.
            let result = readers::read(&source, &part, &mut |item| {
                bytes += match item {
                    Item::Document(document) => document.text().len(),
                    Item::Damaged(damaged) => damaged.problem.len(),
                    Item::PassedOver(kind) => kind.len(),
                };
                Ok(())
            });
            if let Err(error) = result {
                assert!(
                    error.to_string().contains("its columns are") || error.to_string().contains("the record has none"),
                    "{error}"
                );
            }
            assert!(bytes < 200 << 20, "{bytes}");
        }
    });
}
