//! Accounts: signing in and out, the daemon at a glance, and what could be wrong with it.
//!
//! **Invariant**: an account is on this daemon once; signing in again keeps its contacts and its history.

use fastchat_ipc::{
    Account, AccountList, AccountState, ApiError, Check, Doctor, Empty, ErrorCode, EventKind, KeyStore, Logout, Status,
    Verdict,
};
use fastchat_wire::{Address, ConversationId, Pin, v1};
use v1::client_frame::Body as Ask;

use crate::{
    api::Alert,
    fault,
    link::AccountKey,
    sign_in::SignedIn,
    store::{StoreError, Write, rows::AccountRow},
};

use super::super::{Action, Broken, CallId, Core, live::Asked};

impl Core {
    pub(in crate::core) fn status(&self) -> Result<Status, ApiError> {
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_ms: self.now.saturating_sub(self.process.started_at_ms),
            locked: false,
            key_store: self.process.key_store,
            bus: self.surroundings.bus,
            cursor: self.newest_cursor().to_string(),
            accounts: self.accounts()?.accounts,
        })
    }

    pub(in crate::core) fn accounts(&self) -> Result<AccountList, ApiError> {
        let numbers = self.store.tables().accounts.keys();
        Ok(AccountList { accounts: numbers.map(|number| self.view_account(*number)).collect::<Result<_, _>>()? })
    }

    /// Whether somebody may sign in there: not while the account is here and its session is good. Gives the key that the
    /// server is known by.
    ///
    /// # Errors
    /// `AccountExists`.
    pub fn may_sign_in(&self, address: &Address) -> Result<Option<Pin>, ApiError> {
        let full = address.to_string();
        let accounts = &self.store.tables().accounts;
        let number = accounts.keys().find(|number| self.full_name(**number) == full);
        match number.and_then(|number| self.live.get(number)) {
            Some(live) if live.state != AccountState::LoggedOut && live.state != AccountState::Untrusted => {
                Err(ApiError::new(ErrorCode::AccountExists, format!("{full} is set up on this daemon already"))
                    .hint("`fastchatctl status` shows it; `fastchatctl logout` removes it"))
            }
            _ => Ok(accounts.values().find(|row| row.server == address.server).and_then(|row| row.pin)),
        }
    }

    pub(in crate::core) fn take_sign_in(&mut self, call: CallId, signed: SignedIn) -> Result<(), Broken> {
        let bytes = |error| {
            tracing::error!(error, "a fresh key cannot be encoded");
            StoreError::Damaged
        };
        let mut settings = self.store.tables().settings.clone();
        let known = self
            .store
            .tables()
            .accounts
            .iter()
            .find(|(_, row)| row.name == signed.account && row.server == signed.server);
        let (number, old) = match known {
            Some((number, row)) => (*number, Some(row.clone())),
            None => {
                settings.next_account += 1;
                (settings.next_account, None)
            }
        };
        let row = AccountRow {
            name: signed.account,
            server: signed.server,
            pin: signed.pin,
            identity: signed.identity.to_bytes().map_err(|error| bytes(error.to_string()))?.to_vec(),
            device: signed.device.to_bytes().map_err(|error| bytes(error.to_string()))?.to_vec(),
            device_name: signed.device_name,
            token: signed.token.as_bytes().to_vec(),
            last_resort_at_ms: 0,
            next_contact: old.as_ref().map_or(1, |row| row.next_contact),
            next_chat: old.as_ref().map_or(1, |row| row.next_chat),
            devices: Vec::new(),
            revoked: Vec::new(),
            rotation: Vec::new(),
        };
        if old.is_some() {
            self.actions.push(Action::StopLink(AccountKey(number)));
            self.leave_all(number)?;
        }
        let mut write = Write::default();
        write.settings(settings);
        write.account(number, row);
        self.commit(write, number, Vec::new())?;
        // Now the account has a name that the event can bear.
        self.commit(Write::default(), number, vec![EventKind::AccountChanged {}])?;
        fault::point("signed-in");
        self.start(number)?;
        self.wait_until_reachable(call, number);
        Ok(())
    }

    /// The account has a new device here: direct conversations of the old one are replaced, chat by chat, on the next
    /// message, and the new one joins the groups by itself.
    fn leave_all(&mut self, account: u32) -> Result<(), Broken> {
        let chats: Vec<(u32, Option<ConversationId>)> =
            self.all_chats_of(account).map(|(number, row)| (number, row.conversation)).collect();
        for (chat, conversation) in chats {
            if self.group_row(account, chat).is_some() {
                if let Some(conversation) = conversation {
                    self.state_lost(account, chat, conversation)?;
                }
                continue;
            }
            let mut write = Write::default();
            write.creation(account, chat, None)?;
            self.commit(write, account, Vec::new())?;
            if let Some(conversation) = conversation {
                self.leave(account, chat, conversation)?;
            }
        }
        Ok(())
    }

    pub(in crate::core) fn log_out(&mut self, call: CallId, params: &Logout) -> Result<(), Broken> {
        let account = match self.account_number(&params.account) {
            Ok(account) => account,
            Err(error) => {
                self.answer::<()>(call, Err(error));
                return Ok(());
            }
        };
        let waiting = self.waiting_messages(account);
        let Some(live) = self.live.get(&account) else { return Ok(()) };
        let (up, ended) = (live.is_up(), live.state == AccountState::LoggedOut);
        if waiting > 0 && !params.force {
            let error = ApiError::new(ErrorCode::Refused, format!("{waiting} messages wait in the outbox"))
                .hint("`fastchatctl outbox list` shows them; `fastchatctl logout --force` drops them");
            self.answer::<()>(call, Err(error));
        } else if up {
            self.ask(account, Asked::Logout(call), Ask::Logout(v1::Logout {}));
        } else if params.force || ended {
            self.logged_out(account, call)?;
        } else {
            let error = ApiError::new(ErrorCode::Unreachable, "the server cannot be told now")
                .hint("try again when online; `fastchatctl logout --force` removes the account here all the same");
            self.answer::<()>(call, Err(error));
        }
        Ok(())
    }

    /// The session is over: everything of the account goes.
    pub(in crate::core) fn logged_out(&mut self, account: u32, call: CallId) -> Result<(), Broken> {
        self.actions.push(Action::StopLink(AccountKey(account)));
        let full = self.full_name(account);
        let shown = self.chats_of(account).filter(|(_, chat)| chat.unread > 0).map(|(_, chat)| chat.id.clone());
        for chat in shown.collect::<Vec<_>>() {
            self.actions.push(Action::Alert(Alert::Withdraw { account: full.clone(), chat }));
        }
        self.commit(Write::default(), account, vec![EventKind::AccountChanged {}])?;
        self.store.forget_account(account)?;
        self.live.remove(&account);
        self.stalled.remove(&account);
        self.work.retain(|key, _| key.0 != account);
        self.answer(call, Ok(Empty {}));
        Ok(())
    }

    pub(in crate::core) fn doctor(&self) -> Doctor {
        let mut checks = vec![
            check("store", self.store.has_room(), "open and sealed", "the disk is full", "free some space"),
            self.check_key_store(),
            check(
                "session bus",
                self.surroundings.bus,
                "connected; org.fastchat.FastChat1 is ours",
                "not connected: the socket works, D-Bus programs and notifications do not",
                "start the daemon inside a desktop session, or set DBUS_SESSION_BUS_ADDRESS",
            ),
            check(
                "notifications",
                matches!(self.surroundings.notify_backend.as_str(), "service" | "basic"),
                &self.surroundings.notify_server,
                "no notification service answers",
                "start one (dunst, mako, your desktop's)",
            ),
        ];
        if self.store.tables().accounts.is_empty() {
            checks.push(Check {
                check: "account".into(),
                verdict: Verdict::Warning,
                found: "none yet".into(),
                next: "fastchatctl register NAME@HOST".into(),
            });
        }
        for number in self.store.tables().accounts.keys() {
            if let Ok(account) = self.view_account(*number) {
                checks.push(check_account(&account));
            }
        }
        Doctor { checks }
    }

    fn check_key_store(&self) -> Check {
        let (verdict, found, next) = match self.process.key_store {
            KeyStore::SecretService => (Verdict::Ok, "the Secret Service keeps the store's key", ""),
            KeyStore::Passphrase => (Verdict::Ok, "a passphrase protects the store's key", ""),
            KeyStore::File => (
                Verdict::Warning,
                "a file keeps the store's key: whoever reads the disk reads the store",
                "full-disk encryption, or sign in anew with --key-store secret-service or passphrase",
            ),
            KeyStore::Auto => (Verdict::Warning, "nothing protects the store yet", "sign in"),
        };
        Check { check: "key protection".into(), verdict, found: found.into(), next: next.into() }
    }
}

fn check(what: &str, good: bool, found: &str, wrong: &str, next: &str) -> Check {
    let (verdict, found, next) = if good { (Verdict::Ok, found, "") } else { (Verdict::Warning, wrong, next) };
    Check { check: what.into(), verdict, found: found.into(), next: next.into() }
}

fn check_account(account: &Account) -> Check {
    let (verdict, found, next) = match account.state {
        AccountState::Online => (Verdict::Ok, "online".to_owned(), ""),
        AccountState::LoggedOut => (Verdict::Failed, account.reason.clone(), "fastchatctl login"),
        AccountState::Untrusted => (Verdict::Failed, account.reason.clone(), "ask the server's operator"),
        _ => {
            (Verdict::Warning, format!("not online: {}", account.reason), "check the network and the server's address")
        }
    };
    Check { check: format!("account {}", account.account), verdict, found, next: next.into() }
}
