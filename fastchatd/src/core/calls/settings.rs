//! What the people set about notifications.
//!
//! **Invariant**: a setting outlives the daemon.

use fastchat_ipc::{ContactState, DoNotDisturb, NotifyStatus, SetPreview};

use crate::store::{Write, rows::Settings};

use super::super::{Action, CallId, Core, view::shown_name};
use super::Outcome;

impl Core {
    pub(in crate::core) fn notify_status(&self) -> NotifyStatus {
        let settings = &self.store.tables().settings;
        let dnd = settings.dnd_until_ms > self.now;
        let muted =
            self.store.tables().chats.iter().filter(|(_, chat)| chat.muted).filter_map(|((account, number), _)| {
                let name = match (self.contact_of_chat(*account, *number), self.group_row(*account, *number)) {
                    (Some(contact), _) => (contact.state != ContactState::Blocked).then(|| shown_name(contact))?,
                    (None, Some(group)) => group.name.clone(),
                    (None, None) => return None,
                };
                Some(format!("{} {name}", self.full_name(*account)))
            });
        let surroundings = &self.surroundings;
        let backend = if surroundings.notify_backend.is_empty() { "none" } else { &surroundings.notify_backend };
        NotifyStatus {
            backend: backend.to_owned(),
            server: surroundings.notify_server.clone(),
            capabilities: surroundings.notify_capabilities.clone(),
            reply: if surroundings.notify_reply.is_empty() { "none".into() } else { surroundings.notify_reply.clone() },
            preview: settings.preview.unwrap_or(self.process.alerts.preview),
            dnd,
            dnd_until_ms: if dnd && settings.dnd_until_ms != u64::MAX { settings.dnd_until_ms } else { 0 },
            muted: muted.collect(),
        }
    }

    pub(in crate::core) fn set_dnd(&mut self, params: &DoNotDisturb) -> Outcome<NotifyStatus> {
        let until = match (params.on, params.for_ms) {
            (false, _) => 0,
            (true, 0) => u64::MAX,
            (true, span) => self.now.saturating_add(span),
        };
        self.set_settings(|settings| settings.dnd_until_ms = until)
    }

    pub(in crate::core) fn set_preview(&mut self, params: &SetPreview) -> Outcome<NotifyStatus> {
        self.set_settings(|settings| settings.preview = Some(params.preview))
    }

    fn set_settings(&mut self, change: impl FnOnce(&mut Settings)) -> Outcome<NotifyStatus> {
        let mut settings = self.store.tables().settings.clone();
        change(&mut settings);
        let mut write = Write::default();
        write.settings(settings);
        self.store.commit(write)?;
        Ok(Ok(self.notify_status()))
    }

    pub(in crate::core) fn test_notification(&mut self, call: CallId) {
        self.actions.push(Action::TestNotification(call));
    }
}
