//! From the store's records to frames.
//!
//! **Invariant**: a device never gets its own payload back, only the place of its entry.

use std::time::Duration;

use bytes::Bytes;
use fastchat_store::{Appended, DeviceRecord, Entry, HandshakeAppended, Joining, Kind, StoreError};
use fastchat_wire::{
    AccountName, Code, ConversationId, DeviceId,
    v1::{self, server_frame::Body},
};

/// How long a device waits when the server has too much to do.
const OVERLOAD_PAUSE: Duration = Duration::from_millis(500);
/// How long a device waits for room on the disk.
const FULL_PAUSE: Duration = Duration::from_secs(30);

/// What the server says on its own.
#[must_use]
pub fn unasked(body: Body) -> v1::ServerFrame {
    v1::ServerFrame { request: 0, body: Some(body) }
}

/// The answer to a request.
#[must_use]
pub fn answer(request: u64, body: Body) -> v1::ServerFrame {
    v1::ServerFrame { request, body: Some(body) }
}

/// A refusal with advice on when to try again.
#[must_use]
pub fn failure_after(code: Code, text: &str, pause: Duration) -> v1::Failure {
    let retry_after_ms = u32::try_from(pause.as_millis()).unwrap_or(u32::MAX);
    v1::Failure { retry_after_ms, ..v1::Failure::new(code, text) }
}

/// What a device is told of a store's error; `None` when the outcome is unknown and nothing may be said.
#[must_use]
pub fn store_failure(error: &StoreError) -> Option<v1::Failure> {
    match error {
        StoreError::StorageFull => Some(failure_after(
            Code::StorageFull,
            "the server's disk is full: its operator has to make room",
            FULL_PAUSE,
        )),
        StoreError::Overloaded => {
            Some(failure_after(Code::Overloaded, "the server has too much to do", OVERLOAD_PAUSE))
        }
        StoreError::Internal(_) => Some(failure_after(Code::Internal, "the server could not do this", OVERLOAD_PAUSE)),
        StoreError::Fatal(_) | StoreError::Closed => None,
    }
}

/// The answer to a Submit.
pub(super) fn appended(conversation: ConversationId, outcome: &Appended) -> Body {
    let failure =
        |code, text: &str| v1::Failure { conversation: conversation.to_wire(), ..v1::Failure::new(code, text) };
    Body::Failure(match outcome {
        Appended::Accepted { seqs, time_ms, .. } => {
            return Body::Accepted(v1::Accepted { seqs: seqs.clone(), server_time_ms: *time_ms });
        }
        Appended::NotFound | Appended::NotAMember => {
            failure(Code::NotAMember, "this device is not a member of the conversation")
        }
        Appended::Closed { by: Some(by) } => v1::Failure {
            conversation: by.to_wire(),
            ..v1::Failure::new(Code::ClosedConversation, "another conversation took the place of this one")
        },
        Appended::Closed { by: None } => v1::Failure::new(
            Code::ClosedConversation,
            "this conversation takes no more entries: make a direct one anew, replacing this; a deleted group is over",
        ),
        Appended::Refused => failure(Code::Refused, "the other side does not want messages from this account"),
        Appended::StaleEpoch { current } => {
            v1::Failure { epoch: *current, ..failure(Code::StaleEpoch, "the conversation is at another epoch") }
        }
        Appended::Conflict(id) => failure(Code::Conflict, &format!("message {id} is there with other content")),
        Appended::HandshakeRefused => {
            failure(Code::Invalid, "kind must be APPLICATION: commits and proposals come as a Handshake")
        }
    })
}

