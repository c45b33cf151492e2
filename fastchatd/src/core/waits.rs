//! Calls that are answered later: sends that wait for a state, reads that wait for an event, calls that need a lookup.
//!
//! **Invariant**: each waiting call has a deadline and is answered exactly once.

use std::collections::{BTreeMap, BTreeSet};

use fastchat_ipc::{ApiError, ErrorCode, MessageState, ReadEvents, Request, SendResult, Sent, Wait};
use fastchat_wire::{AccountName, DeviceId, MessageId};

use crate::store::rows::{Standing, TaskRow};

use super::{Broken, CallId, Core};

/// The waiting calls.
#[derive(Default)]
pub(super) struct Waits {
    pub(super) sends: BTreeMap<CallId, WaitingSend>,
    pub(super) reads: BTreeMap<CallId, (ReadEvents, u64)>,
    pub(super) lookups: BTreeMap<CallId, WaitingLookup>,
    pub(super) groups: BTreeMap<CallId, WaitingGroup>,
    /// Sign-ins that are answered when others can reach the new device.
    pub(super) sign_ins: BTreeMap<CallId, (u32, u64)>,
    /// Whether a message's state or the event log changed since the waits were looked at.
    pub(super) check: bool,
    pub(super) housekeeping_at: u64,
    /// Renames of devices that wait for the list to show them.
    pub(super) renamed: Vec<(CallId, u32, DeviceId)>,
    /// Messages that another device of ours has read: account, chat, position.
    pub(super) read_elsewhere: Vec<(u32, u32, u64)>,
    /// Contacts whose changed key was trusted on another device of ours.
    pub(super) trusted_elsewhere: Vec<(u32, u32)>,
}

/// A `send` that waits for its messages' state.
pub(super) struct WaitingSend {
    pub(super) account: u32,
    pub(super) level: Wait,
    pub(super) deadline: u64,
    pub(super) messages: Vec<(String, u32, MessageId)>,
}

/// A call that waits for a group's task.
pub(super) struct WaitingGroup {
    pub(super) account: u32,
    pub(super) chat: u32,
    /// By its number; `None`: for the group's creation alone.
    pub(super) task: Option<u64>,
    pub(super) deadline: u64,
}

/// A call that is tried again when the server has said who somebody is.
pub(super) struct WaitingLookup {
    pub(super) account: u32,
    pub(super) request: Request,
    pub(super) names: BTreeSet<AccountName>,
    pub(super) deadline: u64,
}

impl Waits {
    pub(super) fn next_deadline(&self) -> Option<u64> {
        let sends = self.sends.values().map(|wait| wait.deadline);
        let reads = self.reads.values().map(|(_, deadline)| *deadline);
        let lookups = self.lookups.values().map(|wait| wait.deadline);
        let sign_ins = self.sign_ins.values().map(|(_, deadline)| *deadline);
        let groups = self.groups.values().map(|wait| wait.deadline);
        sends.chain(reads).chain(lookups).chain(groups).chain(sign_ins).chain([self.housekeeping_at]).min()
    }
}

impl Core {
    /// Answers what can be answered, or has waited long enough.
    pub(super) fn settle_waits(&mut self) -> Result<(), Broken> {
        let changed = std::mem::take(&mut self.waits.check);
        let now = self.now;
        let due = |deadline: u64| changed || deadline <= now;
        let sends: Vec<CallId> = self.waits.sends.iter().filter(|(_, w)| due(w.deadline)).map(|(id, _)| *id).collect();
        let reads: Vec<CallId> = self.waits.reads.iter().filter(|(_, (_, d))| due(*d)).map(|(id, _)| *id).collect();
        for call in sends {
            self.settle_send(call)?;
        }
        let groups = self.waits.groups.iter().filter(|(_, w)| due(w.deadline)).map(|(id, _)| *id);
        for call in groups.collect::<Vec<_>>() {
            self.settle_group(call)?;
        }
        for call in reads {
            let Some((params, deadline)) = self.waits.reads.remove(&call) else { continue };
            let events = self.read_events(&params)?;
            if deadline > self.now && events.as_ref().is_ok_and(|events| events.events.is_empty()) {
                self.waits.reads.insert(call, (params, deadline));
            } else {
                self.answer(call, events);
            }
        }
        let lookups = self.waits.lookups.iter().filter(|(_, w)| w.deadline <= self.now).map(|(id, _)| *id);
        for call in lookups.collect::<Vec<_>>() {
            self.finish_lookup(call)?;
        }
        let sign_ins = self.waits.sign_ins.iter().filter(|(_, (_, deadline))| *deadline <= self.now);
        for account in sign_ins.map(|(_, (account, _))| *account).collect::<Vec<_>>() {
            self.answer_sign_ins(account);
        }
        Ok(())
    }

    /// Answers a sign-in when the server has the device's key packages, or this has taken too long.
    pub(super) fn wait_until_reachable(&mut self, call: CallId, account: u32) {
        const PUBLISH_MS: u64 = 10_000;
        self.waits.sign_ins.insert(call, (account, self.now + PUBLISH_MS));
    }

    pub(super) fn answer_sign_ins(&mut self, account: u32) {
        let calls: Vec<CallId> =
            self.waits.sign_ins.iter().filter(|(_, (waiting, _))| *waiting == account).map(|(call, _)| *call).collect();
        for call in calls {
            self.waits.sign_ins.remove(&call);
            let view = self.view_account(account);
            self.answer(call, view);
        }
    }

