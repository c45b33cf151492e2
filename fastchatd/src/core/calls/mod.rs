//! The API's methods, each with the part of the core that it changes.
//!
//! **Invariant**: every call is answered exactly once, now or by what it waits for.

mod accounts;
mod chats;
mod contacts;
mod devices;
mod events;
mod groups;
mod keys;
mod outbox;
mod send;
mod settings;

use fastchat_ipc::{ApiError, Discovery, ErrorCode, METHODS, MethodInfo, Request};

use super::{Broken, CallId, Core};

/// What a method's part of the core gives back: an outcome for the caller, or the end of everything.
type Outcome<T> = Result<Result<T, ApiError>, Broken>;

/// Leaves a method early with the caller's error.
macro_rules! checked {
    ($outcome:expr) => {
        match $outcome {
            Ok(value) => value,
            Err(error) => return Ok(Err(error)),
        }
    };
}
use checked;

impl Core {
    pub(super) fn take_call(&mut self, call: CallId, request: Request) -> Result<(), Broken> {
        match request {
            Request::Discover(_) => self.answer(call, Ok(discovery())),
            Request::DaemonStatus(_) => {
                let status = self.status();
                self.answer(call, status);
            }
            Request::DaemonDoctor(_) => {
                let doctor = self.doctor();
                self.answer(call, Ok(doctor));
            }
            Request::DaemonUnlock(_) => {
                let status = self.status();
                self.answer(call, status);
            }
            // The engine does these first, and then says so with an input of its own.
            Request::Register(_)
            | Request::Login(_)
            | Request::BeginLink(_)
            | Request::AwaitLink(_)
            | Request::FinishLink(_)
            | Request::ChangePassword(_)
            | Request::RotateKey(_)
            | Request::LinkDevice(_)
            | Request::ConfirmDeviceLink(_)
            | Request::CreateBackup(_)
            | Request::VerifyBackup(_)
            | Request::RestoreBackup(_) => {
                let error = ApiError::new(ErrorCode::Internal, "signing in does not come here");
                self.answer::<()>(call, Err(error));
            }
            Request::ListAccounts(_) => {
                let accounts = self.accounts();
                self.answer(call, accounts);
            }
            Request::LogoutAccount(params) => self.log_out(call, &params)?,
            Request::SendMessage(params) => self.send(call, params)?,
            Request::ListChats(params) => {
                let chats = self.list_chats(&params)?;
                self.answer(call, chats);
            }
            Request::CountUnread(params) => {
                let unread = self.account_number(&params.account).map(|account| self.unread(account));
                self.answer(call, unread);
            }
            Request::ReadHistory(params) => {
                let history = self.history(&params)?;
                self.answer(call, history);
            }
            Request::MarkChatRead(params) => {
                let unread = self.mark_read(&params)?;
                self.answer(call, unread);
            }
            Request::MuteChat(params) => {
                let chat = self.mute(&params, true)?;
                self.answer(call, chat);
            }
            Request::UnmuteChat(params) => {
                let chat = self.mute(&params, false)?;
                self.answer(call, chat);
            }
            Request::ListOutbox(params) => {
                let outbox = self.list_outbox(&params)?;
                self.answer(call, outbox);
            }
            Request::RetryOutbox(params) => {
                let changed = self.retry_outbox(&params)?;
                self.answer(call, changed);
            }
            Request::CancelOutbox(params) => {
                let changed = self.cancel_outbox(&params)?;
                self.answer(call, changed);
            }
            Request::ReadEventLog(params) => self.read_event_log(call, params)?,
            Request::SubscribeEvents(params) => {
                let subscribed = self.subscribed(&params);
                self.answer(call, subscribed);
            }
            other => return self.take_people_call(call, other),
        }
        Ok(())
    }

    /// Calls about people, their keys and the notifications about them.
    fn take_people_call(&mut self, call: CallId, request: Request) -> Result<(), Broken> {
        match request {
            Request::AddContact(params) => self.add_contact(call, params)?,
            Request::ListContacts(params) => {
                let contacts = self.list_contacts(&params);
                self.answer(call, contacts);
            }
            Request::AcceptContact(params) => {
                let contact = self.accept(&params)?;
                self.answer(call, contact);
            }
            Request::DeclineContact(params) => {
                let contact = self.decline(&params)?;
                self.answer(call, contact);
            }
            Request::BlockContact(params) => {
                let contact = self.block(&params)?;
                self.answer(call, contact);
            }
            Request::UnblockContact(params) => {
                let contact = self.unblock(&params)?;
                self.answer(call, contact);
            }
            Request::RemoveContact(params) => {
                let removed = self.remove_contact(&params)?;
                self.answer(call, removed);
            }
            Request::SetContactAlias(params) => {
                let contact = self.set_alias(&params)?;
                self.answer(call, contact);
            }
            Request::ShowKeys(params) => self.show_keys(call, params)?,
            Request::VerifyContactKey(params) => {
                let keys = self.verify_key(&params)?;
                self.answer(call, keys);
            }
            Request::TrustContactKey(params) => {
                let keys = self.trust_key(&params)?;
                self.answer(call, keys);
            }
            Request::NotificationStatus(_) => {
                let status = self.notify_status();
                self.answer(call, Ok(status));
            }
            Request::TestNotification(_) => self.test_notification(call),
            Request::SetDoNotDisturb(params) => {
                let status = self.set_dnd(&params)?;
                self.answer(call, status);
            }
            Request::SetNotificationPreview(params) => {
                let status = self.set_preview(&params)?;
                self.answer(call, status);
            }
            other => return self.take_group_call(call, other),
        }
        Ok(())
    }
}

/// What there is to call.
#[must_use]
pub fn discovery() -> Discovery {
    let methods = METHODS.iter().map(|method| MethodInfo {
        name: method.name.into(),
        dbus: method.dbus.into(),
        summary: method.summary.into(),
    });
    Discovery { version: env!("CARGO_PKG_VERSION").into(), methods: methods.collect() }
}