/// The answer to a Handshake.
pub(super) fn handshake_appended(conversation: ConversationId, kind: Kind, outcome: &HandshakeAppended) -> Body {
    let same = |outcome: Appended| appended(conversation, &outcome);
    let failure =
        |code, text: String| v1::Failure { conversation: conversation.to_wire(), ..v1::Failure::new(code, text) };
    Body::Failure(match outcome {
        HandshakeAppended::Accepted { seq, time_ms, .. } => {
            return Body::Accepted(v1::Accepted { seqs: vec![*seq], server_time_ms: *time_ms });
        }
        HandshakeAppended::NotFound | HandshakeAppended::NotAMember => return same(Appended::NotAMember),
        HandshakeAppended::Closed { by } => return same(Appended::Closed { by: *by }),
        HandshakeAppended::StaleEpoch { current } => return same(Appended::StaleEpoch { current: *current }),
        HandshakeAppended::Refused(account) => {
            failure(Code::Refused, format!("{account} has blocked this account, or is blocked: go on without it"))
        }
        HandshakeAppended::Raced if kind == Kind::Commit => failure(
            Code::ProposalsPending,
            "somebody has just proposed to leave: read the log and commit again, with that".to_owned(),
        ),
        HandshakeAppended::Raced => v1::Failure {
            conversation: conversation.to_wire(),
            ..failure_after(Code::Overloaded, "another proposal came between: send this again", OVERLOAD_PAUSE)
        },
        HandshakeAppended::Conflict => {
            failure(Code::Conflict, "this message id is there with other content: take a new one".to_owned())
        }
        HandshakeAppended::OtherLeaf(device) => failure(
            Code::RosterMismatch,
            format!("the leaf of device {device} is not what this server knows of it: claim its key package anew"),
        ),
    })
}

/// A device for its account.
pub(super) fn device_info(device: &DeviceRecord, connected: bool) -> v1::DeviceInfo {
    v1::DeviceInfo {
        device: device.device.to_wire(),
        name: device.name.clone(),
        added_ms: device.added_ms,
        seen_ms: device.seen_ms,
        connected,
        certificate: device.certificate.clone(),
    }
}

/// The account is a member, the device is not.
pub(super) fn unjoined(conversation: ConversationId) -> v1::ServerFrame {
    unasked(Body::Unjoined(v1::Unjoined { conversation: conversation.to_wire() }))
}

/// One piece of a log for one device.
pub(super) fn deliver(
    conversation: ConversationId,
    entries: &[Entry],
    expired_through: u64,
    reader: DeviceId,
) -> v1::ServerFrame {
    let entries = entries.iter().map(|entry| wire_entry(entry, reader)).collect();
    unasked(Body::Deliver(v1::Deliver { conversation: conversation.to_wire(), entries, expired_through }))
}

fn wire_entry(entry: &Entry, reader: DeviceId) -> v1::Entry {
    let kind = match entry.kind {
        Kind::Application => v1::EntryKind::Application,
        Kind::Commit => v1::EntryKind::Commit,
        Kind::Proposal => v1::EntryKind::Proposal,
    };
    v1::Entry {
        seq: entry.seq,
        message_id: entry.message_id.to_wire(),
        sender: entry.account.as_str().to_owned(),
        device: entry.device.to_wire(),
        epoch: entry.epoch,
        kind: kind.into(),
        payload: if entry.device == reader { Bytes::new() } else { entry.payload.clone() },
        server_time_ms: entry.time_ms,
    }
}

/// What counts against the window.
pub(super) fn weight(entry: &Entry, reader: DeviceId) -> usize {
    const OVERHEAD: usize = 96;
    OVERHEAD + if entry.device == reader { 0 } else { entry.payload.len() }
}

pub(super) fn delivered(conversation: ConversationId, account: &AccountName, seq: u64) -> v1::ServerFrame {
    unasked(Body::Delivered(v1::Delivered {
        conversation: conversation.to_wire(),
        account: account.as_str().to_owned(),
        seq,
    }))
}

pub(super) fn closed(conversation: ConversationId, by: Option<ConversationId>) -> v1::ServerFrame {
    let by = by.map(ConversationId::to_wire).unwrap_or_default();
    unasked(Body::Closed(v1::Closed { conversation: conversation.to_wire(), by }))
}

pub(super) fn joining(joining: &Joining, device: DeviceId) -> v1::ServerFrame {
    unasked(Body::Joining(v1::Joining {
        peer: joining.peer.as_ref().map(|peer| peer.as_str().to_owned()).unwrap_or_default(),
        conversation: joining.membership.conversation.to_wire(),
        creator: joining.creator.as_str().to_owned(),
        creator_identity_key: joining.creator_identity_key.clone(),
        welcome: Some(v1::Welcome {
            device: device.to_wire(),
            welcome: joining.welcome.clone(),
            join_key: joining.join_key.clone(),
        }),
        start_seq: joining.start_seq,
        replaces: joining.replaces.map(ConversationId::to_wire).unwrap_or_default(),
        server_time_ms: joining.time_ms,
        ratchet_tree: joining.ratchet_tree.clone(),
        group: joining.group,
    }))
}
