//! The account's devices, as the API has them.
//!
//! **Invariant**: a device that was revoked is told to the server before the call is answered.

use fastchat_ipc::{ApiError, Device, Empty, ErrorCode, Request};
use fastchat_wire::{DeviceId, v1};
use v1::client_frame::Body as Ask;

use crate::store::{
    Write,
    rows::{Peer, TaskRow},
};

use super::super::{
    Broken, CallId, Core,
    live::{Asked, Live},
};

const LONGEST_NAME: usize = 64;

impl Core {
    /// Calls about devices.
    pub(in crate::core) fn take_device_call(&mut self, call: CallId, request: Request) -> Result<(), Broken> {
        match request {
            Request::ListDevices(params) => match self.online_account(&params.account) {
                Ok(account) => self.ask(account, Asked::Devices(Some(call)), Ask::ListDevices(v1::ListDevices {})),
                Err(error) => self.answer::<()>(call, Err(error)),
            },
            Request::RenameDevice(params) => {
                match self.device_to_name(&params.account, &params.device, params.name.trim()) {
                    Ok((account, device)) => {
                        let body = v1::RenameDevice { device: device.to_wire(), name: params.name.trim().to_owned() };
                        self.ask(account, Asked::RenameDevice(call, device), Ask::RenameDevice(body));
                    }
                    Err(error) => self.answer::<()>(call, Err(error)),
                }
            }
            Request::RevokeDevice(params) => match self.device_to_revoke(&params.account, &params.device) {
                Ok((account, device)) => {
                    let body = v1::RevokeDevice { device: device.to_wire() };
                    self.ask(account, Asked::RevokeDevice(call, device), Ask::RevokeDevice(body));
                }
                Err(error) => self.answer::<()>(call, Err(error)),
            },
            other => {
                let error = ApiError::new(ErrorCode::Internal, format!("{} is served by nobody", other.name()));
                self.answer::<()>(call, Err(error));
            }
        }
        Ok(())
    }

    fn online_account(&self, account: &str) -> Result<u32, ApiError> {
        let account = self.account_number(account)?;
        if self.live.get(&account).is_some_and(Live::is_up) {
            return Ok(account);
        }
        Err(ApiError::new(ErrorCode::Unreachable, "not online: the server knows the account's devices")
            .hint("`fastchatctl status` shows the connection; try again when online"))
    }

    /// The device that a call names: by its id, or by its name if only one has it.
    fn device_named(&self, account: u32, text: &str) -> Result<DeviceId, ApiError> {
        let devices = self.view_devices(account)?.devices;
        let named: Vec<&Device> = match devices.iter().find(|device| device.id == text) {
            Some(device) => vec![device],
            None => devices.iter().filter(|device| device.name == text).collect(),
        };
        let hint = "`fastchatctl device list` shows all with their ids";
        match named.as_slice() {
            [one] => one.id.parse().map_err(|_| ApiError::new(ErrorCode::Internal, "a device without an id")),
            [] => Err(ApiError::new(ErrorCode::NotFound, format!("there is no device `{}`", text.escape_default()))
                .hint(hint)),
            _ => Err(ApiError::new(
                ErrorCode::InvalidParams,
                format!("several devices are called `{}`", text.escape_default()),
            )
            .hint(hint)),
        }
    }

    fn device_to_name(&self, account: &str, device: &str, name: &str) -> Result<(u32, DeviceId), ApiError> {
        let account = self.online_account(account)?;
        if name.is_empty() || name.len() > LONGEST_NAME || name.chars().any(char::is_control) {
            let text = format!("a device's name has 1 to {LONGEST_NAME} bytes and no control characters");
            return Err(ApiError::new(ErrorCode::InvalidParams, text));
        }
        Ok((account, self.device_named(account, device)?))
    }

    fn device_to_revoke(&self, account: &str, device: &str) -> Result<(u32, DeviceId), ApiError> {
        let account = self.online_account(account)?;
        let device = self.device_named(account, device)?;
        if self.live.get(&account).is_some_and(|live| live.device.id() == device.0) {
            return Err(ApiError::new(ErrorCode::InvalidParams, "that is this device")
                .hint("`fastchatctl logout` ends this device's session"));
        }
        Ok((account, device))
    }

    pub(in crate::core) fn device_renamed(
        &mut self,
        account: u32,
        call: CallId,
        device: DeviceId,
    ) -> Result<(), Broken> {
        self.waits.renamed.push((call, account, device));
        self.ask(account, Asked::Devices(None), Ask::ListDevices(v1::ListDevices {}));
        Ok(())
    }

    /// Answers renames now that the list shows them.
    pub(in crate::core) fn answer_renamed(&mut self, account: u32) {
        let (answered, others) =
            std::mem::take(&mut self.waits.renamed).into_iter().partition(|(_, waiting, _)| *waiting == account);
        self.waits.renamed = others;
        let answered: Vec<(CallId, u32, DeviceId)> = answered;
        for (call, account, device) in answered {
            let id = device.to_string();
            let view = self.view_devices(account).and_then(|devices| {
                let found = devices.devices.into_iter().find(|device| device.id == id);
                found.ok_or_else(|| ApiError::new(ErrorCode::NotFound, "the device is gone"))
            });
            self.answer(call, view);
        }
    }

    /// The server has given the grant that another device shall log in with.
    pub(in crate::core) fn granted(&mut self, call: CallId, grant: &v1::LinkGrant) {
        self.answer(call, Ok(serde_json::json!({ "grant": grant.grant.to_vec() })));
    }

    /// A device is revoked: from here on it is none of ours, whatever the server goes on to say of it.
    pub(in crate::core) fn device_revoked(
        &mut self,
        account: u32,
        call: CallId,
        device: DeviceId,
    ) -> Result<(), Broken> {
        if let Some(mut row) = self.store.tables().accounts.get(&account).cloned()
            && !row.revoked.contains(&device)
        {
            row.revoked.push(device);
            let mut write = Write::default();
            write.account(account, row);
            self.commit(write, account, Vec::new())?;
        }
        self.answer(call, Ok(Empty {}));
        let chats: Vec<(u32, Peer)> = self.all_chats_of(account).map(|(number, row)| (number, row.peer)).collect();
        for (chat, peer) in chats {
            if peer == Peer::Group {
                self.add_task(account, chat, &TaskRow::DropDevices(vec![device]))?;
            } else if let Some(id) = self.open_conversation(account, chat) {
                self.leave(account, chat, id)?;
            }
            self.pump(account, chat)?;
        }
        self.list_devices(account);
        Ok(())
    }
}
