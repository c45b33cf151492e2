//! The account's devices: which there are, which have gone, and what follows for groups and contacts.
//!
//! **Invariant**: a leaf of ours is taken out of a group only when two lists in a row, the second asked for after the
//! leaf was seen, do not name its device.

use std::collections::BTreeSet;

use fastchat_e2ee::{Device, Identity};
use fastchat_ipc::{ApiError, Device as DeviceView, Devices, ErrorCode, EventKind};
use fastchat_wire::{DeviceId, v1};
use v1::client_frame::Body as Ask;

use crate::{
    api::Alert,
    fault,
    sign_in::Rotated,
    store::{
        StoreError, Write,
        rows::{Peer, Standing, TaskRow},
    },
};

use super::{Action, Broken, CallId, Core, live::Asked};

impl Core {
    /// Asks for the list of the account's devices.
    pub(super) fn list_devices(&mut self, account: u32) {
        let asked =
            |live: &super::live::Live| live.asked.values().any(|waiting| matches!(waiting.asked, Asked::Devices(None)));
        match self.live.get_mut(&account) {
            Some(live) if asked(live) => live.devices_stale = true,
            Some(_) => self.ask(account, Asked::Devices(None), Ask::ListDevices(v1::ListDevices {})),
            None => {}
        }
    }

    /// The list has come.
    pub(super) fn devices_listed(
        &mut self,
        account: u32,
        call: Option<CallId>,
        listed: v1::Devices,
    ) -> Result<(), Broken> {
        let Some(live) = self.live.get_mut(&account) else { return Ok(()) };
        let own = live.device.id();
        let former = live.devices.replace(listed.devices.clone());
        let stale = std::mem::take(&mut live.devices_stale);
        let ids = |list: &[v1::DeviceInfo]| -> BTreeSet<DeviceId> {
            list.iter().filter_map(|info| DeviceId::from_wire(&info.device).ok()).collect()
        };
        let revoked = self.store.tables().accounts.get(&account).map(|row| row.revoked.clone()).unwrap_or_default();
        let mut now = ids(&listed.devices);
        now.retain(|device| !revoked.contains(device));
        let known = self.known_devices(account, former.as_deref().map(ids));
        if let Some(call) = call {
            let view = self.view_devices(account);
            self.answer(call, view);
        }
        if known.as_ref() != Some(&now) {
            self.devices_changed(account, known.as_ref(), &now, &listed.devices, own)?;
        }
        self.answer_renamed(account);
        self.drop_ghosts(account, &now)?;
        if stale {
            self.list_devices(account);
        }
        Ok(())
    }

    /// The devices that the person has been told of: from before, or as stored.
    fn known_devices(&self, account: u32, former: Option<BTreeSet<DeviceId>>) -> Option<BTreeSet<DeviceId>> {
        let stored = self.store.tables().accounts.get(&account).map(|row| &row.devices).filter(|row| !row.is_empty());
        stored.map(|devices| devices.iter().copied().collect()).or(former)
    }

    fn devices_changed(
        &mut self,
        account: u32,
        known: Option<&BTreeSet<DeviceId>>,
        now: &BTreeSet<DeviceId>,
        listed: &[v1::DeviceInfo],
        own: uuid::Uuid,
    ) -> Result<(), Broken> {
        let Some(mut row) = self.store.tables().accounts.get(&account).cloned() else { return Ok(()) };
        row.devices = now.iter().copied().collect();
        let mut events = vec![EventKind::DevicesChanged {}];
        let full = self.full_name(account);
        let mut new = false;
        for info in listed {
            let Ok(id) = DeviceId::from_wire(&info.device) else { continue };
            if id.0 == own || known.is_none_or(|known| known.contains(&id)) {
                continue;
            }
            new = true;
            events.push(EventKind::NewDevice { device: id.to_string(), name: info.name.clone() });
            let alert = Alert::NewDevice { account: full.clone(), device_name: info.name.clone() };
            self.actions.push(Action::Alert(alert));
        }
        let mut write = Write::default();
        write.account(account, row);
        self.commit(write, account, events)?;
        if new { self.tell_all_contacts(account) } else { Ok(()) }
    }

    /// Leaves of ours whose devices are gone are taken out of the groups.
    fn drop_ghosts(&mut self, account: u32, now: &BTreeSet<DeviceId>) -> Result<(), Broken> {
        let own_name = self.own_name(account);
        let groups = self.store.tables().groups.range((account, 0)..=(account, u32::MAX));
        let groups = groups.filter(|(_, group)| group.standing == Standing::Active);
        let mut missing: Vec<(u32, Vec<DeviceId>)> = Vec::new();
        for ((_, chat), group) in groups {
            let mine = group.members.iter().filter(|member| member.name.as_str() == own_name);
            let gone: Vec<DeviceId> =
                mine.flat_map(|member| &member.devices).filter(|device| !now.contains(device)).copied().collect();
            if !gone.is_empty() {
                missing.push((*chat, gone));
            }
        }
        let Some(live) = self.live.get_mut(&account) else { return Ok(()) };
        let seen = std::mem::replace(&mut live.ghosts, missing.iter().flat_map(|(_, gone)| gone).copied().collect());
        if live.ghosts.iter().any(|ghost| !seen.contains(ghost)) {
            self.list_devices(account);
        }
        for (chat, gone) in missing {
            let sure: Vec<DeviceId> = gone.into_iter().filter(|device| seen.contains(device)).collect();
            if !sure.is_empty() {
                self.add_task(account, chat, &TaskRow::DropDevices(sure))?;
                self.pump(account, chat)?;
            }
        }
        Ok(())
    }

