//! `farthing completions`: scripts that complete commands and options in a shell.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::Outcome;
use crate::terminal::put;

/// Print a script that completes commands and options in a shell
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  bash:  farthing completions bash > ~/.local/share/bash-completion/completions/farthing
  zsh:   farthing completions zsh > ~/.zfunc/_farthing     (with fpath+=~/.zfunc before compinit)
  fish:  farthing completions fish > ~/.config/fish/completions/farthing.fish")]
pub struct Arguments {
    /// Shell
    shell: Shell,
}

pub fn run(a: Arguments) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(a.shell, &mut crate::Arguments::command(), "farthing", &mut script);
    put(&String::from_utf8_lossy(&script))
}
