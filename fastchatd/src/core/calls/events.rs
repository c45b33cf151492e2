//! The event log, as clients read it.
//!
//! **Invariant**: reading from a cursor gives every event after it that is kept, and says so when some are not.

use fastchat_ipc::{ApiError, Event, EventKind, Events, ReadEvents, Subscribe, Subscribed};

use crate::api::cursor_number;

use super::super::{Broken, CallId, Core};
use super::Outcome;

const DEFAULT_EVENTS: u32 = 100;
const MOST_EVENTS: u32 = 1000;
const LONGEST_WAIT_MS: u64 = 60_000;
/// Bytes of text in one answer at most.
const EVENTS_BYTES: usize = 128 * 1024;

impl Core {
    pub(in crate::core) fn read_event_log(&mut self, call: CallId, params: ReadEvents) -> Result<(), Broken> {
        let events = self.read_events(&params)?;
        match &events {
            Ok(found) if found.events.is_empty() && params.wait_ms > 0 => {
                let deadline = self.now + params.wait_ms.min(LONGEST_WAIT_MS);
                self.waits.reads.insert(call, (params, deadline));
            }
            _ => self.answer(call, events),
        }
        Ok(())
    }

    pub(in crate::core) fn read_events(&self, params: &ReadEvents) -> Outcome<Events> {
        let since = if params.since.is_empty() { Ok(0) } else { cursor_number(&params.since) };
        let since = super::checked!(since);
        let limit = if params.limit == 0 { DEFAULT_EVENTS } else { params.limit.min(MOST_EVENTS) } as usize;
        let (first, newest) = (self.store.tables().first_event, self.newest_cursor());
        if since > newest {
            // A cursor of another store, or from before a disk was set back.
            return Ok(Ok(self.lost(newest)));
        }
        if since > 0 && since + 1 < first {
            return Ok(Ok(self.lost(first - 1)));
        }
        let mut events = Vec::new();
        let mut bytes = 0;
        for (number, row) in self.store.events_after(since, limit)? {
            let kind = row.event_kind().map_err(|_| crate::store::StoreError::Damaged)?;
            let kind = match self.store.tables().accounts.keys().find(|n| self.full_name(**n) == row.account) {
                Some(account) => self.with_message(*account, kind)?,
                None => kind,
            };
            if let EventKind::MessageReceived { message: Some(message), .. } = &kind {
                bytes += message.text.len();
            }
            events.push(Event {
                cursor: number.to_string(),
                at_ms: row.at_ms,
                account: row.account,
                durable: true,
                kind,
            });
            if bytes > EVENTS_BYTES {
                break;
            }
        }
        let cursor = events.last().map_or(since.to_string(), |event| event.cursor.clone());
        Ok(Ok(Events { events, cursor }))
    }

    fn lost(&self, cursor: u64) -> Events {
        let cursor = cursor.to_string();
        let event = Event {
            cursor: cursor.clone(),
            at_ms: self.now,
            account: String::new(),
            durable: true,
            kind: EventKind::EventsLost {},
        };
        Events { events: vec![event], cursor }
    }

    pub(in crate::core) fn subscribed(&self, params: &Subscribe) -> Result<Subscribed, ApiError> {
        let cursor = if params.since.is_empty() { self.newest_cursor() } else { cursor_number(&params.since)? };
        Ok(Subscribed { cursor: cursor.to_string() })
    }
}
