//! Help of this program as data: its commands from the command line's own description, and the documents that come with it.

use clap::CommandFactory;
use data::generators::manual::{CommandHelp, Flag, Manual, ManualDocument};

use crate::Arguments;

const DOCUMENTS: [(&str, &str); 5] = [
    ("README.md", include_str!("../../../README.md")),
    ("API.md", include_str!("../../../docs/API.md")),
    ("CLIENTS.md", include_str!("../../../docs/CLIENTS.md")),
    ("DATA.md", include_str!("../../../docs/DATA.md")),
    ("SERVING.md", include_str!("../../../docs/SERVING.md")),
];

/// Commands, flags, examples and documents.
pub fn manual() -> Manual {
    let mut program = Arguments::command();
    program.build();
    let commands = program.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help");
    let document = |(name, markdown): (&str, &str)| ManualDocument { name: name.into(), markdown: markdown.into() };
    Manual { commands: commands.map(command).collect(), documents: DOCUMENTS.map(document).into() }
}

fn command(command: &clap::Command) -> CommandHelp {
    let flags = command.get_arguments().filter(|argument| !argument.is_hide_set()).filter_map(|argument| {
        let takes_value = argument.get_action().takes_values();
        let value = argument.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
        Some(Flag {
            name: format!("--{}", argument.get_long()?),
            short: argument.get_short(),
            value: value.filter(|_| takes_value),
            help: argument.get_help().map(ToString::to_string).unwrap_or_default(),
        })
    });
    let after = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    CommandHelp {
        name: format!("farthing {}", command.get_name()),
        about: command.get_about().map(ToString::to_string).unwrap_or_default(),
        flags: flags.collect(),
        examples: examples(&after),
    }
}

/// Command lines of a help text, without the explanations beside them.
fn examples(help: &str) -> Vec<String> {
    let lines = help.lines().map(str::trim).filter(|line| line.starts_with("farthing "));
    lines.map(|line| line.split("   ").next().unwrap_or(line).trim().to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_has_what_help_has() {
        let manual = manual();
        let serve = manual.commands.iter().find(|command| command.name == "farthing serve").unwrap();
        let port = serve.flags.iter().find(|flag| flag.name == "--port").unwrap();
        assert_eq!(port.value.as_deref(), Some("PORT"));
        assert!(!serve.about.is_empty() && !port.help.is_empty());
        let pull = manual.commands.iter().find(|command| command.name == "farthing pull").unwrap();
        assert!(pull.examples.contains(&"farthing pull org/name:Q8_0".to_string()), "{:?}", pull.examples);
        assert!(pull.flags.iter().any(|flag| flag.name == "--json" && flag.value.is_none()));
    }
}
