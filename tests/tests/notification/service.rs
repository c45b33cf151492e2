//! A made-up notification service with inline replies.
//!
//! **Invariant**: whatever it is asked to do reaches the test, in order.

use std::collections::HashMap;

use anyhow::{Context, Result};
use fastchat_tests::{PrivateBus, within};
use tokio::sync::mpsc;
use zbus::{Connection, interface, object_server::SignalEmitter, zvariant::OwnedValue};

/// Its name on the bus.
pub(crate) const NAME: &str = "org.freedesktop.Notifications";
/// Its object.
pub(crate) const PATH: &str = "/org/freedesktop/Notifications";

/// What the service was asked to do.
#[derive(Debug)]
pub(crate) enum Asked {
    Show { id: u32, replaces: u32, summary: String, body: String, actions: Vec<String> },
    Close(u32),
}

struct MadeUp {
    asked: mpsc::UnboundedSender<Asked>,
    last: u32,
}

#[interface(name = "org.freedesktop.Notifications")]
impl MadeUp {
    fn get_capabilities(&self) -> Vec<&str> {
        vec!["actions", "body", "body-markup", "inline-reply"]
    }

    fn get_server_information(&self) -> (&str, &str, &str, &str) {
        ("made-up", "tests", "1", "1.2")
    }

    #[expect(clippy::too_many_arguments, reason = "the specification has them")]
    fn notify(
        &mut self,
        _name: &str,
        replaces: u32,
        _icon: &str,
        summary: String,
        body: String,
        actions: Vec<String>,
        _hints: HashMap<String, OwnedValue>,
        _expires: i32,
    ) -> u32 {
        let id = if replaces == 0 { self.last + 1 } else { replaces };
        self.last = self.last.max(id);
        // The test may be over.
        let _ = self.asked.send(Asked::Show { id, replaces, summary, body, actions });
        id
    }

    fn close_notification(&self, id: u32) {
        let _ = self.asked.send(Asked::Close(id));
    }

    /// Somebody typed an answer.
    #[zbus(signal)]
    async fn notification_replied(emitter: &SignalEmitter<'_>, id: u32, text: &str) -> zbus::Result<()>;

    /// It shows no more.
    #[zbus(signal)]
    async fn notification_closed(emitter: &SignalEmitter<'_>, id: u32, reason: u32) -> zbus::Result<()>;
}

/// The service, running.
pub(crate) struct Service {
    connection: Connection,
    asked: mpsc::UnboundedReceiver<Asked>,
}

impl Service {
    /// Starts it.
    pub(crate) async fn start(bus: &PrivateBus) -> Result<Self> {
        let (tell, asked) = mpsc::unbounded_channel();
        let connection = bus.connect().await?;
        connection.object_server().at(PATH, MadeUp { asked: tell, last: 0 }).await?;
        connection.request_name(NAME).await?;
        Ok(Self { connection, asked })
    }

    /// What it is asked for next.
    pub(crate) async fn next(&mut self) -> Result<Asked> {
        let asked = async { self.asked.recv().await.context("the service has ended") };
        within("the notification service is asked for something", asked).await
    }

    /// Somebody types an answer into a notification.
    pub(crate) async fn reply(&self, id: u32, text: &str) -> Result<()> {
        let emitter = SignalEmitter::new(&self.connection, PATH)?;
        Ok(MadeUp::notification_replied(&emitter, id, text).await?)
    }
}
