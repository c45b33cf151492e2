//! Plain notifications by `notify-rust`, where no service is to be had on our own connection: a text, no buttons.
//!
//! **Invariant**: waits for nobody longer than [`DEADLINE`].

use std::time::Duration;

use tokio::time::timeout;

use super::content::Content;

const DEADLINE: Duration = Duration::from_secs(5);

/// Shows `content` in the place of `replaces` (0: a new one). The service's answer is its id.
pub(super) async fn show(replaces: u32, content: &Content) -> Result<u32, String> {
    let mut notification = notify_rust::Notification::new();
    // What it can do is not known. Escapes that show are the lesser evil than markup that somebody else wrote.
    notification.appname("FastChat").summary(&content.summary).body(&content.body(true)).icon("org.fastchat.FastChat");
    if replaces != 0 {
        notification.id(replaces);
    }
    match timeout(DEADLINE, notification.show_async()).await {
        Ok(Ok(handle)) => Ok(handle.id()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it did not answer in time".to_owned()),
    }
}
