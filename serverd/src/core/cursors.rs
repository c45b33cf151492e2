//! Cursors that have moved and are not in the store yet.
//!
//! **Invariant**: a move leaves this table only when the store has it, or its device is gone.

use std::collections::BTreeMap;

use fastchat_store::CursorMove;
use fastchat_wire::{ConversationId, DeviceId};

type Moves = BTreeMap<(DeviceId, ConversationId), CursorMove>;

/// Moves that wait, and moves that are being written.
#[derive(Debug, Default)]
pub(super) struct CursorMoves {
    waiting: Moves,
    writing: Moves,
    /// When the oldest of those that wait came.
    since_ms: Option<u64>,
}

impl CursorMoves {
    pub(super) fn note(&mut self, now_ms: u64, moved: CursorMove) {
        merge(&mut self.waiting, moved);
        self.since_ms.get_or_insert(now_ms);
    }

    /// The furthest position known here.
    pub(super) fn known(&self, device: DeviceId, conversation: ConversationId) -> u64 {
        let position = |moves: &Moves| moves.get(&(device, conversation)).map_or(0, |moved| moved.seq);
        position(&self.waiting).max(position(&self.writing))
    }

    /// Whether the device has taken the conversation's Joining with this start, as far as known here.
    pub(super) fn joined(&self, device: DeviceId, conversation: ConversationId, start_seq: u64) -> bool {
        let taken = |moved: &CursorMove| moved.joined && moved.seq >= start_seq;
        let joined = |moves: &Moves| moves.get(&(device, conversation)).is_some_and(taken);
        joined(&self.waiting) || joined(&self.writing)
    }

    /// When the next write is due, if nothing else brings it about earlier.
    pub(super) fn due_ms(&self, longest_wait_ms: u64) -> Option<u64> {
        if self.writing.is_empty() { self.since_ms.map(|since| since + longest_wait_ms) } else { None }
    }

    /// The moves to write now.
    pub(super) fn take(&mut self) -> Vec<CursorMove> {
        if !self.writing.is_empty() {
            return Vec::new();
        }
        self.since_ms = None;
        self.writing = std::mem::take(&mut self.waiting);
        self.writing.values().copied().collect()
    }

    /// The write has ended.
    pub(super) fn written(&mut self, now_ms: u64, saved: bool) {
        for moved in std::mem::take(&mut self.writing).into_values() {
            if !saved {
                self.note(now_ms, moved);
            }
        }
    }

    /// Whether the store has everything.
    pub(super) fn are_saved(&self) -> bool {
        self.waiting.is_empty() && self.writing.is_empty()
    }

    /// The device is gone, with all that was its own.
    pub(super) fn forget(&mut self, device: DeviceId) {
        self.waiting.retain(|(owner, _), _| *owner != device);
        self.writing.retain(|(owner, _), _| *owner != device);
    }
}

fn merge(moves: &mut Moves, moved: CursorMove) {
    let entry = moves.entry((moved.device, moved.conversation)).or_insert(moved);
    entry.seq = entry.seq.max(moved.seq);
    entry.joined |= moved.joined;
}
