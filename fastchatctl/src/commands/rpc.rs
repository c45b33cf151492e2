//! `rpc`: any method of the daemon, by its name.
//!
//! **Invariant**: what is sent is what was given; the daemon checks it.

use std::io::{self, IsTerminal, Read};

use clap::Args;
use serde_json::{Map, Value};

use crate::commands::Outcome;
use crate::daemon::Context;
use crate::failure::{Exit, Failure};
use crate::safe_text;

/// The longest line that the daemon takes is 1 MiB; parameters are no longer.
const LONGEST: u64 = 1 << 20;

/// Call any method of the daemon and print its result as JSON.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  fastchatctl rpc rpc.discover
  fastchatctl rpc history '{\"chat\":\"bob\",\"limit\":1}'
  echo '{\"to\":[\"bob\"],\"text\":\"hi\"}' | fastchatctl rpc send -")]
pub(crate) struct Rpc {
    /// The method's name
    method: String,
    /// Its parameters, an object; `-` reads them from stdin
    #[arg(value_name = "JSON", default_value = "{}", hide_default_value = true)]
    params: String,
}

impl Rpc {
    /// Carries it out.
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        let params = self.params(context)?;
        let result = context.connect().await?.call_raw(&self.method, params).await?;
        if context.out.json || !io::stdout().is_terminal() {
            context.out.json(&result)?;
        } else {
            let pretty = serde_json::to_string_pretty(&result).unwrap_or_default();
            context.out.text(safe_text::json(&pretty).replace("\\u000a", "\n"))?;
        }
        Ok(Exit::Ok)
    }

    /// The parameters; `--account` is put in where they name none.
    fn params(&self, context: &Context) -> Result<Value, Failure> {
        let text = if self.params == "-" { from_stdin()? } else { self.params.clone() };
        let mut params: Map<String, Value> = serde_json::from_str(&text).map_err(|error| {
            Failure::usage(format!("the parameters are not a JSON object: {error}"))
                .next("`fastchatctl rpc history '{\"chat\":\"bob\"}'` shows the form")
        })?;
        if !context.account.is_empty() && !params.contains_key("account") {
            params.insert("account".into(), context.account.clone().into());
        }
        Ok(Value::Object(params))
    }
}

fn from_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    let read = io::stdin().lock().take(LONGEST).read_to_string(&mut text);
    read.map_err(|error| Failure::usage(format!("cannot read the parameters from stdin: {error}")))?;
    Ok(text)
}
