//! Where the programs under test are.
//!
//! **Invariant**: a program is taken from one place only, so a test never runs one that is installed.

use std::{env, path::PathBuf};

use anyhow::{Context, Result, bail};

/// Names the directory with the programs.
const DIRECTORY_VARIABLE: &str = "FASTCHAT_BIN";

/// The program `name`: in `$FASTCHAT_BIN`, else beside the directory of the test's own executable.
///
/// # Errors
/// It is not there; the text says how to build it.
pub fn program(name: &str) -> Result<PathBuf> {
    let directory = match env::var_os(DIRECTORY_VARIABLE).filter(|directory| !directory.is_empty()) {
        Some(directory) => PathBuf::from(directory),
        None => {
            let own = env::current_exe().context("the test's own executable")?;
            // target/<profile>/deps/conversation-… or target/<profile>/examples/figures
            let profile = own.parent().and_then(|deps| deps.parent()).context("the test's build directory")?;
            profile.to_owned()
        }
    };
    let path = directory.join(name);
    if !path.is_file() {
        bail!(
            "{} is not there: build the programs first with `cargo build --workspace` (same profile and target \
             directory), or name their directory in ${DIRECTORY_VARIABLE}",
            path.display()
        );
    }
    Ok(path)
}
