//! The configuration file of `serve`: its options by their own names, in TOML. What the command line or the environment says wins.

use std::ffi::OsString;
use std::path::Path;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory};
use toml::{Table, Value};

use crate::Failure;

/// Bytes of the file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Options that only make sense on a command line.
const NOT_IN_FILES: [&str; 6] = ["also", "check", "config", "help", "print_config", "version"];

/// `serve` as clap knows it.
fn serve(command: &mut Command) -> &mut Command {
    command.build();
    command.find_subcommand_mut("serve").expect("serve is a command")
}

/// As it is written in the file: the option's long name, or `models`.
fn written(arg: &Arg) -> String {
    arg.get_long().map_or_else(|| arg.get_id().to_string(), str::to_string)
}

fn known(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| !NOT_IN_FILES.contains(&arg.get_id().as_str()))
}

/// The command line with what the file adds to it.
pub fn with_file(path: &Path, argv: &[OsString]) -> Result<Vec<OsString>, Failure> {
    let named = |e: String| Failure::usage(format!("{}: {e}", path.display()));
    let bytes = model::tensors::read_bounded(path, FILE_BYTES_MAX)
        .map_err(|e| Failure::failed(format!("--config: {e}; `farthing serve --print-config` writes such a file")))?;
    let text = String::from_utf8(bytes).map_err(|_| named("not text".to_string()))?;
    let table: Table = text.parse().map_err(|e: toml::de::Error| {
        let before = e.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        named(format!("line {line}: {}", e.message()))
    })?;
    let mut command = crate::Arguments::command();
    let matches = command.clone().try_get_matches_from(argv)?;
    let given = matches.subcommand_matches("serve").ok_or_else(|| named("only `serve` reads it".to_string()))?;
    let added = added(&table, serve(&mut command), given).map_err(named)?;
    let place = argv.iter().position(|a| a == "serve").ok_or_else(|| named("only `serve` reads it".to_string()))?;
    let mut all = argv[..=place].to_vec();
    all.extend(added.into_iter().map(OsString::from));
    all.extend_from_slice(&argv[place + 1..]);
    Ok(all)
}

/// Arguments that say what the file says, but for those that were given.
fn added(table: &Table, command: &Command, given: &ArgMatches) -> Result<Vec<String>, String> {
    let mut added = Vec::new();
    for (name, value) in table {
        let Some(arg) = known(command).find(|arg| written(arg) == *name) else {
            return Err(unknown(name, command));
        };
        let source = given.value_source(arg.get_id().as_str());
        if matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable)) {
            continue;
        }
        match (arg.get_action(), value) {
            (ArgAction::SetTrue, Value::Boolean(true)) => added.push(format!("--{name}")),
            (ArgAction::SetTrue, Value::Boolean(false)) => {}
            (ArgAction::SetTrue, other) => return Err(format!("{name} is {other}; give true or false")),
            (ArgAction::Append, Value::Array(values)) => {
                for value in values {
                    added.push(argument(name, arg, value)?);
                }
            }
            (_, value) => added.push(argument(name, arg, value)?),
        }
    }
    Ok(added)
}

fn argument(name: &str, arg: &Arg, value: &Value) -> Result<String, String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Integer(n) => n.to_string(),
        Value::Float(x) => x.to_string(),
        other => return Err(format!("{name} is {other}; give one value{}", several(arg))),
    };
    if arg.is_positional() && text.starts_with('-') {
        return Err(format!("{name} is {text:?}; no model's name begins with -"));
    }
    Ok(if arg.is_positional() { text } else { format!("--{name}={text}") })
}

fn several(arg: &Arg) -> &'static str {
    if matches!(arg.get_action(), ArgAction::Append) { " or a list of them" } else { "" }
}

fn unknown(name: &str, command: &Command) -> String {
    let names = known(command).map(written);
    let near = names.max_by(|a, b| strsim::jaro(a, name).total_cmp(&strsim::jaro(b, name))).unwrap_or_default();
    let name: String = name.chars().take(100).collect();
    format!("{name:?} is no option of `farthing serve`; the nearest is {near:?} (`farthing help serve` lists all)")
}