    /// Answers a call that waits for a group when its task is done, or has taken too long: then it shows as pending.
    fn settle_group(&mut self, call: CallId) -> Result<(), Broken> {
        let Some(wait) = self.waits.groups.remove(&call) else { return Ok(()) };
        let tasks = self.store.tasks(wait.account, wait.chat)?;
        let creating = self.store.creation(wait.account, wait.chat)?.is_some();
        // Who leaves has said so when it stands in the log; the rest is up to the others.
        let said = self.group_row(wait.account, wait.chat).is_some_and(|group| group.standing == Standing::Leaving);
        let open = |number: u64, task: &TaskRow| Some(number) == wait.task && !(said && *task == TaskRow::Leave);
        let done = !creating && !tasks.iter().any(|(number, task)| open(*number, task));
        if done || wait.deadline <= self.now {
            let group = self.view_group(wait.account, wait.chat)?;
            self.answer(call, group);
        } else {
            self.waits.groups.insert(call, wait);
        }
        Ok(())
    }

    /// A group's task has failed: whoever waits for it hears why.
    pub(super) fn fail_waiting_group(&mut self, account: u32, chat: u32, task: u64, error: &ApiError) {
        let concerned = |wait: &WaitingGroup| (wait.account, wait.chat, wait.task) == (account, chat, Some(task));
        let calls = self.waits.groups.iter().filter(|(_, wait)| concerned(wait)).map(|(call, _)| *call);
        for call in calls.collect::<Vec<_>>() {
            self.waits.groups.remove(&call);
            self.answer::<()>(call, Err(error.clone()));
        }
    }

    fn settle_send(&mut self, call: CallId) -> Result<(), Broken> {
        let Some(wait) = self.waits.sends.remove(&call) else { return Ok(()) };
        let result = self.send_result(wait.account, &wait.messages)?;
        if wait.deadline <= self.now || result.messages.iter().all(|sent| is_settled(sent, wait.level)) {
            self.answer(call, Ok(result));
        } else {
            self.waits.sends.insert(call, wait);
        }
        Ok(())
    }

    /// Answers a `send` now, or as soon as its messages have come as far as it wants.
    pub(super) fn answer_send(&mut self, call: CallId, wait: WaitingSend) {
        self.waits.sends.insert(call, wait);
        self.waits.check = true;
    }

    /// Puts a call off until the server has said who `names` are. The call is tried again then.
    pub(super) fn look_up(&mut self, call: CallId, account: u32, request: Request, names: BTreeSet<AccountName>) {
        const LOOKUP_MS: u64 = 5_000;
        for name in &names {
            self.ask_who(account, name);
        }
        let deadline = self.now + LOOKUP_MS;
        self.waits.lookups.insert(call, WaitingLookup { account, request, names, deadline });
    }

    /// The server has answered about `name`: with its identity key in the directory, or why not.
    pub(super) fn looked_up(
        &mut self,
        account: u32,
        name: &AccountName,
        outcome: &Result<(), ApiError>,
    ) -> Result<(), Broken> {
        let concerned: Vec<CallId> = self
            .waits
            .lookups
            .iter()
            .filter(|(_, wait)| wait.account == account && wait.names.contains(name))
            .map(|(call, _)| *call)
            .collect();
        for call in concerned {
            match outcome {
                Err(error) => {
                    self.waits.lookups.remove(&call);
                    self.answer::<()>(call, Err(error.clone()));
                }
                Ok(()) => {
                    let Some(wait) = self.waits.lookups.get_mut(&call) else { continue };
                    wait.names.remove(name);
                    if wait.names.is_empty() {
                        self.finish_lookup(call)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Tries calls again that waited for the server: it went away.
    pub(super) fn end_lookups(&mut self, account: u32) -> Result<(), Broken> {
        let waiting = self.waits.lookups.iter().filter(|(_, wait)| wait.account == account).map(|(call, _)| *call);
        for call in waiting.collect::<Vec<_>>() {
            self.finish_lookup(call)?;
        }
        Ok(())
    }

    fn finish_lookup(&mut self, call: CallId) -> Result<(), Broken> {
        let Some(wait) = self.waits.lookups.remove(&call) else { return Ok(()) };
        self.waits.check = true;
        if wait.names.is_empty() {
            return self.take_call(call, wait.request);
        }
        match wait.request {
            // What was written is kept, and goes out (or fails) when the server answers again.
            Request::SendMessage(params) => self.send_unasked(call, &params),
            _ => {
                let error = ApiError::new(ErrorCode::Unreachable, "the server did not answer in time")
                    .hint("`fastchatctl status` shows the connection; try again when it is online");
                self.answer::<()>(call, Err(error));
                Ok(())
            }
        }
    }

    /// The state of each message, as `send` answers it.
    pub(super) fn send_result(
        &self,
        account: u32,
        messages: &[(String, u32, MessageId)],
    ) -> Result<SendResult, Broken> {
        let sent = messages.iter().map(|(to, chat, id)| self.sent(account, to, *chat, *id));
        Ok(SendResult { messages: sent.collect::<Result<_, _>>()? })
    }
}

fn is_settled(sent: &Sent, level: Wait) -> bool {
    match sent.state {
        MessageState::Queued => level == Wait::Queued,
        MessageState::Sent => level <= Wait::Sent,
        MessageState::Held
        | MessageState::Delivered
        | MessageState::Failed
        | MessageState::Cancelled
        | MessageState::Received => true,
    }
}
