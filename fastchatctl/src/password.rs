//! Passwords and passphrases: asked for on the terminal, or read from stdin or a file; never an argument.
//!
//! **Invariant**: a secret is wiped when it is dropped and stands in no text that is printed.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::failure::{Exit, Failure};
use crate::output::Output;

/// The longest secret that is read, in bytes.
const LONGEST: u64 = 1024;

/// A secret, and where it may come from without asking.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// What it is called: `password`, `passphrase`.
    pub(crate) what: &'static str,
    /// From the first line of stdin.
    pub(crate) stdin: bool,
    /// From the first line of this file.
    pub(crate) file: Option<PathBuf>,
    /// The options that give it where nobody can be asked, to name in an error.
    pub(crate) ways: &'static str,
}

/// Two secrets from stdin, one on each of the first two lines.
pub(crate) fn two_lines(what: &'static str) -> Result<(Zeroizing<String>, Zeroizing<String>), Failure> {
    let mut lines = read_lines(what, &mut io::stdin().lock(), "stdin", 2)?.into_iter();
    match (lines.next(), lines.next()) {
        (Some(first), Some(second)) if !first.is_empty() && !second.is_empty() => Ok((first, second)),
        _ => Err(Failure::usage(format!("stdin holds no two {what}s"))
            .next(format!("the old {what} stands on the first line, the new one on the second"))),
    }
}

impl Source {
    /// Reads or asks for it. A new one is asked for twice.
    pub(crate) fn obtain(&self, prompt: &str, is_new: bool, out: Output) -> Result<Zeroizing<String>, Failure> {
        let secret = match &self.file {
            Some(path) => self.in_file(path, out)?,
            None if self.stdin => self.first_line(&mut io::stdin().lock(), "stdin")?,
            None => self.ask(prompt, is_new)?,
        };
        if secret.is_empty() {
            return Err(Failure::usage(format!("the {} is empty", self.what)));
        }
        Ok(secret)
    }

    fn in_file(&self, path: &Path, out: Output) -> Result<Zeroizing<String>, Failure> {
        let failed = |error: io::Error| {
            Failure::usage(format!("cannot read the {} from {}: {error}", self.what, path.display()))
        };
        let mut file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_file() && metadata.mode() & 0o077 != 0 {
            out.warn(format!("warning: others can read {}; next: chmod 600 {0}", path.display()));
        }
        self.first_line(&mut file, &path.display().to_string())
    }

    fn first_line(&self, reader: &mut impl Read, place: &str) -> Result<Zeroizing<String>, Failure> {
        Ok(read_lines(self.what, reader, place, 1)?.pop().unwrap_or_default())
    }

    fn ask(&self, prompt: &str, is_new: bool) -> Result<Zeroizing<String>, Failure> {
        let first = self.prompt(prompt)?;
        if is_new && *first != *self.prompt("Once more: ")? {
            return Err(Failure::usage(format!("the two {}s are not the same", self.what)).next("try again"));
        }
        Ok(first)
    }

    fn prompt(&self, prompt: &str) -> Result<Zeroizing<String>, Failure> {
        rpassword::prompt_password(prompt).map(Zeroizing::new).map_err(|error| {
            if error.kind() == io::ErrorKind::Interrupted {
                return Failure::new(Exit::Usage, "interrupted", "stopped");
            }
            Failure::usage(format!("there is no terminal to ask for the {} on ({error})", self.what))
                .next(format!("give it with {}", self.ways))
        })
    }
}

/// The first `count` lines, or as many as there are; at least one, that may be empty.
fn read_lines(
    what: &str,
    reader: &mut impl Read,
    place: &str,
    count: usize,
) -> Result<Vec<Zeroizing<String>>, Failure> {
    let room = (LONGEST + 2) * count as u64;
    // With room for all of it, so that growing leaves no copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(room as usize));
    reader
        .take(room - 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::usage(format!("cannot read the {what} from {place}: {error}")))?;
    let lines = bytes.split(|byte| *byte == b'\n').take(count).map(|line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() as u64 > LONGEST {
            return Err(Failure::usage(format!("the {what} in {place} is longer than {LONGEST} bytes")));
        }
        let text = std::str::from_utf8(line)
            .map_err(|_| Failure::usage(format!("the {what} in {place} is not UTF-8 text")))?;
        Ok(Zeroizing::new(text.to_owned()))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<String, ()> {
        let source = Source { what: "password", stdin: true, file: None, ways: "" };
        source.first_line(&mut &bytes[..], "stdin").map(|secret| secret.to_string()).map_err(|_| ())
    }

    #[test]
    fn a_secret_is_the_first_line_without_its_end() {
        assert_eq!(read(b"correct horse\nnext\n"), Ok("correct horse".into()));
        assert_eq!(read(b" kept spaces \r\n"), Ok(" kept spaces ".into()));
        assert_eq!(read(b"no newline"), Ok("no newline".into()));
    }

    #[test]
    fn two_secrets_stand_on_two_lines() {
        let read = |bytes: &[u8]| {
            let lines = read_lines("password", &mut &bytes[..], "stdin", 2).map_err(|_| ())?;
            Ok::<_, ()>(lines.iter().map(|line| line.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(read(b"old\nnew\nmore\n"), Ok(vec!["old".into(), "new".into()]));
        assert_eq!(read(b"old"), Ok(vec!["old".into()]));
        let longest = [&[b'x'; 1024][..], b"\r\n", &[b'y'; 1024], b"\r\n"].concat();
        assert_eq!(read(&longest).map(|lines| lines.iter().map(String::len).collect::<Vec<_>>()), Ok(vec![1024, 1024]));
        assert!(read(&[&[b'x'; 1025][..], b"\nnew"].concat()).is_err());
        assert!(read(&[&b"old\n"[..], &[b'x'; 1025]].concat()).is_err());
    }

    #[test]
    fn a_secret_that_is_too_long_or_no_text_is_refused() {
        assert_eq!(read(&[b'x'; 1024]).map(|secret| secret.len()), Ok(1024));
        assert!(read(&[b'x'; 1025]).is_err());
        assert!(read(b"\xff\xfe\n").is_err());
    }
}
