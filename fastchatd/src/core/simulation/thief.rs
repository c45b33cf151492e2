//! A thief who has a removed device, as it is now or as it was at some time before, and all that the server ever saw.
//!
//! **Invariant**: nothing that was written after a removal opens with what was on the device before it.

use fastchat_e2ee::Transaction;
use fastchat_wire::{MessageId, v1};

use super::{
    disk::open_store,
    server::Conversation,
    world::{ACCOUNT, World},
};
use crate::store::Store;

impl World {
    /// What a thief would read of groups that a device was removed from.
    pub(super) fn steal(&self) -> Vec<String> {
        let mut findings = Vec::new();
        for (at, found) in self.server.conversations.iter().enumerate() {
            for (who, peer) in self.peers.iter().enumerate() {
                let removed = found.spans.iter().filter(|span| span.device == who);
                let Some(removed) = removed.filter_map(|span| span.removed_at).min() else { continue };
                let again = found.spans.iter().filter(|span| span.device == who && span.after > removed);
                let again = again.map(|span| span.after).min().unwrap_or(u64::MAX);
                let mut tell = |store: &Store, which: &str| {
                    for seq in opened(store, found).into_iter().filter(|seq| *seq > removed && *seq <= again) {
                        let label = self.label(who);
                        findings
                            .push(format!("{label}, removed at {removed} from group {at}, opens {seq} with {which}"));
                    }
                };
                tell(&self.core(who).store, "what it has");
                for copy in &peer.copies {
                    tell(&open_store(copy.path()), "what it had");
                }
            }
        }
        findings
    }
}

/// Which of a log's messages open with a store's state, if it follows the log from where it is.
fn opened(store: &Store, found: &Conversation) -> Vec<u64> {
    let cursor = store.tables().conversations.get(&(ACCOUNT, found.id)).map_or(0, |row| row.cursor);
    let state = store.state(ACCOUNT);
    let mut transaction = Transaction::new(&state);
    let mut opened = Vec::new();
    for record in &found.log {
        let entry = &record.entry;
        let id = MessageId::from_wire(&entry.message_id).unwrap();
        if entry.kind() != v1::EntryKind::Application {
            if entry.seq > cursor {
                let _followed = transaction.process(found.id.0, id.0, &entry.payload);
            }
        } else if transaction.open(found.id.0, id.0, &entry.payload).is_ok() {
            opened.push(entry.seq);
        }
    }
    opened
}
