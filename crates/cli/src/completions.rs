//! `farthing completions`: scripts that complete commands, options and pulled models in a shell.

use clap::Args;
use clap_complete::Shell;
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::Shells;
use farthing::known::KNOWN;

use crate::fetch::pulled;
use crate::terminal::put;
use crate::{Failure, Outcome};

/// Print a script that completes commands, options and pulled models in a shell
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

/// Names that a MODEL may be: those that are pulled, then well-known ones. The shell adds files.
pub fn models() -> ArgValueCandidates {
    let known = || KNOWN.iter().map(|known| CompletionCandidate::new(known.name));
    ArgValueCandidates::new(move || pulled().into_iter().map(CompletionCandidate::new).chain(known()).collect())
}

pub fn run(a: Arguments) -> Outcome {
    let shells = Shells::builtins();
    let shell = shells.completer(&a.shell.to_string()).ok_or_else(|| Failure::usage("no such shell"))?;
    let mut script = Vec::new();
    shell.write_registration("COMPLETE", "farthing", "farthing", "farthing", &mut script)?;
    put(&String::from_utf8_lossy(&script))
}
