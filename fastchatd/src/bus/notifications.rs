//! How notifications are shown, on the root object.
//!
//! **Invariant**: there is no state here; the engine and the notifier have it.

use fastchat_ipc::method;
use serde_json::json;
use zbus::{Connection, interface, message::Header};

use super::call::{Dict, Failure, Front};

/// The object.
pub(super) struct NotificationsObject {
    front: Front,
}

impl NotificationsObject {
    pub(super) fn new(front: Front) -> Self {
        Self { front }
    }
}

/// Notifications.
#[interface(name = "org.fastchat.FastChat1.Notifications")]
impl NotificationsObject {
    /// Tells how notifications are shown here.
    async fn status(
        &self,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        self.front.call::<method::NotificationStatus>((bus, call), json!({}), options).await
    }

    /// Shows a test notification.
    async fn test(
        &self,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        self.front.call::<method::TestNotification>((bus, call), json!({}), options).await
    }

    /// Turns do-not-disturb on or off (option `for_ms`: for how long).
    async fn set_do_not_disturb(
        &self,
        on: bool,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        self.front.call::<method::SetDoNotDisturb>((bus, call), json!({"on": on}), options).await
    }

    /// Sets how much notifications show: `full`, `sender` or `none`.
    async fn set_preview(
        &self,
        preview: String,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        self.front.call::<method::SetNotificationPreview>((bus, call), json!({"preview": preview}), options).await
    }
}
