//! Groups, and whatever becomes of a conversation by commits: tasks, handshake messages, what the log says of them.
//!
//! What somebody wants is a **task**, durable until its goal holds. Commits are disposable: one that loses its epoch to
//! another is made anew, until the task's goal holds or cannot be reached.
//!
//! **Invariant**: a commit of ours is merged only when it stands in the log; nothing is sent while one is under way.

mod apply;
mod handshake;
mod rejoin;
mod tasks;
mod view;

pub(super) use apply::authenticator;

use fastchat_e2ee::{Fingerprint, Roster};
use fastchat_wire::{AccountName, DeviceId};

use crate::store::{
    StoreError,
    rows::{GroupRow, MemberRow, Standing},
};

use super::{Broken, Core, view::fingerprint_of};

impl Core {
    /// A group as its roster has it.
    pub(super) fn group_of(
        &self,
        account: u32,
        chat: u32,
        roster: &Roster,
        authenticator: Vec<u8>,
        standing: Standing,
    ) -> Result<GroupRow, Broken> {
        let profile = roster.profile.clone().ok_or(StoreError::Damaged)?;
        let mut members: Vec<MemberRow> = Vec::new();
        for leaf in &roster.leaves {
            let (Ok(name), Some(Fingerprint(fingerprint))) =
                (leaf.account.parse::<AccountName>(), fingerprint_of(Some(&leaf.identity)))
            else {
                continue;
            };
            let device = DeviceId(leaf.device);
            match members.iter_mut().find(|member| member.name == name) {
                Some(member) => member.devices.push(device),
                None => members.push(MemberRow {
                    admin: profile.admins.contains(&leaf.account),
                    leaving: roster.leaving.contains(&leaf.account),
                    name,
                    devices: vec![device],
                    fingerprint,
                }),
            }
        }
        members.sort_by(|a, b| a.name.cmp(&b.name));
        let known = self.group_row(account, chat);
        Ok(GroupRow {
            name: profile.name,
            topic: profile.topic,
            standing,
            members,
            created_at_ms: known.map_or(self.now, |known| known.created_at_ms),
            epoch: roster.epoch,
            authenticator,
            refused: false,
        })
    }
}
