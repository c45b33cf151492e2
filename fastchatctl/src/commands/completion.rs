//! `completion`: scripts that teach a shell the command line.
//!
//! **Invariant**: the script is made from the same definition that reads the command line.

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::generate;

use crate::cli::Cli;
use crate::commands::Outcome;
use crate::daemon::Context;
use crate::failure::Exit;

/// Print a completion script for a shell.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  fastchatctl completion bash > ~/.local/share/bash-completion/completions/fastchatctl
  fastchatctl completion zsh > ~/.zfunc/_fastchatctl
  fastchatctl completion fish > ~/.config/fish/completions/fastchatctl.fish")]
pub(crate) struct Completion {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Completion {
    /// Carries it out.
    pub(crate) fn run(self, context: &Context) -> Outcome {
        let shell = match self.shell {
            Shell::Bash => clap_complete::Shell::Bash,
            Shell::Zsh => clap_complete::Shell::Zsh,
            Shell::Fish => clap_complete::Shell::Fish,
        };
        let mut script = Vec::new();
        generate(shell, &mut Cli::command(), "fastchatctl", &mut script);
        context.out.raw(&script)?;
        Ok(Exit::Ok)
    }
}
