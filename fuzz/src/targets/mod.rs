//! The fuzz targets: each takes any bytes, and panics where something is wrong.

mod batch;
mod card;
mod config;
mod framing;
mod gguf;
mod importance;
mod index;
mod parquet;
mod readers;
mod recipe;
mod request;
mod safetensors;
pub mod template;
mod tokenizer;
mod unit;
mod vocabulary;

/// The targets by name. Each has a folder of that name in `seeds`, and in `findings` once an input broke it.
pub const TARGETS: [(&str, fn(&[u8])); 16] = [
    ("batch", batch::run),
    ("card", card::run),
    ("config", config::run),
    ("framing", framing::run),
    ("gguf", gguf::run),
    ("importance", importance::run),
    ("index", index::run),
    ("parquet", parquet::run),
    ("readers", readers::run),
    ("recipe", recipe::run),
    ("request", request::run),
    ("safetensors", safetensors::run),
    ("template", template::run),
    ("tokenizer", tokenizer::run),
    ("unit", unit::run),
    ("vocabulary", vocabulary::run),
];

/// The target of this name.
pub fn named(name: &str) -> Option<fn(&[u8])> {
    TARGETS.iter().find(|(n, _)| *n == name).map(|(_, run)| *run)
}