/// The effective values as a file that `--config` takes. Keys are counted, not shown.
pub fn printed(argv: &[OsString]) -> Result<String, Failure> {
    let mut command = crate::Arguments::command();
    let matches = command.clone().try_get_matches_from(argv)?;
    let given =
        matches.subcommand_matches("serve").ok_or_else(|| Failure::failed("only `serve` has values".to_string()))?;
    let mut text = String::new();
    for arg in known(serve(&mut command)) {
        let (id, name) = (arg.get_id().as_str(), written(arg));
        if matches!(arg.get_action(), ArgAction::SetTrue) {
            text.push_str(&format!("{name} = {}\n", given.get_flag(id)));
            continue;
        }
        let Some(raw) = given.get_raw(id) else { continue };
        let values: Vec<Value> = raw.map(|v| value(&v.to_string_lossy())).collect();
        match (id, arg.get_action()) {
            ("api_key", _) => text.push_str(&format!("# {name}: {} given, not shown\n", values.len())),
            // It may hold a password.
            ("ledger", _) if values.iter().any(|v| v.to_string().contains("://")) => {
                text.push_str(&format!("# {name}: given, not shown\n"));
            }
            (_, ArgAction::Append) => text.push_str(&format!("{name} = {}\n", Value::Array(values))),
            _ => values.iter().for_each(|value| text.push_str(&format!("{name} = {value}\n"))),
        }
    }
    Ok(text)
}

fn value(text: &str) -> Value {
    match text.parse::<i64>() {
        Ok(n) if n.to_string() == text => Value::Integer(n),
        _ => Value::String(text.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merge(file: &str, line: &[&str]) -> Result<Vec<String>, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("farthing.toml");
        std::fs::write(&path, file).unwrap();
        let argv: Vec<OsString> = ["farthing", "serve"].iter().chain(line).map(OsString::from).collect();
        let merged =
            with_file(&path, &argv).map_err(|e| e.to_string().rsplit_once("farthing.toml: ").unwrap().1.to_string())?;
        Ok(merged.into_iter().skip(2).map(|a| a.into_string().unwrap()).collect())
    }

    #[test]
    fn the_file_adds_and_the_command_line_wins() {
        let file = "models = [\"org/a\", \"./b.gguf\"]\nport = 9000\nquiet = true\napi-key = ['one', 'two']\ntemperature = 0.5\nopen-metrics = false\n";
        let all =
            ["--api-key=one", "--api-key=two", "org/a", "./b.gguf", "--port=9000", "--quiet", "--temperature=0.5"];
        assert_eq!(merge(file, &[]).unwrap(), all);
        assert_eq!(
            merge(file, &["c", "--port", "1", "--api-key", "three"]).unwrap(),
            ["--quiet", "--temperature=0.5", "c", "--port", "1", "--api-key", "three"]
        );
    }

    #[test]
    fn what_a_file_cannot_say_is_named() {
        let refused = |file: &str| merge(file, &[]).err().unwrap();
        assert!(refused("prot = 1").starts_with("\"prot\" is no option of `farthing serve`; the nearest is \"port\""));
        assert!(refused("config = 'x'").contains("no option"));
        assert_eq!(refused("quiet = 'yes'"), "quiet is \"yes\"; give true or false");
        assert_eq!(refused("port = [1, 2]"), "port is [1, 2]; give one value");
        assert!(refused("api-key = { a = 1 }").ends_with("give one value or a list of them"));
        assert!(refused("port = 1\nport = 2").starts_with("line 2: "), "{}", refused("port = 1\nport = 2"));
        assert!(refused("models = ['--port=1']").contains("begins with -"));
    }

    #[test]
    fn what_is_printed_can_be_read_again() {
        let argv = ["farthing", "serve", "a", "b", "--api-key", "secret", "--patience", "5", "--name", "007"];
        let text = printed(&argv.map(OsString::from)).unwrap();
        assert!(!text.contains("secret") && text.contains("# api-key: 1 given"), "{text}");
        let again: Table = text.parse().unwrap();
        assert_eq!(again["models"], Value::from(vec!["a", "b"]));
        assert_eq!((again["patience"].as_integer(), again["name"][0].as_str()), (Some(5), Some("007")));
        assert!(merge(&text, &[]).unwrap().contains(&"--patience=5".to_string()));
    }
}