    /// Groups that know us under another identity than ours of now get to know it.
    pub(super) fn reidentify_in_groups(&mut self, account: u32) -> Result<(), Broken> {
        let own = self.live.get(&account).map(|live| live.fingerprint.0);
        let groups = self.store.tables().groups.range((account, 0)..=(account, u32::MAX));
        let mut stale = Vec::new();
        for ((_, chat), group) in groups.filter(|(_, group)| group.standing == Standing::Active) {
            let mine = group.members.iter().find(|member| self.is_own_name(account, &member.name));
            if mine.is_some_and(|mine| Some(mine.fingerprint) != own) {
                stale.push(*chat);
            }
        }
        stale.into_iter().try_for_each(|chat| self.add_task(account, chat, &TaskRow::Reidentify).map(drop))
    }

    pub(super) fn view_devices(&self, account: u32) -> Result<Devices, ApiError> {
        let offline = || {
            ApiError::new(ErrorCode::Unreachable, "not online: the server knows the account's devices")
                .hint("`fastchatctl status` shows the connection")
        };
        let live = self.live.get(&account).ok_or_else(offline)?;
        let listed = live.devices.as_ref().ok_or_else(offline)?;
        let view = |info: &v1::DeviceInfo| {
            let id = DeviceId::from_wire(&info.device).ok()?;
            Some(DeviceView {
                id: id.to_string(),
                name: info.name.clone(),
                added_at_ms: info.added_ms,
                seen_at_ms: info.seen_ms,
                connected: info.connected,
                current: id.0 == live.device.id(),
            })
        };
        let mut devices: Vec<DeviceView> = listed.iter().filter_map(view).collect();
        devices.sort_by_key(|device| device.added_at_ms);
        Ok(Devices { devices })
    }

    /// The account's identity is a new one, on the server as well: contacts and groups get to know it.
    pub(super) fn take_rotation(&mut self, call: CallId, rotated: &Rotated) -> Result<(), Broken> {
        let account = self
            .store
            .tables()
            .accounts
            .iter()
            .find(|(_, row)| row.name == rotated.account.account && row.server == rotated.account.server);
        let Some(account) = account.map(|(number, _)| *number) else {
            let error = ApiError::new(ErrorCode::NoAccount, "the account is gone");
            self.answer::<()>(call, Err(error));
            return Ok(());
        };
        fault::point("rotation-told");
        self.rotate(account, &rotated.identity, &rotated.device)?;
        fault::point("rotation-stored");
        let keys = self.own_keys(account);
        self.answer(call, Ok(keys));
        Ok(())
    }

    /// Puts an account's new identity in the place of the old one.
    pub(super) fn rotate(&mut self, account: u32, identity: &Identity, device: &Device) -> Result<(), Broken> {
        let encode = |error: String| {
            tracing::error!(error, "a fresh key cannot be encoded");
            StoreError::Damaged
        };
        let Some(mut row) = self.store.tables().accounts.get(&account).cloned() else { return Ok(()) };
        row.identity = identity.to_bytes().map_err(|error| encode(error.to_string()))?.to_vec();
        row.device = device.to_bytes().map_err(|error| encode(error.to_string()))?.to_vec();
        row.last_resort_at_ms = 0;
        row.rotation = Vec::new();
        let (identity, device) = (row.identity.clone(), row.device.clone());
        let mut write = Write::default();
        write.account(account, row);
        // The key packages that are out carry the old certificate: none of them is of use any more.
        self.commit(write, account, vec![EventKind::AccountChanged {}])?;
        if let Some(live) = self.live.get_mut(&account) {
            live.identity = fastchat_e2ee::Identity::from_bytes(&identity).map_err(|_| StoreError::Damaged)?;
            live.fingerprint = live.identity.public().fingerprint();
            live.device = Device::from_bytes(&device).map_err(|_| StoreError::Damaged)?;
            live.packages_left = 0;
        }
        self.publish(account)?;
        let chats: Vec<(u32, Peer)> = self.all_chats_of(account).map(|(number, row)| (number, row.peer)).collect();
        for (chat, peer) in chats {
            if peer == Peer::Group {
                self.add_task(account, chat, &TaskRow::Reidentify)?;
            } else if let Some(id) = self.open_conversation(account, chat) {
                let mut write = Write::default();
                self.drop_creation(&mut write, account, chat)?;
                self.commit(write, account, Vec::new())?;
                self.leave(account, chat, id)?;
            }
            self.pump(account, chat)?;
        }
        // Whoever verified us before has to do so again; so have we.
        let verified: Vec<u32> = self.contacts_of(account).filter(|(_, row)| row.verified).map(|(n, _)| n).collect();
        for contact in verified {
            if let Some(mut row) = self.store.tables().contacts.get(&(account, contact)).cloned() {
                row.verified = false;
                let events = vec![EventKind::ContactChanged { contact: row.name.to_string() }];
                let mut write = Write::default();
                write.contact(account, contact, Some(row));
                self.commit(write, account, events)?;
            }
        }
        Ok(())
    }
}
